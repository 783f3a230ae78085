-- Estimates of plan_run: by earlier runs of the same user, model, shape and device; else by a trial of the trainer; null with the reason
-- where nothing can be said. What a run uses up of its owner's plan. All in a transaction that is never committed, on a device of its own.
\set VERBOSITY terse
set client_min_messages = warning;
set pgtrain.password_memory = 8;
set pgtrain.password_passes = 1;
begin;
select pgtrain.register_user('esti_ann', 'esti_ann@example.org', 'correct horse battery') as ann \gset
select pgtrain.register_user('esti_bob', 'esti_bob@example.org', 'correct horse battery') as bob \gset
select pgtrain.set_usage_limit(:ann, r, -1) from unnest(array['training_jobs', 'training_tokens']) r;
select session_token as ann_token from pgtrain.login('esti_ann', 'correct horse battery') \gset
select session_token as bob_token from pgtrain.login('esti_bob', 'correct horse battery') \gset
select pgtrain.authenticate(:'ann_token') = :ann as is_ann;
select pgtrain.create_dataset('esti words') as data \gset
select pgtrain.append_samples(:data, array['one two three', 'four five six', 'seven eight nine']);
-- The largest there is, so that runs are planned for it.
with node as (insert into pgtrain.compute_nodes (name, status) values ('esti', 'activated') returning id)
insert into pgtrain.devices (node_id, instance_id, kind, selector, name, memory_bytes) select id, 'esti', 'cpu', 'cpu', 'an abacus', 1::bigint << 60 from node returning id as device \gset
create function pg_temp.estimate(data bigint, config jsonb default '{}', out seconds numeric, out time_from text, out cost numeric, out currency text, out cost_from text)
    language sql as $$
    select (p->>'estimated_seconds')::numeric, regexp_replace(p->>'time_from', '\d+ threads', 'N threads'), (p->>'estimated_cost')::numeric, p->>'currency', p->>'cost_from'
      from pgtrain.plan_run(dataset_id => data, config => '{"size": "nano", "steps": 100}' || config) p
    $$;

-- Nothing of the kind has run there: it is tried out.
select seconds > 0 as has_seconds, time_from from pg_temp.estimate(:data);
select a.seconds > 5 * b.seconds as grows_with_the_steps from pg_temp.estimate(:data, '{"steps": 10000}') a, pg_temp.estimate(:data, '{"steps": 100}') b;
select seconds < 60 as is_cut_short from pg_temp.estimate(:data, '{"steps": 100000000, "max_seconds": 3, "held_out_fraction": 0}');
-- With a validation dataset the whole of it is evaluated on, twice.
select pgtrain.create_dataset('esti check') as valid \gset
select pgtrain.append_samples(:valid, array[repeat('a', 2000000)]);
select (a->>'estimated_seconds')::numeric > 10 * (b->>'estimated_seconds')::numeric as grows_with_it
  from pgtrain.plan_run(dataset_id => :data, config => '{"size": "nano", "steps": 1}', validation_dataset_id => :valid) a,
       pgtrain.plan_run(dataset_id => :data, config => '{"size": "nano", "steps": 1}') b;

-- Three runs with known figures: 1000, 2000 and 4000 tokens a second, and 3, 5 and 9 seconds beside the steps.
create function pg_temp.finish(data bigint, config jsonb, speed float8, beside float8) returns bigint language plpgsql as $$
declare
    run bigint := pgtrain.submit_run(dataset_id => data, config => '{"size": "nano", "steps": 30}' || config, start_at => now() + interval '1 day');
begin
    delete from pgtrain_private.run_queue where run_id = run;
    update pgtrain.training_runs r set status = 'succeeded', end_reason = 'completed', tokens = r.planned_tokens, step = r.planned_steps, tokens_per_second = speed, seconds = 10,
           threads = pgtrain_private.trainer_threads() where r.id = run;
    insert into pgtrain.run_attempts (run_id, attempt, owner_id, device_name, device_kind, worker_pid, incarnation, expires_at, started_at, ended_at)
    select r.id, 1, r.owner_id, 'an abacus', 'cpu', 0, 0, now(), now() - make_interval(secs => 10 + beside), now() from pgtrain.training_runs r where r.id = run;
    return run;
