-- Runs that start from a model: by id or name, of others by grant; versions, publishing and rolling back; what deletion waits for. That
-- workers put the files before the trainer is tested in test/t/050_imports.pl.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
create role regress_base;
select pgtrain.grant_application('regress_base');
select pgtrain.register_user('base_anna', 'anna@base.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('base_ben', 'ben@base.test', 'a long enough secret') as ben \gset
select session_token as anna_token from pgtrain.login('base_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('base_ben', 'a long enough secret') \gset

\getenv here PG_ABS_SRCDIR
\set tiny_model :here '/sql/tiny_model.inc'
\i :tiny_model
select imp.bring('imp base', description => 'a tiny llama') as base \gset
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.bring('mine') as mine \gset
commit;

-- A run starts from a model by id or name; a name stands for one's own before the platform's.
set role regress_base;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.append_samples(pgtrain.create_dataset('imp words'), array(select 'sample number ' || g from generate_series(1, 60) g)) = 60 as filled;
select id as words from pgtrain.datasets where name = 'imp words' \gset
create function pg_temp.base_of() returns text language sql as $$
    select m.name || case when m.owner_id is null then ' of the platform' else '' end from pgtrain.training_runs r join pgtrain.models m on m.id = r.base_model_id and m.content_hash = r.base_model_hash
     where r.id = (select max(id) from pgtrain.training_runs)
    $$;
select pgtrain.submit_run(dataset_id => :words, config => '{"base_model": "imp base", "steps": 5}', start_at => now() + interval '1 day') > 0 as submitted;
select pg_temp.base_of();
select pgtrain.submit_run(dataset_id => :words, config => jsonb_build_object('base_model', :mine::text, 'steps', 5), start_at => now() + interval '1 day') > 0 as submitted;
select pg_temp.base_of();
select pgtrain.plan_run(dataset_id => :words, config => '{"base_model": "mine", "steps": 5}') -> 'base_model' ->> 'name' as planned;
-- The base of a training is the default of its runs.
select pgtrain.create_training('from mine', '{"steps": 5}', base_model => jsonb_build_object('name', 'mine')) as training \gset
select pgtrain.submit_run(:training, :words, start_at => now() + interval '1 day') as waiting \gset
select pg_temp.base_of();
select pgtrain.submit_run(:training, :words, '{"base_model": "imp base"}', start_at => now() + interval '1 day') > 0 as submitted;
select pg_temp.base_of();
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"base_model": "nothing", "steps": 5}'')', :words));
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"base_model": "999999999999", "steps": 5}'')', :words));
select pgtrain.create_model('elsewhere') > 0 as made;
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"base_model": "elsewhere", "steps": 5}'')', :words));
-- Needed by runs.
select imp.refusal(format('select pgtrain.delete_model(%s)', :mine));
-- So is the data of runs that wait.
select imp.refusal(format('select pgtrain.delete_dataset(%s)', :words));
savepoint s;
do $$
declare
    hint text;
begin
    perform pgtrain.retry_run(max(r.id)) from pgtrain.training_runs r;
exception when sqlstate 'PT409' then
    get stacked diagnostics hint = pg_exception_hint;
    raise warning '%', hint;
end $$;
select pgtrain.delete_dataset(:words, force => true);
select pgtrain.cancel_run(:waiting);
select imp.refusal(format('select pgtrain.retry_run(%s)', :waiting));
rollback to s;
commit;

-- A sample that the trainer would not read is refused before anything is held.
begin;
reset role;
update pgtrain.datasets set longest_bytes = 33554433 where id = :words;
set role regress_base;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"base_model": "imp base", "steps": 5}'')', :words));
rollback;

-- Others see it when it is granted, and only then.
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select pgtrain.append_samples(pgtrain.create_dataset('ben words'), array['one', 'two', 'three', 'four']) > 0 as filled;
select id as ben_words from pgtrain.datasets where name = 'ben words' \gset
select name from pgtrain.models where name in ('mine', 'imp base');
select count(*) from pgtrain.model_files where model_id = :mine;
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => jsonb_build_object(''base_model'', %s::text, ''steps'', 5))', :ben_words, :mine));
select imp.refusal(format('select pgtrain.export_model_file(%s, ''config.json'')', :mine));
select imp.refusal(format('select pgtrain.delete_model(%s, true)', :mine));
select imp.refusal(format('select pgtrain.delete_model(%s, true)', :base));
select imp.refusal(format('select pgtrain.rollback_model(%s)', :mine));
select imp.refusal(format('select pgtrain.set_model_public(%s, false)', :base));
select imp.refusal(format('select pgtrain.grant_model(%s, %s)', :mine, :ben));
commit;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.grant_model(:mine, :ben, now() + interval '1 hour');
commit;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select name, (select count(*) from pgtrain.model_files f where f.model_id = m.id) as files, (select count(*) from pgtrain.model_versions v where v.model_id = m.id) as versions
  from pgtrain.models m where name in ('mine', 'imp base') order by name;
select length(pgtrain.export_model_file(:mine, 'config.json')) > 0 as exported;
select pgtrain.submit_run(dataset_id => :ben_words, config => '{"base_model": "mine", "steps": 5}', start_at => now() + interval '1 day') as granted \gset
update pgtrain.models set display_name = 'stolen' where id = :mine;
select imp.refusal(format('select pgtrain.delete_model(%s, true)', :mine));
commit;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
-- Runs of others are counted, not shown.
select pgtrain.cancel_run(id) from pgtrain.training_runs where base_model_id = :mine and owner_id = :anna order by id;
select imp.refusal(format('select pgtrain.delete_model(%s)', :mine));
select pgtrain.revoke_model(:mine, :ben);
commit;
reset role;
-- What the worker is told: not his any more, unless he has the same content otherwise.
select c.model_id = :mine as mine, c.may_use from pgtrain_private.base_candidates(:granted, null, false) c;
set role regress_base;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select imp.bring('ben''s own', 1) as same_content \gset
commit;
reset role;
select c.model_id = :mine as mine, c.may_use, c.model_id in (:same_content, :base) as is_same from pgtrain_private.base_candidates(:granted, null, false) c order by c.model_id = :mine, c.model_id = :base;

