-- Runs in the shape of OpenAI's fine-tuning interface: job, events, checkpoints, result CSV; which checkpoints are kept; which runs saw
-- a sample. Transitions are carried out by hand, within a transaction that is never committed.
\set VERBOSITY terse
set client_min_messages = warning;
set pgtrain.password_memory = 8;
set pgtrain.password_passes = 1;
begin;
select pgtrain.register_user('tune_ann', 'tune_ann@example.org', 'correct horse battery') as ann \gset
select pgtrain.set_usage_limit(:ann, r, -1) from unnest(array['training_jobs', 'training_tokens']) r;
select pgtrain.authenticate(session_token) = :ann as is_ann from pgtrain.login('tune_ann', 'correct horse battery');
select pgtrain.create_dataset('tune_words') as data \gset
select pgtrain.append_samples(:data, array['one', 'two', 'three']);
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 30, "seed": 7}', name => 'tuned', metadata => '{"team": "red"}') as run \gset
create function pg_temp.masked(value jsonb) returns text language sql as $$
    select regexp_replace(regexp_replace(jsonb_pretty(value), '"(\w+_at|estimated_finish)": \d+', '"\1": "TIME"', 'g'), '(ftjob-|file-|file-result-|org-|ftckpt-|ftevent-m?|job-)\d+(-\d+)?', '\1N', 'g')
$$;

-- The keys of OpenAI's object, in no order, and no others.
select string_agg(k, ' ' order by k) from jsonb_object_keys(pgtrain.fine_tuning_job(:run)) k;
select pg_temp.masked(pgtrain.fine_tuning_job(:run));

delete from pgtrain_private.run_queue where run_id = :run;
update pgtrain.training_runs set status = 'running', attempt = 1, failed_attempts = 1, started_at = now(), config = config || '{"keep_checkpoints": 2, "keep_best": "true"}' where id = :run;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at) values (:run, 1, :ann, 0, 0, now() + interval '1 minute');
select checkpoint_step from pgtrain_private.load_job(:run, 1, 2, null);
create function pg_temp.step(run bigint, attempt integer, step bigint, loss float8, held_out float8) returns void language plpgsql as $$
begin
    perform pgtrain_private.record_attempt(run, attempt, 60000, jsonb_build_object('step', step, 'loss', loss, 'tokens', step * 100, 'tokens_per_second', 50, 'seconds_more', 2),
        jsonb_build_array(jsonb_build_object('step', step, 'loss', loss, 'accuracy', 0.25), jsonb_build_object('step', step, 'held_out_loss', held_out, 'held_out_accuracy', 0.5)),
        null, null, null, null);
end $$;
create function pg_temp.checkpoint(run bigint, attempt integer, step bigint) returns bigint[] language plpgsql as $$
declare
    file bigint := nextval('pgtrain_private.stored_files_id_seq');
begin
    perform pgtrain_private.add_stored_file(run, attempt, file, 'rows', 3, encode(sha256('abc'), 'hex'));
    insert into pgtrain_private.file_chunks values (file, 0, 'abc');
    return pgtrain_private.add_checkpoint(run, attempt, step, file, 3, encode(sha256('abc'), 'hex'));
end $$;

-- The latest two and the best one are kept.
select s, pg_temp.step(:run, 1, s, 5.0 / s, abs(s - 6) + 1), pg_temp.checkpoint(:run, 1, s)
  from generate_series(2, 12, 2) s;
select array_agg(step order by step) as kept from pgtrain.checkpoints where run_id = :run;
select count(*) as files from pgtrain_private.stored_files where run_id = :run;
select pg_temp.masked(pgtrain.fine_tuning_job_checkpoints(:run, page_size => 1));
select j->'has_more' as more, jsonb_array_length(j->'data') as rows, j #> '{data,1,step_number}' as best
  from pgtrain.fine_tuning_job_checkpoints(:run, pgtrain.fine_tuning_job_checkpoints(:run, page_size => 1)->>'last_id') j;
