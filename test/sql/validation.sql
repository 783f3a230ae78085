-- Runs with a dataset to validate on: what is frozen and shown of it, who may give it, what is refused. That such runs are measured on
-- it, and on nothing else, is tested in test/t/053_validation.pl. Within a transaction that is never committed.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
set pgtrain.password_memory = 8;
set pgtrain.password_passes = 1;
create function pg_temp.refusal(statement text) returns text language plpgsql as $$
declare
    detail text;
    hint text;
begin
    execute statement;
    return 'not refused';
exception when others then
    get stacked diagnostics detail = pg_exception_detail, hint = pg_exception_hint;
    return sqlstate || ' ' || regexp_replace(concat_ws(' / ', sqlerrm, nullif(detail, ''), nullif(hint, '')), '(dataset|run) \d+', '\1 N', 'g');
end $$;
begin;
select pgtrain.register_user('val_bob', 'val_bob@example.org', 'correct horse battery') as bob \gset
select pgtrain.register_user('val_ann', 'val_ann@example.org', 'correct horse battery') as ann \gset
select pgtrain.set_usage_limit(u, r, -1) is null as set from unnest(array[:ann, :bob]) u, unnest(array['training_jobs', 'training_tokens']) r;
select pgtrain.authenticate(session_token) = :bob as is_bob from pgtrain.login('val_bob', 'correct horse battery');
select pgtrain.create_dataset('of bob') as bobs \gset
select pgtrain.append_samples(:bobs, array['words of bob']);
select pgtrain.authenticate(session_token) = :ann as is_ann from pgtrain.login('val_ann', 'correct horse battery');
select pgtrain.create_dataset('train') as train \gset
select pgtrain.append_samples(:train, array(select 'a sample of text number ' || g from generate_series(1, 40) g));
select pgtrain.create_dataset('check') as valid \gset
select pgtrain.append_samples(:valid, array['what is known', 'what is not']);
select pgtrain.create_dataset('nothing') as empty \gset
select pgtrain.dataset_from_query('pairs', $$select 'x' as prompt, 'y' as completion$$) as pairs \gset
select pgtrain.dataset_from_query('choices', $$select 'x' as prompt, 'y' as chosen, 'z' as rejected$$) as choices \gset

-- What is frozen: its content, and that nothing of what is trained on is held out.
select pgtrain.submit_run(dataset_id => :train, validation_dataset_id => :valid,
    config => '{"size": "nano", "epochs": 2, "evaluate_every": 2, "checkpoint_every": 2, "keep_best": true, "early_stopping_patience": 2}') as run \gset
select r.validation_hash = d.content_hash as is_hash, r.data_bytes = t.size_bytes as are_training_bytes, r.config->>'held_out_fraction' as held_out, r.config->>'evaluation_batches' as batches
  from pgtrain.training_runs r, pgtrain.datasets d, pgtrain.datasets t where r.id = :run and d.id = :valid and t.id = :train;
select dataset_id = :valid as is_valid, is_validation, sample_count from pgtrain.training_run_datasets where training_run_id = :run order by id;
select pgtrain.append_samples(:valid, array['later']);
select sample_count from pgtrain.training_run_datasets where training_run_id = :run and is_validation;
select pgtrain.fine_tuning_job(:run)->>'training_file' = 'file-' || :train as is_training_file, pgtrain.fine_tuning_job(:run)->>'validation_file' = 'file-' || :valid as is_validation_file;
select dataset_id = :valid as is_valid, is_validation, count(*) from pgtrain.sample_runs where run_id = :run group by 1, 2 order by 1;
select jsonb_array_length(p->'datasets') as datasets, p->'datasets'->0->'id' = to_jsonb(:train) as is_trained, p->'validation_dataset' as validation,
       (p->>'planned_tokens')::bigint > (w->>'planned_tokens')::bigint as trains_on_more, w->'validation_dataset' as without, p->>'data_bytes' = w->>'data_bytes' as are_same_bytes
  from pgtrain.plan_run(dataset_id => :train, config => '{"size": "nano", "context": 16, "batch_size": 1, "epochs": 50, "evaluate_every": 2}', validation_dataset_id => :valid) p,
       pgtrain.plan_run(dataset_id => :train, config => '{"size": "nano", "context": 16, "batch_size": 1, "epochs": 50, "evaluate_every": 2}') w \gset plan_