-- Versions: publishing makes one, rolling back chooses one; runs stay with what they were frozen on.
insert into pgtrain.training_runs (owner_id, name, status, config, config_hash, planned_steps, planned_tokens, max_attempts, parameters)
select :anna, 'imp run ' || n, 'succeeded', '{"context": 32}', '\x00', 1, 1, 1, 3104 from generate_series(1, 3) n;
select min(id) as first_run, min(id) + 1 as second_run, max(id) as third_run from pgtrain.training_runs where name like 'imp run %' \gset
create function imp.artifact(run bigint, name text, content bytea) returns void language plpgsql as $$
declare
    file bigint := nextval('pgtrain_private.stored_files_id_seq');
begin
    insert into pgtrain_private.stored_files (id, run_id, owner_id, storage, bytes, sha256) overriding system value
    select file, r.id, r.owner_id, 'rows', length(content), sha256(content) from pgtrain.training_runs r where r.id = run;
    update pgtrain_private.stored_files f set counted_bytes = f.bytes where f.id = file;
    insert into pgtrain_private.file_chunks values (file, 0, content);
    insert into pgtrain.artifacts (run_id, owner_id, name, file_id, bytes, sha256)
    select run, r.owner_id, artifact.name, file, length(content), encode(sha256(content), 'hex') from pgtrain.training_runs r where r.id = run;
end $$;
select imp.artifact(:first_run, n, c) from (values ('config.json', imp.config()), ('tokenizer.json', imp.tokenizer()), ('model.safetensors', imp.weights(2)), ('model-q8_0.gguf', 'GGUF'::bytea)) v (n, c);
select imp.artifact(:second_run, n, c) from (values ('adapter_config.json', '{}'::bytea), ('adapter_model.safetensors', imp.weights(3))) v (n, c);
set role regress_base;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.publish_model(:first_run, 'bot', notes => 'the first') as bot \gset
select pgtrain.publish_model(:second_run, 'bot') = :bot as same_model;
-- Digits alone are an id.
select imp.refusal(format('select pgtrain.publish_model(%s, ''12'')', :first_run));
select pgtrain.publish_model(:second_run, 'bot') = :bot as again;
select version, run_id = :second_run as is_second, content_hash is null as is_adapter from pgtrain.models where id = :bot;
select version, family, format, parameter_count, context_length, size_bytes > 0 as has_size, notes from pgtrain.model_versions where model_id = :bot order by version;
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"base_model": "bot", "steps": 5}'')', :words));
select pgtrain.rollback_model(:bot);
select pgtrain.submit_run(dataset_id => :words, config => '{"base_model": "bot", "steps": 5}', start_at => now() + interval '1 day') as from_bot \gset
select v.name from pgtrain.training_runs r cross join lateral (select m.name from pgtrain.model_versions v join pgtrain.models m on m.id = v.model_id where v.content_hash = r.base_model_hash) v where r.id = :from_bot;
select imp.refusal(format('select pgtrain.rollback_model(%s)', :bot));
select imp.refusal(format('select pgtrain.rollback_model(%s, 7)', :bot));
select pgtrain.rollback_model(:bot, 2);
select version, content_hash is null as is_adapter from pgtrain.models where id = :bot;
select imp.refusal(format('select pgtrain.export_model_file(%s)', :bot));
select imp.refusal(format('select pgtrain.export_model_file(%s, ''no.such'')', :bot));
select pgtrain.export_model_file(:bot, 'adapter_config.json') = '{}'::bytea as exported;
select imp.refusal(format('select pgtrain.publish_model(%s, ''bot'')', :from_bot));
select pgtrain.publish_model(:first_run, 'elsewhere 2') > 0 as made;
commit;
reset role;
-- What it was frozen on is still there, though the model has moved on.
select f.name from pgtrain_private.base_candidates(:from_bot, null, false) c cross join lateral pgtrain_private.version_files(c.model_id, c.made_by) f order by 1;

-- A run that is called by digits is published under another name.
begin;
select pgtrain_private.publish_model(:third_run, :anna, '12') as digits \gset
select m.name = format('12 (run %s)', :third_run) as has_mark from pgtrain.models m where m.id = :digits;
rollback;

-- Forced, also while runs need it.
set role regress_base;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.delete_model(:bot, true);
select pgtrain.delete_model(:mine, true);
commit;
reset role;
-- A model is handed over to who is left.
select pgtrain.delete_user(:ben, hand_over_to => :anna);
select m.name, m.owner_id = :anna as hers from pgtrain.models m where m.id = :same_content;
select * from pgtrain_private.check_storage();
select * from pgtrain_private.check_ledger();
select pgtrain.delete_user(:anna);
select pgtrain.delete_model(:base);
select count(*) as left_over from pgtrain_private.stored_files where model_id is not null;
select title, count(*) from pgtrain.audit_log where title like 'model\_%' and (subject ->> 'model_id')::bigint in (:mine, :base, :bot) group by 1 order by 1;
drop schema imp cascade;
drop owned by regress_base;
drop role regress_base;