-- Under way: when it will be done is known from its speed, whatever part of a second it is.
select j->'status' as status, (j->>'estimated_finish')::bigint - extract(epoch from now())::bigint between 0 and 100000 as has_estimate, j->'trained_tokens' as trained,
       j->'fine_tuned_model' as model from pgtrain.fine_tuning_job(:run) j;

-- A checkpoint is a model by its name; others are refused with those that are kept.
create function pg_temp.chosen(name text) returns text language plpgsql as $$
declare
    message text;
    detail text;
    hint text;
begin
    return (select 'step ' || c.step from pgtrain.checkpoints c where c.id = (pgtrain_private.choose_model(null, null, name)->>'checkpoint_id')::bigint);
exception when others then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    return regexp_replace(concat_ws(' ', sqlstate, message, detail, hint), '(ftjob-|:poet:)\d+', '\1N', 'g');
end $$;
select n, pg_temp.chosen(replace(n, 'RUN', :'run')) from unnest(array['ftjob-RUN:ckpt-step-10', 'ftjob-RUN:ckpt-step-4', 'ftjob-RUN', 'ftjob-RUN:ckpt-step-', 'ftjob-0:ckpt-step-10', 'tuned:ckpt-step-10', ':ckpt-step-6',
    'ftjob-99999999999999999999:ckpt-step-1', 'ftjob-RUN:ckpt-step-99999999999999999999']) n;

-- A checkpoint that cannot be used is given up for the one before it; what is trained again takes the place of what was beyond.
select pgtrain_private.give_checkpoint_up(:run, 1, (select file_id from pgtrain.checkpoints where run_id = :run and step = 12), 'changed')
     = (select file_id from pgtrain.checkpoints where run_id = :run and step = 10) as is_earlier;
select resumed_from_step from pgtrain.run_attempts where run_id = :run and attempt = 1;
select pg_temp.checkpoint(:run, 1, 8);
select array_agg(step order by step) as kept from pgtrain.checkpoints where run_id = :run;

-- Published they stay, because more than the latest was asked for; the model has the name that was asked for with the suffix.
update pgtrain.training_runs set config = config || '{"suffix": "poet"}' where id = :run;
select nextval('pgtrain_private.stored_files_id_seq') as file \gset
select pgtrain_private.add_stored_file(:run, 1, :file, 'rows', 3, encode(sha256('abc'), 'hex'));
select pgtrain_private.publish_run(:run, 1, '{"loss_before": 4, "loss_after": 1, "steps": 30, "tokens": 3000, "tokens_per_second": 5, "peak_bytes": 99}',
    format('[{"name": "model.safetensors", "file_id": %s, "bytes": 3, "sha256": "%s"}]', :file, encode(sha256('abc'), 'hex'))::jsonb);
select array_agg(step order by step) as kept from pgtrain.checkpoints where run_id = :run;
select replace(name, :'run', 'N') as name from pgtrain.models where run_id = :run;
select pg_temp.masked(j - array['fine_tuned_model', 'hyperparameters', 'method']) from pgtrain.fine_tuning_job(:run) j;
select replace(j->>'fine_tuned_model', :'run', 'N') from pgtrain.fine_tuning_job(:run) j;
select replace(c->>'fine_tuned_model_checkpoint', ':' || :'run' || ':', ':N:') from jsonb_array_elements(pgtrain.fine_tuning_job_checkpoints(:run)->'data') c;
select pg_temp.chosen(c->>'fine_tuned_model_checkpoint') from jsonb_array_elements(pgtrain.fine_tuning_job_checkpoints(:run)->'data') c;
select pg_temp.chosen(m.name || ':ckpt-step-7') as not_kept, pg_temp.chosen(format('ftjob-%s:ckpt-step-6', :run)) as by_job from pgtrain.models m where m.run_id = :run;
-- A model that bears such a name goes before. Once its model is another version, a run's checkpoints have its number.
savepoint alike;
select pgtrain.publish_model(:run, 'tuned:ckpt-step-6') > 0 as is_published;
select pg_temp.chosen('tuned:ckpt-step-6') is null as is_the_model;
update pgtrain.models set name = 'tuned' where name = 'tuned:ckpt-step-6';
select pg_temp.chosen('tuned:ckpt-step-6');
update pgtrain.models set run_id = null where run_id = :run;
select pg_temp.chosen('tuned:ckpt-step-6');
select pg_temp.masked(c->'fine_tuned_model_checkpoint') as name, pg_temp.chosen(c->>'fine_tuned_model_checkpoint') from jsonb_array_elements(pgtrain.fine_tuning_job_checkpoints(:run)->'data') c;
rollback to alike;
select pgtrain.result_csv(:run);

