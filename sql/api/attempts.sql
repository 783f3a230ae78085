-- Attempts: what workers do to runs. Each change of a run's state is one function that asserts where it comes from, and each begins
-- by fence_attempt, the one place where a write of a lost or old attempt is refused. Callers: src/pg/worker, nobody else.
-- Whose turn it is to be claimed is in src/pg/worker/queue.cpp, because the fair order between users lives in shared memory; claim and
-- finish themselves are in src/pg/worker/transitions.cpp, because the two bound the queue's rate.

create or replace function pgtrain_private.add_event(run_id bigint, owner_id bigint, status text, data jsonb) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    insert into pgtrain.training_statuses (training_run_id, owner_id, status, data)
    values (add_event.run_id, add_event.owner_id, add_event.status, add_event.data);
    -- Notification queues all commits of a database behind one another, so what happens most is told only by the tables.
    if status <> 'queued' then
        perform pg_notify('pgtrain_runs', add_event.run_id || '/' || add_event.status);
    end if;
end $$;
comment on function pgtrain_private.add_event(bigint, bigint, text, jsonb) is 'Records what happened to a run and tells listeners of pgtrain_runs (payload: RUN/STATUS)';

create or replace function pgtrain_private.claim_run(device_id bigint, worker_pid integer, out run_id bigint, out attempt integer)
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_claim_run';
comment on function pgtrain_private.claim_run(bigint, integer) is 'Claims the next run in the fair order for a device (null: any memory) and a process; null when there is none';

create or replace function pgtrain_private.lease_ended(owner_id bigint, seconds double precision) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_lease_ended';
comment on function pgtrain_private.lease_ended(bigint, double precision) is 'At commit: the owner runs one run less and has used that much device time';

create or replace function pgtrain_private.concurrency_limit(owner_id bigint) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return coalesce((select l.limit_value from pgtrain.user_usage_limits l
                      where l.user_id = concurrency_limit.owner_id and l.resource_type = 'concurrent_runs'),
                    (select pl.limit_value from pgtrain.user_subscriptions s join pgtrain.plan_limits pl on pl.plan_id = s.plan_id
                      where s.user_id = concurrency_limit.owner_id and s.status in ('active', 'trialing', 'past_due')
                        and pl.resource_type = 'concurrent_runs'), 0);
end $$;
comment on function pgtrain_private.concurrency_limit(bigint) is 'Runs that a user may have running at once, -1 = unlimited';

create or replace function pgtrain_private.fence_attempt(run_id bigint, attempt integer) returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    owner bigint;
begin
    select a.owner_id into owner from pgtrain.run_attempts a
     where a.run_id = fence_attempt.run_id and a.attempt = fence_attempt.attempt and a.ended_at is null for no key update;
    if not found then
        raise exception using errcode = 'PT409', message = format('attempt %s of run %s has lost its lease', fence_attempt.attempt, fence_attempt.run_id),
            detail = 'The run was given up, claimed again or deleted meanwhile; nothing of this attempt is written any more.';
    end if;
    return owner;
end $$;
comment on function pgtrain_private.fence_attempt(bigint, integer) is 'Locks the lease of an attempt and returns the owner of the run; refuses an attempt that has no lease any more';

create or replace function pgtrain_private.end_attempt(run_id bigint, attempt integer, reason pgtrain.end_reason, exit_status text, message text)
    returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    owner bigint := pgtrain_private.fence_attempt(end_attempt.run_id, end_attempt.attempt);
    taken double precision;
begin
    update pgtrain.run_attempts a
       set ended_at = clock_timestamp(), end_reason = reason, exit_status = end_attempt.exit_status, message = left(end_attempt.message, 4000)
     where a.run_id = end_attempt.run_id and a.attempt = end_attempt.attempt
    returning extract(epoch from a.ended_at - a.started_at) into taken;
    perform pgtrain_private.lease_ended(owner, taken);
    return owner;
end $$;
comment on function pgtrain_private.end_attempt(bigint, integer, pgtrain.end_reason, text, text) is 'Ends an attempt and its lease; part of every transition out of running';

