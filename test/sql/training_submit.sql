-- Submitting and what it refuses, freezing, plans, rights between users. No worker is needed: the runs are cancelled.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
set pgtrain.password_memory = 8;
set pgtrain.password_passes = 1;
-- What a statement is refused with, its ids left out.
create function pg_temp.refusal(statement text) returns text language plpgsql as $$
begin
    execute statement;
    return 'not refused';
exception when others then
    return sqlstate || ' ' || regexp_replace(sqlerrm, '\m\d+\M', 'N', 'g');
end $$;
select pgtrain.register_user('train_ann', 'train_ann@example.org', 'correct horse battery') is not null as registered,
       pgtrain.register_user('train_bob', 'train_bob@example.org', 'correct horse battery') is not null as registered;
select id as ann from pgtrain.users where username = 'train_ann' \gset
select id as bob from pgtrain.users where username = 'train_bob' \gset
select session_token as ann_token from pgtrain.login('train_ann', 'correct horse battery') \gset
select session_token as bob_token from pgtrain.login('train_bob', 'correct horse battery') \gset

-- Nobody submits nothing.
select pg_temp.refusal('select pgtrain.submit_run(dataset_id => 1)');
select pgtrain.authenticate(:'ann_token', true) = :ann as is_ann;
select pgtrain.create_dataset('train_words') as data \gset
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s)', :data));
select pgtrain.append_samples(:data, array(select 'a sample of text number ' || g from generate_series(1, 40) g));