-- Events, a page at a time, and again all at once: the same.
select e->>'type' as type, e->>'level' as level, regexp_replace(e->>'message', '\d+(?=$)', 'N') as message, e->'data' as data from jsonb_array_elements(pgtrain.fine_tuning_job_events(:run, page_size => 5)->'data') e
 where e->>'type' = 'message';
select pg_temp.masked(e) from jsonb_array_elements(pgtrain.fine_tuning_job_events(:run, page_size => 1000)->'data') e where e->>'type' = 'metrics' limit 1;
-- A step without an evaluation speaks of none.
savepoint unmeasured;
update pgtrain.run_metrics set held_out_loss = null where run_id = :run and step <> 12;
select distinct regexp_replace(e->>'message', '[\d.]+', 'N', 'g') as message from jsonb_array_elements(pgtrain.fine_tuning_job_events(:run, page_size => 1000)->'data') e where e->>'type' = 'metrics' order by 1;
rollback to unmeasured;
with recursive pages as (
    select pgtrain.fine_tuning_job_events(:run, page_size => 3) as page
    union all
    select pgtrain.fine_tuning_job_events(:run, page->>'last_id', 3) from pages where (page->>'has_more')::boolean)
select (select jsonb_agg(e->'id') from pages, jsonb_array_elements(page->'data') e)
     = (select jsonb_agg(e->'id') from jsonb_array_elements(pgtrain.fine_tuning_job_events(:run, page_size => 1000)->'data') e) as are_same,
       (select count(*) > 4 from pages) as are_many;

-- One that failed says why, in OpenAI's fields.
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 5}') as failed \gset
delete from pgtrain_private.run_queue where run_id = :failed;
update pgtrain.training_runs set status = 'running', attempt = 1, failed_attempts = 1 where id = :failed;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at) values (:failed, 1, :ann, 0, 0, now() + interval '1 minute');
select pgtrain_private.finish_run(:failed, 1, 'failed', 'data_invalid', 'sample 2 is too long', 'It has 9 tokens.', 'Cut it.');
select jsonb_pretty(j->'error') as error, j->'status' as status, j->'result_files' as files, j->'finished_at' <> 'null' as is_over from pgtrain.fine_tuning_job(:failed) j;
-- What wants its model says what can be done instead.
create function pg_temp.told(statement text) returns text language plpgsql as $$
declare
    message text;
    detail text;
    hint text;
begin
    execute statement;
    return 'not refused';
exception when others then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    return regexp_replace(concat_ws(' ', sqlstate, message, detail, hint), '(run |ftjob-)\d+', '\1N', 'g');
end $$;
select pg_temp.told(format(s, :failed)) from unnest(array['select pgtrain.publish_model(%s)', 'select pgtrain.export_run(%s, ''{merged}'')', 'select pgtrain.generate(%s)',
    'select pgtrain.generate(model => ''ftjob-%s:ckpt-step-5'')', 'select pgtrain.evaluate(1, %s, max_samples => null, questions => -1)']) s;
