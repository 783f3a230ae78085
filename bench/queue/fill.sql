-- Puts :rows runs of the first user into the state :state as submit_run and the workers would have left them; by the owner
-- of the tables, because a million submits take too long. The frozen configuration is that of a real run.
set session_replication_role = replica;
with made as (
    insert into pgtrain.training_runs (owner_id, name, status, end_reason, config, config_hash, data_hash, data_bytes, planned_steps,
        planned_tokens, parameters, max_attempts, attempt, started_at, ended_at)
    select r.owner_id, 'run', :'state', case when :'state' = 'succeeded' then 'completed' end::pgtrain.end_reason, r.config, r.config_hash,
           r.data_hash, r.data_bytes, r.planned_steps, r.planned_tokens, r.parameters, r.max_attempts, case when :'state' = 'succeeded' then 1 else 0 end, case when :'state' = 'succeeded' then now() end,
           case when :'state' = 'succeeded' then now() end
      from bench.model_run r, generate_series(1, :rows)
    returning id, owner_id, status)
insert into pgtrain_private.run_queue (run_id, owner_id, rank, memory_bytes)
select id, owner_id, 0, 0 from made where status = 'queued' order by id;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at, ended_at, end_reason)
select id, 1, owner_id, 1, 0, now(), now(), 'completed' from pgtrain.training_runs where :'state' = 'succeeded' and status = 'succeeded'
on conflict do nothing;
reset session_replication_role;
select pgtrain_private.wake_for_run(owner_id, 0::smallint, true) from bench.model_run;