select :'plan_datasets' as datasets, :'plan_is_trained' as is_trained, :'plan_trains_on_more' as trains_on_more, :'plan_are_same_bytes' as are_same_bytes, :'plan_without' as without,
       :'plan_validation'::jsonb - 'hash' = jsonb_build_object('id', :valid, 'samples', 3, 'bytes', 29) as is_validation;
-- Without one all is as it was.
select pgtrain.submit_run(dataset_id => :train, config => '{"size": "nano", "steps": 3}', validation_dataset_id => null) as plain \gset
select r.validation_hash is null as is_null, r.config->>'held_out_fraction' as held_out, r.config->>'evaluation_batches' as batches, pgtrain.fine_tuning_job(:plain)->'validation_file' as file
  from pgtrain.training_runs r where r.id = :plain;

-- Refused alike the one to train on, and more: nothing is trained on and measured on at once, and what is measured is what is learned.
create function pg_temp.try(train bigint, valid bigint, config jsonb default '{"size": "nano", "steps": 3}') returns text language sql as $$
    select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, validation_dataset_id => %s, config => %L)', train, valid, config))
$$;
select pg_temp.try(:train, 987654321);
select pg_temp.try(:train, :bobs);
select pg_temp.try(:train, :empty);
select pg_temp.try(:train, :train);
select pg_temp.try(:train, :pairs);
select pg_temp.try(:pairs, :valid);
select pg_temp.try(:train, :choices);
select pg_temp.try(:train, :valid, '{"size": "nano", "held_out_fraction": 0.05}');
select pg_temp.try(:train, :valid, '{"size": "nano", "held_out_fraction": 0, "evaluate_every": 10}');
select pg_temp.try(:valid, :train, '{"size": "nano", "context": 16, "long_samples": "error"}');
select pg_temp.refusal(format('select pgtrain.plan_run(dataset_id => %s, validation_dataset_id => %s)', :train, :bobs));
select pg_temp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"evaluate_every": 5, "held_out_fraction": 0}'')', :train));
-- The runs of a training may have one or none.
select pgtrain.create_training('measured', '{"size": "nano", "evaluate_every": 10, "held_out_fraction": 0}') as training \gset
select pg_temp.refusal(format('select pgtrain.submit_run(%s, %s)', :training, :train));
select pg_temp.refusal(format('select pgtrain.submit_run(%s, %s, validation_dataset_id => %s)', :training, :train, :valid));

-- A run needs it to its end, and cannot begin again without it.
select left(pg_temp.refusal(format('select pgtrain.delete_dataset(%s)', :valid)), 32) as refusal;
select pgtrain.delete_dataset(:valid, force => true);
select pgtrain.fine_tuning_job(:run)->>'validation_file' as validation_file, pgtrain.fine_tuning_job(:run)->>'training_file' = 'file-' || :train as is_training_file;
select pgtrain.cancel_run(:run);
select pg_temp.refusal(format('select pgtrain.retry_run(%s)', :run));
-- What is wrong with it is said of it.
update pgtrain.training_runs set status = 'failed', end_reason = 'data_invalid', error_message = 'validation data: sample 1 is empty' where id = :run;
select pgtrain.fine_tuning_job(:run)->'error'->>'param' as param;
update pgtrain.training_runs set error_message = 'sample 1 is empty' where id = :run;
select pgtrain.fine_tuning_job(:run)->'error'->>'param' as param;
rollback;