end $$;
select pg_temp.finish(:data, '{}', 1000, 3) > 0 as is_there, pg_temp.finish(:data, '{}', 4000, 9) > 0 as is_there, pg_temp.finish(:data, '{}', 2000, 5) as latest \gset
select seconds = round(100 * 16 * 64 / 2000.0 + 5, 1) as is_median, time_from from pg_temp.estimate(:data);
-- What a run spent beside its steps on a validation dataset tells of those that are evaluated on as much, and of no others.
savepoint validated;
select pg_temp.finish(:data, '{}', 2000, 500) as validated \gset
insert into pgtrain.training_run_datasets (training_run_id, owner_id, dataset_id, content_hash, sample_count, text_bytes, is_validation)
select :validated, :ann, d.id, d.content_hash, d.sample_count, d.size_bytes, true from pgtrain.datasets d where d.id = :valid;
select seconds = round(100 * 16 * 64 / 2000.0 + 5, 1) as is_without from pg_temp.estimate(:data);
select (p->>'estimated_seconds')::numeric = round(100 * 16 * 64 / 2000.0 + 500, 1) as is_with
  from pgtrain.plan_run(dataset_id => :data, config => '{"size": "nano", "steps": 100}', validation_dataset_id => :valid) p;
select p->>'time_from' like 'tried out%' as is_tried from pgtrain.plan_run(dataset_id => :data, config => '{"size": "nano", "steps": 100, "evaluate_every": 10}', validation_dataset_id => :valid) p;
rollback to validated;
-- What is limited is not longer; another shape, another device and other threads say nothing; nor does a run that failed.
select seconds from pg_temp.estimate(:data, '{"max_seconds": 2}');
select time_from like 'tried out%' as is_tried from pg_temp.estimate(:data, '{"batch_size": 3}');
update pgtrain.training_runs set status = 'failed' where id = :latest;
select time_from from pg_temp.estimate(:data);
update pgtrain.training_runs set threads = 77 where owner_id = :ann;
select time_from like 'tried out%' as is_tried from pg_temp.estimate(:data);
update pgtrain.training_runs set threads = pgtrain_private.trainer_threads(), status = 'succeeded' where owner_id = :ann;
update pgtrain.devices set name = 'another abacus', status = 'running' where id = :device;
select time_from from pg_temp.estimate(:data);
update pgtrain.devices set name = 'an abacus', status = 'idle' where id = :device;
-- Under way but before its first step: what it will take is known from the others.
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 100, "learning_rate_multiplier": 0.25}') as run \gset
delete from pgtrain_private.run_queue where run_id = :run;
update pgtrain.training_runs set status = 'running', attempt = 1, threads = pgtrain_private.trainer_threads() where id = :run;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, device_name, device_kind, worker_pid, incarnation, expires_at, started_at)
values (:run, 1, :ann, 'an abacus', 'cpu', 0, 0, now() + interval '1 minute', clock_timestamp());
select (j->>'estimated_finish')::bigint - extract(epoch from clock_timestamp())::bigint between 50 and 60 as is_known, j->'hyperparameters' as numbers from pgtrain.fine_tuning_job(:run) j;

-- Nobody learns how busy others are.
select pgtrain.authenticate(:'bob_token') = :bob as is_bob;
select pgtrain.create_dataset('esti other words') as others \gset
select pgtrain.append_samples(:others, array['one two three', 'four five six', 'seven eight nine']);
select time_from like 'tried out%' as is_tried from pg_temp.estimate(:others);

-- A device that cannot be used.
update pgtrain.devices set kind = 'cuda', selector = 'cuda:31' where id = :device;
insert into pgtrain_private.plan_cache select config_hash, 'cuda', data_bytes, peak_bytes, parameters, device_memory_bytes, plan from pgtrain_private.plan_cache where device_kind = 'cpu' on conflict do nothing;
select seconds, time_from like 'you have no finished run of this model and shape on an abacus, and it could not be tried out: %cuda:31%' as says_why from pg_temp.estimate(:others);
update pgtrain.devices set kind = 'cpu', selector = 'cpu' where id = :device;

select pg_temp.finish(:others, '{}', 1000, 3) > 0 as is_there;
-- Of a free plan nothing is used up; of one with a price the share of what is scarcest; where nothing is counted there is no share.
select cost, currency, cost_from from pg_temp.estimate(:others);
update pgtrain.user_subscriptions set plan_id = (select id from pgtrain.plans where name = 'premium') where user_id = :bob;
select cost, currency, cost_from from pg_temp.estimate(:others);
select cost, currency, cost_from from pg_temp.estimate(:others, '{"steps": 5000000, "max_seconds": 1}');
update pgtrain.user_subscriptions set plan_id = (select id from pgtrain.plans where name = 'enterprise') where user_id = :bob;
select cost, currency, cost_from from pg_temp.estimate(:others);
delete from pgtrain.user_subscriptions where user_id = :bob;
select cost, currency, cost_from from pg_temp.estimate(:others);
-- What fits nowhere any more.
update pgtrain.devices set memory_bytes = 1000;
select seconds, time_from from pg_temp.estimate(:others);
rollback;