select jsonb_array_length(j->'data') as jobs, j->'has_more' as more, j->>'object' as object from pgtrain.fine_tuning_jobs(page_size => 1) j;
select pg_temp.masked(jsonb_build_object('id', j #> '{data,0,id}')), j #> '{data,0,metadata}' as metadata
  from pgtrain.fine_tuning_jobs(pgtrain.fine_tuning_jobs(page_size => 1)->>'last_id') j;

-- Which runs saw a sample: those that froze the dataset when it was there.
select pgtrain.append_samples(:data, array['four']);
select s.ordinal, s.content->>'text' as text, s.run_name, replace(s.model_name, :'run', 'N') as model_name, s.status from pgtrain.sample_runs s
 where s.dataset_id = :data and s.run_id = :run order by 1;

select c->>'fine_tuned_model_checkpoint' as checkpoint from jsonb_array_elements(pgtrain.fine_tuning_job_checkpoints(:run)->'data') c limit 1 \gset
-- A checkpoint that is to be a model of its own: what is refused before a trainer is started.
create function pg_temp.publishing(checkpoint text, name text) returns text language plpgsql as $$
begin
    return 'model ' || pgtrain.publish_checkpoint(checkpoint, name);
exception when others then
    return regexp_replace(sqlstate || ' ' || sqlerrm, '(ftjob-|:poet:)\d+', '\1N', 'g');
end $$;
select pg_temp.publishing(replace(c, 'MINE', :'checkpoint'), replace(n, 'MINE', split_part(:'checkpoint', ':ckpt', 1)))
  from (values ('nothing', null), (null, null), ('ftjob-0:ckpt-step-1', null), ('MINE', ''), ('MINE', repeat('x', 201)), ('MINE', 'MINE'), ('MINE0', 'x')) v (c, n);
savepoint refused;
select pgtrain.fine_tuning_job_checkpoints(:run, after => 'ftjob-1');
rollback to refused;
select pgtrain.fine_tuning_job_events(:run, page_size => 0);
rollback to refused;
\set VERBOSITY sqlstate
select pgtrain.fine_tuning_job(-1);
rollback to refused;

-- Somebody else is told nothing.
select pgtrain.register_user('tune_bob', 'tune_bob@example.org', 'correct horse battery') as bob \gset
create role regress_tune;
select pgtrain.grant_application('regress_tune');
grant usage on schema pgtrain to regress_tune;
select pgtrain.authenticate(session_token) = :bob as is_bob from pgtrain.login('tune_bob', 'correct horse battery');
set local role regress_tune;
select pgtrain.fine_tuning_jobs()->'data' as jobs, (select count(*) from pgtrain.sample_runs) as seen;
savepoint others;
select pgtrain.fine_tuning_job(:run);
rollback to others;
select pgtrain.fine_tuning_job_events(:run);
rollback to others;
select pgtrain.fine_tuning_job_checkpoints(:run);
rollback to others;
select pgtrain.result_csv(:run);
rollback to others;
select pgtrain.generate(model => :'checkpoint');
rollback to others;
select pgtrain.publish_checkpoint(:'checkpoint');
rollback to others;
reset role;
\set VERBOSITY terse
-- Models of two others that were granted, of one name: their checkpoints are told apart by their jobs.
select pgtrain.register_user('tune_cid', 'tune_cid@example.org', 'correct horse battery') as cid \gset
insert into pgtrain.training_runs (owner_id, name, config, config_hash, planned_steps, planned_tokens, max_attempts)
select :cid, name, config, config_hash, 30, 0, 1 from pgtrain.training_runs where id = :run returning id as twin \gset
insert into pgtrain.checkpoints (run_id, attempt, owner_id, step, file_id, bytes, sha256)
select :twin, 1, :cid, step, file_id, bytes, sha256 from pgtrain.checkpoints where run_id = :run and step = 6;
insert into pgtrain.models (owner_id, kind, name, run_id) select :cid, 'local', name, :twin from pgtrain.models where run_id = :run;
insert into pgtrain.managed_models (model_id, user_id, owner_id) select id, :bob, owner_id from pgtrain.models where run_id in (:run, :twin);
select pg_temp.chosen(split_part(:'checkpoint', ':ckpt', 1) || ':ckpt-step-6'), pg_temp.chosen(split_part(:'checkpoint', ':ckpt', 1) || ':ckpt-step-8') as one_has_it;
rollback;