create or replace function pgtrain_private.settle_run(run_id bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
begin
    -- A run that has made a step counts as a job; tokens are charged as trained; the rest of both holds is given back.
    if exists (select from pgtrain.usage_entries e where e.run_id = settle_run.run_id) then
        select * into run from pgtrain.training_runs r where r.id = settle_run.run_id;
        -- Tokens, because they never fall: an attempt that begins anew is at step 0, and a charge of an earlier period is not given back.
        perform pgtrain_private.settle_usage(run.id, 'training_jobs', case when run.step > 0 or run.tokens > 0 then 1 else 0 end);
        perform pgtrain_private.settle_usage(run.id, 'training_tokens', run.tokens);
        perform pgtrain_private.settle_usage(run.id, 'gpu_seconds', s.seconds) from pgtrain_private.gpu_seconds_of(run.id) s (seconds) where s.seconds is not null;
    end if;
end $$;
comment on function pgtrain_private.settle_run(bigint) is 'Charges what a run has used and gives back the rest of its holds';

-- queued or paused -> cancelled or failed: the run was never with a worker, or is not any more.
create or replace function pgtrain_private.end_waiting_run(run_id bigint, reason pgtrain.end_reason, message text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    ended record;
begin
    update pgtrain.training_runs r
       set status = case when reason = 'cancelled_by_user' then 'cancelled' else 'failed' end::pgtrain.run_status,
           end_reason = reason, error_message = end_waiting_run.message, available_at = null, ended_at = clock_timestamp()
     where r.id = end_waiting_run.run_id and r.status in ('queued', 'paused')
    returning r.owner_id, r.status::text as status into ended;
    if not found then
        perform pgtrain_private.refuse_state(end_waiting_run.run_id, 'ended while waiting');
    end if;
    delete from pgtrain_private.run_queue q where q.run_id = end_waiting_run.run_id;
    delete from pgtrain_private.limited_runs l where l.run_id = end_waiting_run.run_id;
    perform pgtrain_private.settle_run(end_waiting_run.run_id);
    perform pgtrain_private.add_event(end_waiting_run.run_id, ended.owner_id, ended.status, jsonb_build_object('end_reason', reason));
end $$;
comment on function pgtrain_private.end_waiting_run(bigint, pgtrain.end_reason, text) is 'queued or paused -> cancelled (by its user) or failed';

-- running -> succeeded, failed or cancelled.
create or replace function pgtrain_private.finish_run(run_id bigint, attempt integer, status pgtrain.run_status,
    reason pgtrain.end_reason default 'completed', message text default null, detail text default null, hint text default null,
    exit_status text default null) returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_finish_run';
comment on function pgtrain_private.finish_run(bigint, integer, pgtrain.run_status, pgtrain.end_reason, text, text, text, text) is
    'running -> succeeded, failed or cancelled: ends the attempt, settles usage, tells listeners';

-- running -> paused, or cancelled.
create or replace function pgtrain_private.park_run(run_id bigint, attempt integer, reason pgtrain.end_reason default 'paused_by_user') returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    owner bigint := pgtrain_private.fence_attempt(park_run.run_id, park_run.attempt);
    -- What the user asked for meanwhile: such a run does not go on by itself.
    told pgtrain.end_reason := case when exists (select from pgtrain.run_attempts a where a.run_id = park_run.run_id and a.attempt = park_run.attempt
                                                    and a.requested = 'pause') then 'paused_by_user' else park_run.reason end;
    about jsonb;
begin
    -- Asked for while the trainer wrote its last checkpoint: a cancel is never weakened to a pause.
    if exists (select from pgtrain.run_attempts a where a.run_id = park_run.run_id and a.attempt = park_run.attempt and a.requested = 'cancel') then
        perform pgtrain_private.finish_run(park_run.run_id, park_run.attempt, 'cancelled', 'cancelled_by_user');
        return;
    end if;
    perform pgtrain_private.end_attempt(park_run.run_id, park_run.attempt, told, null, null);
    update pgtrain.training_runs r set status = 'paused', end_reason = told, failed_attempts = r.failed_attempts - 1
     where r.id = park_run.run_id and r.status = 'running' and r.attempt = park_run.attempt;
    if not found then
        perform pgtrain_private.refuse_state(park_run.run_id, 'paused');
    end if;
    if told = 'limit_reached' then
        about := pgtrain_private.limit_run(park_run.run_id);
    end if;
    perform pgtrain_private.add_event(park_run.run_id, owner, 'paused', about);
end $$;
comment on function pgtrain_private.park_run(bigint, integer, pgtrain.end_reason) is 'running -> paused, after the last checkpoint was stored; or cancelled, when that was asked for meanwhile';

-- running -> queued, or failed when the attempts are used up.
create or replace function pgtrain_private.requeue_run(run_id bigint, attempt integer, reason pgtrain.end_reason, counts boolean,
    exit_status text default null, message text default null, detail text default null, hint text default null) returns pgtrain.run_status
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
    wait_ms double precision;
    due timestamptz;
begin
    perform pgtrain_private.fence_attempt(requeue_run.run_id, requeue_run.attempt);
    select * into run from pgtrain.training_runs r where r.id = requeue_run.run_id and r.status = 'running' and r.attempt = requeue_run.attempt for no key update;
    if not found then
        perform pgtrain_private.refuse_state(requeue_run.run_id, 'queued again');
    end if;
    if exists (select from pgtrain.run_attempts a where a.run_id = run.id and a.attempt = requeue_run.attempt and a.requested = 'cancel') then
        perform pgtrain_private.finish_run(run.id, requeue_run.attempt, 'cancelled', 'cancelled_by_user', null, null, null, requeue_run.exit_status);
        return 'cancelled';
    end if;
    if counts and run.failed_attempts >= run.max_attempts then
        perform pgtrain_private.finish_run(run.id, requeue_run.attempt, 'failed', reason,
            coalesce(message, reason::text), coalesce(requeue_run.detail || ' ', '') || format('It was attempt %s of at most %s.', run.failed_attempts, run.max_attempts),
            requeue_run.hint, requeue_run.exit_status);
        return 'failed';
    end if;
    if exists (select from pgtrain.run_attempts a where a.run_id = run.id and a.attempt = requeue_run.attempt and a.requested = 'pause') then
        perform pgtrain_private.park_run(run.id, requeue_run.attempt);
        return 'paused';
    end if;
    perform pgtrain_private.end_attempt(run.id, requeue_run.attempt, reason, requeue_run.exit_status, requeue_run.message);
    if counts then
        -- Doubles from the first delay to the cap; the jitter keeps runs that failed together from coming back together.
        due := clock_timestamp() + least(current_setting('pgtrain.retry_delay_max')::interval,
            current_setting('pgtrain.retry_delay')::interval * 2 ^ least(run.failed_attempts - 1, 20)) * (0.75 + 0.5 * random());
    end if;
    update pgtrain.training_runs r
       set status = 'queued', available_at = due, failed_attempts = r.failed_attempts - (not counts)::integer,
           error_message = requeue_run.message, error_detail = requeue_run.detail, error_hint = requeue_run.hint
     where r.id = run.id;
    update pgtrain.training_tasks t set status = 'failed', completed_at = clock_timestamp()
     where t.training_run_id = run.id and t.status = 'started';
    perform pgtrain_private.enqueue_run(run.id, due);
    perform pgtrain_private.add_event(run.id, run.owner_id, 'queued_again', jsonb_build_object('reason', reason, 'not_before', due));
    return 'queued';
end $$;
comment on function pgtrain_private.requeue_run(bigint, integer, pgtrain.end_reason, boolean, text, text, text, text) is
    'running -> queued (with backoff when the attempt counts as failed), or to what was asked for meanwhile, or failed when the attempts are used up';

-- A run gives way to a more important one of the same user that has no device to run on. Asked only where the shares say that this
-- user is the next to be served, or another's run would take the place. Of several that run, the least important ones give way, as
-- many as wait: each sees the same order, so no two step aside for one.
create or replace function pgtrain_private.must_give_way(run_id bigint, attempt integer) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    mine record;
    running bigint;
    allowed bigint;
    waiting bigint;
    less_important bigint;
begin
    select r.owner_id, -r.priority as rank, a.device_id, v.memory_bytes into mine
      from pgtrain.run_attempts a join pgtrain.training_runs r on r.id = a.run_id left join pgtrain.devices v on v.id = a.device_id
     where a.run_id = must_give_way.run_id and a.attempt = must_give_way.attempt and a.ended_at is null;
    if not found then
        return false;
    end if;
    select count(*) into waiting from pgtrain_private.run_queue q
     where q.owner_id = mine.owner_id and q.available_at is null and q.rank < mine.rank
       and (mine.memory_bytes is null or q.memory_bytes <= mine.memory_bytes);
    if waiting = 0 then
        return false;
    end if;
    select count(*) into running from pgtrain.run_attempts a where a.owner_id = mine.owner_id and a.ended_at is null;
    allowed := pgtrain_private.concurrency_limit(mine.owner_id);
    -- Where a device is free that they may use, they do not wait for this one. Of this database's runs the leases tell, in one snapshot with
    -- the queue: a worker that cleans up after a run that gave way has no lease any more, so its device counts as free and no second run
    -- gives way for the same one. Of other databases shared memory tells.
    if (allowed < 0 or running < allowed)
       and exists (select from pgtrain.devices d
                    where d.status <> 'gone'
                      and not exists (select from pgtrain.run_attempts a where a.device_id = d.id and a.ended_at is null)
                      and not exists (select from pgtrain_private.worker_states() w
                                       where w.device = d.instance_id and w.run_id is not null
                                         and w.database_id <> (select b.oid from pg_database b where b.datname = current_database()))
                      and exists (select from pgtrain_private.run_queue q
                                   where q.owner_id = mine.owner_id and q.available_at is null and q.rank < mine.rank and q.memory_bytes <= d.memory_bytes)) then
        return false;
    end if;
    select count(*) into less_important
      from pgtrain.run_attempts a join pgtrain.training_runs r on r.id = a.run_id
     where a.owner_id = mine.owner_id and a.ended_at is null and (-r.priority, r.id) > (mine.rank, must_give_way.run_id);
    return less_important < waiting;
end $$;
comment on function pgtrain_private.must_give_way(bigint, integer) is 'Whether a running run is to leave its device to a more important one of the same user';

-- ---------------------------------------------------------------- what a running attempt writes

create or replace function pgtrain_private.load_job(run_id bigint, attempt integer, thread_count integer, device_id bigint, out config jsonb, out data_bytes bigint,
    out threads integer, out checkpoint_file bigint, out checkpoint_step bigint, out owner_id bigint, out name text, out is_limited boolean, out rank integer)
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
    perform pgtrain_private.fence_attempt(run_id, attempt);
    select c.file_id, c.step into checkpoint_file, checkpoint_step from pgtrain.checkpoints c
     where c.run_id = load_job.run_id order by c.step desc limit 1;
    -- Equal bytes need equal threads, so the first attempt decides for all.
    update pgtrain.training_runs r set threads = coalesce(r.threads, thread_count)
     where r.id = run_id and r.status = 'running'
    returning r.config, r.data_bytes, r.threads, r.owner_id, r.name, -r.priority into config, data_bytes, threads, owner_id, name, rank;
    update pgtrain.devices d set status = 'running' where d.id = device_id;
    perform pgtrain_private.add_event(run_id, owner_id, 'running', jsonb_build_object('attempt', attempt));
    update pgtrain.run_attempts a
       set resumed_from_step = checkpoint_step, device_name = d.name, device_kind = d.kind,
           -- The account may have been closed while the run was claimed.
           requested = case when exists (select from pgtrain.users u where u.id = a.owner_id and not u.is_active) then 'cancel' else a.requested end
      from (select 1) one left join pgtrain.devices d on d.id = load_job.device_id
     where a.run_id = load_job.run_id and a.attempt = load_job.attempt;
    is_limited := exists (select from pgtrain.devices d where d.id = load_job.device_id and d.kind = 'cuda')
                  and not pgtrain_private.hold_gpu_slice(run_id, owner_id);
    if checkpoint_step is not null then
        perform pgtrain_private.add_event(run_id, owner_id, 'continued', jsonb_build_object('from_step', checkpoint_step));
    end if;
end $$;
comment on function pgtrain_private.load_job(bigint, integer, integer, bigint) is 'What a worker needs to start an attempt: configuration, threads, the checkpoint to continue from';

create or replace function pgtrain_private.record_attempt(run_id bigint, attempt integer, lease_ms integer, progress jsonb, metrics jsonb,
    tasks jsonb, samples jsonb, events jsonb, evaluations jsonb) returns pgtrain_private.stop_request
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    owner bigint := pgtrain_private.fence_attempt(run_id, attempt);
    asked pgtrain_private.stop_request;
    had_step boolean;
    item record;
begin
    update pgtrain.run_attempts a set expires_at = clock_timestamp() + lease_ms * interval '1 ms'
     where a.run_id = record_attempt.run_id and a.attempt = record_attempt.attempt
    returning a.requested into asked;
    if metrics is not null then
        insert into pgtrain.run_metrics as m (run_id, attempt, step, owner_id, loss, learning_rate, gradient_norm, tokens, tokens_per_second, held_out_loss,
                                              accuracy, held_out_accuracy, extra)
        select run_id, attempt, x.step, owner, max(x.loss), max(x.learning_rate), max(x.gradient_norm), max(x.tokens), max(x.tokens_per_second),
               max(x.held_out_loss), max(x.accuracy), max(x.held_out_accuracy),
               (select jsonb_object_agg(e.key, e.value) from jsonb_array_elements(jsonb_agg(x.extra) filter (where x.extra is not null)) part,
                       jsonb_each(part) e)
          from jsonb_to_recordset(metrics) x (step bigint, loss float8, learning_rate float8, gradient_norm float8, tokens bigint,
                                              tokens_per_second float8, held_out_loss float8, accuracy float8,
                                              held_out_accuracy float8, extra jsonb)
         group by x.step
        on conflict on constraint run_metrics_pkey do update
           set loss = coalesce(excluded.loss, m.loss), learning_rate = coalesce(excluded.learning_rate, m.learning_rate),
               gradient_norm = coalesce(excluded.gradient_norm, m.gradient_norm), tokens = coalesce(excluded.tokens, m.tokens),
               tokens_per_second = coalesce(excluded.tokens_per_second, m.tokens_per_second),
               held_out_loss = coalesce(excluded.held_out_loss, m.held_out_loss), accuracy = coalesce(excluded.accuracy, m.accuracy),
               held_out_accuracy = coalesce(excluded.held_out_accuracy, m.held_out_accuracy),
               extra = case when excluded.extra is null then m.extra else coalesce(m.extra, '{}') || excluded.extra end;
    end if;
    if evaluations is not null then
        update pgtrain.training_runs r
           set loss_before = coalesce((evaluations #>> '{before,loss}')::float8, r.loss_before),
               loss_after = coalesce((evaluations #>> '{after,loss}')::float8, r.loss_after),
               metrics_before = coalesce(nullif(evaluations->'before', 'null'), r.metrics_before),
               metrics_after = coalesce(nullif(evaluations->'after', 'null'), r.metrics_after)
         where r.id = run_id;
    end if;
    if progress is not null then
        select r.step > 0 into had_step from pgtrain.training_runs r where r.id = run_id;
        update pgtrain.training_runs r
           set step = (progress->>'step')::bigint, loss = (progress->>'loss')::float8, learning_rate = (progress->>'learning_rate')::float8,
               -- What a killed attempt had trained beyond its checkpoint is trained again, but charged once.
               tokens = greatest(r.tokens, (progress->>'tokens')::bigint), tokens_per_second = (progress->>'tokens_per_second')::float8,
               peak_bytes = greatest(r.peak_bytes, (progress->>'peak_bytes')::bigint), progressed_at = clock_timestamp(),
               seconds = r.seconds + (progress->>'seconds_more')::float8
         where r.id = run_id;
        if not had_step and (progress->>'step')::bigint > 0 then
            perform pgtrain_private.settle_usage(run_id, 'training_jobs', 1);
        end if;
    end if;
    for item in select * from jsonb_to_recordset(tasks) x (message_id text, task text, state text) loop
        if item.state = 'started' then
            insert into pgtrain.training_tasks (training_run_id, owner_id, task, message_id)
            values (run_id, owner, item.task, item.message_id) on conflict on constraint training_tasks_training_run_id_message_id_key do nothing;
        else
            update pgtrain.training_tasks t
               set status = case item.state when 'finished' then 'completed' else 'failed' end::pgtrain.task_status, completed_at = clock_timestamp()
             where t.training_run_id = run_id and t.task = item.task and t.status = 'started';
        end if;
    end loop;
    if samples is not null then
        insert into pgtrain.run_samples (run_id, attempt, owner_id, step, prompt, content)
        select run_id, attempt, owner, x.step, x.prompt, x.content from jsonb_to_recordset(samples) x (step bigint, prompt text, content text);
    end if;
    for item in select * from jsonb_to_recordset(events) x (status text, data jsonb) loop
        perform pgtrain_private.add_event(run_id, owner, item.status, item.data);
    end loop;
    -- Last, because it may lock counters.
    if asked = 'none' and pgtrain_private.is_run_limited(run_id, owner) then
        asked := 'limit';
    end if;
    return asked;
end $$;
comment on function pgtrain_private.record_attempt(bigint, integer, integer, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb) is
    'One batch of what a trainer told: renews the lease, writes progress and returns what the attempt is asked to do';

create or replace function pgtrain_private.add_stored_file(run_id bigint, attempt integer, file_id bigint, storage pgtrain_private.storage_kind,
                                                           bytes bigint, sha256 text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    insert into pgtrain_private.stored_files (id, run_id, owner_id, storage, bytes, sha256) overriding system value
    values (file_id, add_stored_file.run_id, pgtrain_private.fence_attempt(add_stored_file.run_id, add_stored_file.attempt), add_stored_file.storage,
            add_stored_file.bytes, decode(add_stored_file.sha256, 'hex'));
    update pgtrain_private.stored_files f set counted_bytes = f.bytes where f.id = add_stored_file.file_id;
end $$;
comment on function pgtrain_private.add_stored_file(bigint, integer, bigint, pgtrain_private.storage_kind, bigint, text) is 'Row of a file whose bytes the worker has verified; chunks follow in the same transaction';

create or replace function pgtrain_private.remove_checkpoints(ids bigint[]) returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    on_disk bigint[];
begin
    with gone as (
        delete from pgtrain_private.stored_files f using pgtrain.checkpoints c where c.id = any (ids) and f.id = c.file_id
        returning f.id, f.storage)
    select array_agg(g.id) into on_disk from gone g where g.storage = 'file';
    return coalesce(on_disk, '{}');
end $$;
comment on function pgtrain_private.remove_checkpoints(bigint[]) is 'Removes checkpoints with their stored files; returns those of them that are on disk';

-- They are large: the latest is all that is needed to continue. More are kept where the configuration says so; the best of them is the
-- one at whose step the held-out loss was lowest.
create or replace function pgtrain_private.needless_checkpoints(run_id bigint) returns bigint[]
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    config jsonb;
    best bigint;
begin
    select r.config into config from pgtrain.training_runs r where r.id = needless_checkpoints.run_id;
    if config->>'keep_best' = 'true' then
        select c.id into best from pgtrain.checkpoints c join pgtrain.run_metrics m on m.run_id = c.run_id and m.step = c.step and m.attempt = c.attempt
         where c.run_id = needless_checkpoints.run_id and m.held_out_loss is not null order by m.held_out_loss, c.step limit 1;
    end if;
    return array(select c.id from (select x.id, row_number() over (order by x.step desc) as place from pgtrain.checkpoints x
                                    where x.run_id = needless_checkpoints.run_id) c
                  where c.place > coalesce((config->>'keep_checkpoints')::bigint, 1) and c.id is distinct from best);
end $$;
comment on function pgtrain_private.needless_checkpoints(bigint) is 'Checkpoints of a run that its configuration does not ask to keep';

create or replace function pgtrain_private.add_checkpoint(run_id bigint, attempt integer, step bigint, file_id bigint, bytes bigint, sha256 text)
    returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    owner bigint := pgtrain_private.fence_attempt(add_checkpoint.run_id, add_checkpoint.attempt);
    replaced bigint[];
begin
    -- What an attempt writes takes the place of what an earlier one wrote at this step or beyond: it continues from here.
    replaced := pgtrain_private.remove_checkpoints(array(select c.id from pgtrain.checkpoints c
                                                          where c.run_id = add_checkpoint.run_id and c.step >= add_checkpoint.step));
    insert into pgtrain.checkpoints (run_id, attempt, owner_id, step, file_id, bytes, sha256)
    values (add_checkpoint.run_id, add_checkpoint.attempt, owner, add_checkpoint.step, add_checkpoint.file_id, add_checkpoint.bytes, add_checkpoint.sha256);
    replaced := replaced || pgtrain_private.remove_checkpoints(pgtrain_private.needless_checkpoints(add_checkpoint.run_id));
    perform pgtrain_private.charge_run(add_checkpoint.run_id);
    perform pgtrain_private.add_event(add_checkpoint.run_id, owner, 'checkpoint', jsonb_build_object('step', add_checkpoint.step, 'bytes', add_checkpoint.bytes));
    return replaced;
end $$;
comment on function pgtrain_private.add_checkpoint(bigint, integer, bigint, bigint, bigint, text) is 'Makes a stored file the latest checkpoint of its run and removes those that are not kept; returns the files on disk that are not needed any more';

create or replace function pgtrain_private.give_checkpoint_up(run_id bigint, attempt integer, file_id bigint, problem text) returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    owner bigint := pgtrain_private.fence_attempt(give_checkpoint_up.run_id, give_checkpoint_up.attempt);
    earlier record;
begin
    delete from pgtrain_private.stored_files f using pgtrain.checkpoints c
     where c.run_id = give_checkpoint_up.run_id and c.file_id = give_checkpoint_up.file_id and f.id = c.file_id;
    select c.file_id, c.step into earlier from pgtrain.checkpoints c where c.run_id = give_checkpoint_up.run_id order by c.step desc limit 1;
    update pgtrain.run_attempts a set resumed_from_step = earlier.step
     where a.run_id = give_checkpoint_up.run_id and a.attempt = give_checkpoint_up.attempt;
    perform pgtrain_private.add_event(give_checkpoint_up.run_id, owner, 'checkpoint_lost',
                                      jsonb_build_object('problem', problem) || jsonb_strip_nulls(jsonb_build_object('from_step', earlier.step)));
    return earlier.file_id;
end $$;
comment on function pgtrain_private.give_checkpoint_up(bigint, integer, bigint, text) is 'Removes a checkpoint whose bytes are gone or changed; returns the file of the one before it, null when the attempt begins at the first step';

create or replace function pgtrain_private.with_perplexity(measured jsonb, loss double precision) returns jsonb
    language sql immutable
    return case when loss is not null then coalesce(jsonb_strip_nulls(measured), '{}')
                || jsonb_build_object('loss', loss, 'perplexity', case when loss < 700 then exp(loss) end) end;
comment on function pgtrain_private.with_perplexity(jsonb, double precision) is 'What was measured with the perplexity that follows from the loss';

-- running -> succeeded. One commit with the artifacts, which the worker has added in the same transaction.
create or replace function pgtrain_private.publish_run(run_id bigint, attempt integer, result jsonb, artifacts jsonb) returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    owner bigint := pgtrain_private.fence_attempt(publish_run.run_id, publish_run.attempt);
    run pgtrain.training_runs;
    before double precision := (result->>'loss_before')::float8;
    after double precision := (result->>'loss_after')::float8;
    model bigint;
    model_name text;
    replaced bigint[];
begin
    update pgtrain.training_runs r
       set step = (result->>'steps')::bigint, tokens = greatest(r.tokens, (result->>'tokens')::bigint), loss_before = before, loss_after = after,
           tokens_per_second = coalesce((result->>'tokens_per_second')::float8, r.tokens_per_second),
           peak_bytes = greatest(r.peak_bytes, (result->>'peak_bytes')::bigint), progressed_at = clock_timestamp()
     where r.id = publish_run.run_id
    returning * into run;
    insert into pgtrain.artifacts (run_id, owner_id, name, file_id, bytes, sha256)
    select run.id, owner, a.name, a.file_id, a.bytes, a.sha256
      from jsonb_to_recordset(publish_run.artifacts) a (name text, file_id bigint, bytes bigint, sha256 text)
    on conflict (run_id, (name || '')) do update
       set file_id = excluded.file_id, bytes = excluded.bytes, sha256 = excluded.sha256, created_at = clock_timestamp();
    -- It may get another name, when the owner has a model of that name already.
    model := pgtrain_private.publish_model(run.id, owner, pgtrain_private.model_name_of(run), jsonb_build_object(
        'parameters', run.parameters, 'loss_before', before, 'loss_after', after, 'config', run.config));
    select m.name into strict model_name from pgtrain.models m where m.id = model;
    insert into pgtrain.model_profiles (owner_id, model_name, training_run_id) values (owner, model_name, run.id)
    on conflict on constraint model_profiles_owner_id_model_name_key do update set training_run_id = excluded.training_run_id;
    insert into pgtrain.evaluations (run_id, owner_id, model_name, dataset_id, evaluation_type, before_metrics, after_metrics, improvement)
    select run.id, owner, model_name, (select d.dataset_id from pgtrain.training_run_datasets d where d.training_run_id = run.id order by d.is_validation desc, d.id limit 1),
           'held_out_loss', pgtrain_private.with_perplexity(run.metrics_before, before), pgtrain_private.with_perplexity(run.metrics_after, after),
           (before - after) / nullif(before, 0)
     where after is not null;
    -- Where only the latest was asked for, the model itself takes its place.
    if coalesce((run.config->>'keep_checkpoints')::bigint, 1) = 1 and run.config->>'keep_best' is distinct from 'true' then
        replaced := pgtrain_private.remove_checkpoints(array(select c.id from pgtrain.checkpoints c where c.run_id = run.id));
    end if;
    -- Stopped by its own max_seconds, a run has its model all the same.
    perform pgtrain_private.finish_run(run.id, publish_run.attempt, 'succeeded',
        case when run.step < run.planned_steps then 'max_duration' else 'completed' end::pgtrain.end_reason);
    return coalesce(replaced, '{}');
end $$;
comment on function pgtrain_private.publish_run(bigint, integer, jsonb, jsonb) is
    'running -> succeeded in one commit: artifacts, measured evaluation, model, usage, event; returns the files on disk that are not needed any more';

-- ---------------------------------------------------------------- the scheduler's chores

create or replace function pgtrain_private.free_lost_attempts() returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    lost record;
    freed integer := 0;
begin
    for lost in
        select a.run_id, a.attempt, a.expires_at < clock_timestamp() as is_late,
               pgtrain_private.was_told_to_leave(a.worker_pid, a.incarnation) as was_told from pgtrain.run_attempts a
         where a.ended_at is null
           and (a.expires_at < clock_timestamp() or not coalesce(pgtrain_private.is_live_process(a.worker_pid, a.incarnation), false))
         for no key update skip locked
    loop
        begin
            if lost.was_told then
                perform pgtrain_private.requeue_run(lost.run_id, lost.attempt, 'server_shutdown', false, null, 'the server or the worker was stopped',
                    'Its worker had to leave at once, as for DROP DATABASE or DROP EXTENSION.', 'The run continues from its last checkpoint.');
            else
                perform pgtrain_private.requeue_run(lost.run_id, lost.attempt, 'worker_lost', true, null, 'the worker of this run was lost',
                    case when lost.is_late then 'It did not renew its lease in time.' else 'Its process is gone: the server or the worker was killed.' end,
                    'The run continues from its last checkpoint.');
            end if;
            freed := freed + 1;
        exception
            when lock_not_available or deadlock_detected then
                -- As when its owner holds one in an open transaction. Nobody else shall wait for that; the next look tries again.
                raise log 'pgtrain: run % has lost its worker and waits for a lock that another session holds', lost.run_id;
            when others then
                -- Whatever keeps this one from being freed must not keep the others; the next look tries it again.
                raise log 'pgtrain: attempt % of run % has lost its worker and cannot be freed: % (%)', lost.attempt, lost.run_id, sqlerrm, sqlstate;
        end;
    end loop;
    return freed;
end $$;
comment on function pgtrain_private.free_lost_attempts() is 'Frees the leases of workers that are gone or silent; their runs are queued again or fail';

-- What the owner of a run does in a transaction that he leaves open (submits, cancels) locks his counters or his attempt, and a worker
-- that has to write there would hold its device as long as he likes. And who is being shut out (be_urgent) would stay; there the
-- administrator of the server is spared, who may be at work on the tables.
create or replace function pgtrain_private.end_blockers(patience_ms integer) returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    blocker record;
    ended integer := 0;
begin
    for blocker in
        select distinct b.pid, a.usename, a.xact_start
          from (select k.pid, k.is_worker
                  from (select w.pid, true as is_worker from pgtrain_private.worker_states() w
                         where w.kind = 'device' and w.database_id = (select d.oid from pg_database d where d.datname = current_database())
                        union all
                        select u.pid, false from pg_locks u
                         where u.relation = 'pgtrain_private.urgent_acts'::regclass and u.granted
                           and u.database = (select d.oid from pg_database d where d.datname = current_database())) k
                 where exists (select from pg_locks l
                                where l.pid = k.pid and not l.granted and l.waitstart < clock_timestamp() - patience_ms * interval '1 ms')
                offset 0) waiting
         cross join lateral unnest(pg_blocking_pids(waiting.pid)) b (pid)
          join pg_stat_activity a on a.pid = b.pid and a.backend_type = 'client backend'
         where waiting.is_worker or not exists (select from pg_roles r where r.oid = a.usesysid and r.rolsuper)
    loop
        if pg_terminate_backend(blocker.pid) then
            ended := ended + 1;
            raise log using message = format('pgtrain: ended process %s of role %s', blocker.pid, blocker.usename),
                detail = format('Its transaction, open since %s, kept a worker or an administrator waiting for a lock longer than pgtrain.lock_patience.', blocker.xact_start);
        end if;
    end loop;
    return ended;
end $$;
comment on function pgtrain_private.end_blockers(integer) is 'Ends the sessions that keep a device worker, or an administrator who shuts somebody out, waiting for a lock longer than that; returns how many';

create or replace function pgtrain_private.adopt_queued_runs() returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    orphan record;
    adopted integer := 0;
begin
    -- Queued runs without an entry come from a dump. While it is being restored their data may still be missing: then later.
    for orphan in
        select r.id, r.available_at from pgtrain.training_runs r
         where r.status = 'queued' and not exists (select from pgtrain_private.run_queue q where q.run_id = r.id)
           and exists (select from pgtrain.training_run_datasets d where d.training_run_id = r.id)
           and not exists (select from pgtrain.training_run_datasets d
                            where d.training_run_id = r.id
                              and not exists (select from pgtrain.dataset_samples s where s.dataset_id = d.dataset_id and s.ordinal = d.sample_count))
         for no key update skip locked
    loop
        perform pgtrain_private.enqueue_run(orphan.id, case when orphan.available_at > clock_timestamp() then orphan.available_at end);
        adopted := adopted + 1;
    end loop;
    return adopted;
end $$;
comment on function pgtrain_private.adopt_queued_runs() is 'Makes queue entries for queued runs that were restored from a dump';

create or replace function pgtrain_private.refresh_device_status() returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    update pgtrain.devices d set status = s.status
      from (select v.id, case when exists (select from pgtrain.run_attempts a where a.device_id = v.id and a.ended_at is null)
                                or v.instance_id = any (pgtrain_private.busy_devices())
                              then 'running' else 'idle' end::pgtrain.device_status as status
              from pgtrain.devices v where v.status <> 'gone') s
     where d.id = s.id and d.status <> s.status and d.status <> 'gone';
$$;
comment on function pgtrain_private.refresh_device_status() is 'Sets the status of devices by the attempts that run on them, also those of other databases';

create or replace function pgtrain_private.release_due_runs(out released integer, out next_due timestamptz)
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    due record;
begin
    released := 0;
    for due in
        update pgtrain_private.run_queue q set available_at = null
         where q.run_id in (select d.run_id from pgtrain_private.run_queue d
                             where d.available_at <= clock_timestamp() order by d.available_at limit 1000 for update skip locked)
        returning q.owner_id, q.rank
    loop
        perform pgtrain_private.wake_for_run(due.owner_id, due.rank, true);
        released := released + 1;
    end loop;
    select min(q.available_at) into next_due from pgtrain_private.run_queue q where q.available_at is not null;
end $$;
comment on function pgtrain_private.release_due_runs() is 'Makes runs claimable whose time has come, and tells when the next one is due';

create or replace function pgtrain_private.sync_devices(node_name text, note text, cpus integer, memory_bytes bigint, listed jsonb) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    node bigint;
    ids jsonb;
begin
    -- Its number is below 0: it may be written while a dump is still being restored, whose machines have numbers above 0.
    insert into pgtrain.compute_nodes as n (id, name, status, status_text, cpu_count, memory_bytes, last_contact_at) overriding system value
    values (-nextval('pgtrain.compute_nodes_id_seq'), node_name, 'activated', note, cpus, sync_devices.memory_bytes, now())
    on conflict ((name || '')) where owner_id is null do update set status = 'activated', status_text = excluded.status_text, cpu_count = excluded.cpu_count,
        memory_bytes = excluded.memory_bytes, last_contact_at = now()
    returning n.id into node;
    insert into pgtrain.devices as d (node_id, instance_id, kind, selector, name, memory_bytes, detail, status)
    select node, x.instance_id, x.kind::pgtrain.device_kind, x.selector, x.name, x.memory_bytes, x.detail, 'idle'
      from jsonb_to_recordset(listed) x (instance_id text, kind text, selector text, name text, memory_bytes bigint, detail text)
    on conflict (instance_id) do update set node_id = excluded.node_id, kind = excluded.kind, selector = excluded.selector, name = excluded.name,
        memory_bytes = excluded.memory_bytes, detail = excluded.detail, last_seen_at = now(),
        status = case when d.status = 'gone' then 'idle' else d.status end;
    update pgtrain.devices d set status = 'gone'
     where d.node_id = node and d.status <> 'gone'
       and not exists (select from jsonb_to_recordset(listed) x (instance_id text) where x.instance_id = d.instance_id);
    -- The server moved here from another machine: a promoted standby, a restored backup, a new host name. What is there is out of reach.
    with left_behind as (
        update pgtrain.compute_nodes n set status = 'dead' where n.id <> node and n.owner_id is null and n.status <> 'dead' returning n.id)
    update pgtrain.devices d set status = 'gone' from left_behind l where d.node_id = l.id and d.status <> 'gone';
    select jsonb_object_agg(d.instance_id, d.id) into ids from pgtrain.devices d where d.node_id = node and d.status <> 'gone';
    return coalesce(ids, '{}');
end $$;
comment on function pgtrain_private.sync_devices(text, text, integer, bigint, jsonb) is 'Writes what the launcher found on this machine, and that the server is on no other; returns the id of each device by its instance_id';

create or replace function pgtrain_private.remove_expired_checkpoints() returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    removed integer;
begin
    delete from pgtrain_private.stored_files f using pgtrain.checkpoints c, pgtrain.training_runs r
     where f.id = c.file_id and r.id = c.run_id and r.status in ('failed', 'cancelled')
       and r.ended_at < clock_timestamp() - current_setting('pgtrain.checkpoint_retention')::interval;
    get diagnostics removed = row_count;
    return removed;
end $$;
comment on function pgtrain_private.remove_expired_checkpoints() is 'Retention: checkpoints of runs that failed or were cancelled long ago';

create or replace function pgtrain.set_share(user_id bigint, weight double precision) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('set_share');
    if not pgtrain_private.is_server_administrator() and not pgtrain.has_permission('update', 'limits', 'any') then
        raise exception using errcode = '42501', message = 'only who may update the limits of anybody may set shares';
    end if;
    if set_share.weight is null or not (set_share.weight > 0 and set_share.weight <= 1000) then
        raise exception using errcode = '22023', message = format('weight %s is not above 0 and at most 1000', coalesce(set_share.weight::text, 'null'));
    elsif not exists (select from pgtrain.users u where u.id = set_share.user_id) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', coalesce(set_share.user_id::text, 'null'));
    end if;
    insert into pgtrain_private.owner_shares (owner_id, weight) values (set_share.user_id, set_share.weight)
    on conflict (owner_id) do update set weight = excluded.weight;
    perform pgtrain_private.forget_shares();
    perform pgtrain_private.write_audit('set_share', null, jsonb_build_object('user_id', set_share.user_id, 'weight', set_share.weight));
end $$;
comment on function pgtrain.set_share(bigint, double precision) is 'Weight of a user in the fair order: twice the weight is given twice the device time';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