-- Configuration: every mistake is named, with what to do.
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"learning_rat": 0.1}'')', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"size": "gigantic"}'')', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"steps": -1}'')', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"steps": {"a": 1}}'')', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''[]'')', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"width": 136, "heads": 1}'')', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"width": 96, "heads": 5}'')', :data));
select pg_temp.refusal('select pgtrain.submit_run(dataset_id => null)');
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, priority => 31)', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, max_attempts => 0)', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(training_id => -1, dataset_id => %s)', :data));
select pg_temp.refusal('select pgtrain.create_training(''tries'', ''{"sise": "nano"}'')');
select pg_temp.refusal('select pgtrain.create_training(null)');
select pg_temp.refusal('select pgtrain.create_training(repeat(''x'', 101))');
select pg_temp.refusal('select pgtrain.create_training(''tries'', ''[]'')');
select pg_temp.refusal('select pgtrain.create_training(''tries'', trigger_word => '''')');
-- A key that is cut within a character still makes a message of whole characters.
select pg_temp.refusal(format('select pgtrain.create_training(''tries'', ''{"%s": {}}'')', repeat('é', 100))) like '%é" must be%' as whole;
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_ids => array[%1$s, %1$s])', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_ids => array[%1$s, null])', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_ids => array[[%1$s], [%1$s]])', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, start_at => ''infinity'')', :data));
-- What the trainer would refuse is refused before anything is held or a device taken: a sample too long, a model too large.
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"size": "nano", "context": 16, "long_samples": "error"}'')', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"layers": 96, "width": 8192, "heads": 64, "context": 8192, "batch_size": 64}'')', :data))
       like 'PT422 the run needs %iB on %, which has %iB' as is_too_large;
select count(*) as runs from pgtrain.training_runs where owner_id = :ann;
select count(*) as entries from pgtrain.usage_entries where user_id = :ann and resource_type <> 'storage_bytes';

-- A training gives the defaults of its runs, and the run keeps its own copy.
select pgtrain.create_training('tries', '{"size": "nano", "steps": 7}') as training \gset
select pg_temp.refusal('select pgtrain.create_training(''tries'', ''{}'')');
select p->>'fits' as fits, p->>'steps' as steps, (p->>'parameters')::bigint > 0 as has_parameters,
       (p->>'peak_bytes')::bigint > 0 as has_peak, p->'config'->>'size' as size, p->'config'->>'tokenizer' as tokenizer
  from pgtrain.plan_run(training_id => :training, dataset_id => :data) p;
select count(*) as runs from pgtrain.training_runs where owner_id = :ann;
select pgtrain.submit_run(training_id => :training, dataset_id => :data, config => '{"steps": 9}', start_at => now() + interval '1 day') as run \gset
select status, end_reason, config->>'size' as size, config->>'steps' as steps, planned_steps, planned_tokens > 0 as has_tokens,
       length(config_hash) as hash_bytes, length(data_hash) as data_hash_bytes, attempt, max_attempts
  from pgtrain.training_runs where id = :run;
select sample_count, text_bytes > 0 as has_bytes, length(content_hash) as hash_bytes from pgtrain.training_run_datasets where training_run_id = :run;
select status from pgtrain.training_statuses where training_run_id = :run;
select resource_type, used_value = held_value as is_held from pgtrain.user_usage_limits
 where user_id = :ann and resource_type in ('training_jobs', 'training_tokens') and used_value > 0 order by 1;
select pgtrain.why_waiting(:run) like 'not before %its owner asked for that%' as waits_for_its_time;

-- The data is frozen: what is added later does not count.
select pgtrain.append_samples(:data, array['later']);
select sample_count from pgtrain.training_run_datasets where training_run_id = :run;

-- Idempotency.
select pgtrain.submit_run(dataset_id => :data, training_id => :training, idempotency_key => 'once', start_at => now() + interval '1 day') as once \gset
select pgtrain.submit_run(dataset_id => :data, training_id => :training, idempotency_key => 'once') = :once as is_same;

-- Others see nothing and can do nothing, and are not told that it exists.
select pgtrain.authenticate(:'bob_token', true) = :bob as is_bob;
select pg_temp.refusal(format('select pgtrain.cancel_run(%s)', :run));
select pg_temp.refusal(format('select pgtrain.pause_run(%s)', :run));
select pg_temp.refusal(format('select pgtrain.wait_for_run(%s, ''1 ms'')', :run));
select pg_temp.refusal(format('select pgtrain.why_waiting(%s)', :run));
select pg_temp.refusal(format('select pgtrain.export_artifact(%s)', :run));
select pg_temp.refusal(format('select pgtrain.export_run(%s, ''{merged}'')', :run));
select pg_temp.refusal(format('select pgtrain.generate(%s, ''x'')', :run));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s)', :data));
select pg_temp.refusal(format('select pgtrain.submit_run(training_id => %s, dataset_id => %s)', :training, :data));
select pg_temp.refusal(format('select pgtrain.set_share(%s, 100)', :bob));
-- An image group of somebody else answers as one that does not exist.
insert into pgtrain.image_groups (owner_id, training_id) values (:ann, :training) returning id as images \gset
select pgtrain.create_dataset('bobs_words') as bobs \gset
select pgtrain.append_samples(:bobs, array['words of bob', 'more words of bob']);
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, image_group_id => %s)', :bobs, :images));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, image_group_id => 987654)', :bobs));

-- Transitions of a waiting run.
select pgtrain.authenticate(:'ann_token', true) = :ann as is_ann;
-- A timeout below zero has passed already. What metadata holds does not break the view of everybody.
set statement_timeout = '5s';
select pgtrain.wait_for_run(:run, '-1 second');
reset statement_timeout;
update pgtrain.training_runs set metadata = '{"minion_id": "abc"}' where id = :run;
select minion_id is null as is_null from pgtrain.external_training_jobs where id = :run;
select pg_temp.refusal(format('select pgtrain.resume_run(%s)', :run));
select pg_temp.refusal(format('select pgtrain.retry_run(%s)', :run));
select pgtrain.pause_run(:run);
select status, end_reason from pgtrain.training_runs where id = :run;
select pg_temp.refusal(format('select pgtrain.pause_run(%s)', :run));
select pgtrain.cancel_run(:run);
select status, end_reason from pgtrain.training_runs where id = :run;
select pg_temp.refusal(format('select pgtrain.cancel_run(%s)', :run));
select pgtrain.cancel_run(:once);
select pg_temp.refusal(format('select pgtrain.export_artifact(%s)', :run));
select pg_temp.refusal(format('select pgtrain.export_run(%s, ''{merged}'')', :run));
select pg_temp.refusal(format('select pgtrain.generate(%s, ''x'')', :run));
select pg_temp.refusal('select pgtrain.generate()');
select pg_temp.refusal(format('select pgtrain.generate(%s, ''x'', max_tokens => null)', :run));
select pg_temp.refusal(format('select pgtrain.generate(%s, ''x'', top_p => ''nan'')', :run));
select pg_temp.refusal(format('select pgtrain.generate(%s, repeat(''x'', 4000000))', :run));
select held_value, used_value from pgtrain.user_usage_limits where user_id = :ann and resource_type = 'training_jobs';
select count(*) from pgtrain_private.run_queue q join pgtrain.training_runs r on r.id = q.run_id where r.owner_id = :ann;

-- A stale attempt writes nothing.
select pg_temp.refusal(format('select pgtrain_private.finish_run(%s, 1, ''succeeded'')', :run));
select pg_temp.refusal(format('select pgtrain_private.record_attempt(%s, 1, 1000, ''{"step": 5}'', null, null, null, null, null)', :run));
select pg_temp.refusal(format('select pgtrain_private.park_run(%s, 1)', :run));
select pg_temp.refusal(format('select pgtrain_private.add_checkpoint(%s, 1, 5, 1, 1, ''x'')', :run));

begin read only;
select pg_temp.refusal(format('select pgtrain.cancel_run(%s)', :run));
rollback;
begin isolation level repeatable read;
select pg_temp.refusal(format('select pgtrain.wait_for_run(%s, ''1 s'')', :run));
rollback;
