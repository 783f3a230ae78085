-- Imports: models of others by their bytes, checked by the trainer; what they count, and their removal. The tests of paths, of files
-- and of workers are in test/t/050_imports.pl.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
create role regress_imports;
select pgtrain.grant_application('regress_imports');
select pgtrain.register_user('imp_anna', 'anna@imports.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('imp_ben', 'ben@imports.test', 'a long enough secret') as ben \gset
select session_token as anna_token from pgtrain.login('imp_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('imp_ben', 'a long enough secret') \gset

\getenv here PG_ABS_SRCDIR
\set tiny_model :here '/sql/tiny_model.inc'
\i :tiny_model

-- Nobody is logged in.
set role regress_imports;
select imp.bring('nobody''s');
reset role;

-- The platform's, by the server's administrator: for everybody.
select imp.bring('imp base', description => 'a tiny llama') as base \gset
select name, owner_id, kind, is_public, version, family, format, parameter_count, vocabulary_size, context_length, has_chat_template,
       size_bytes = (select sum(f.bytes) from pgtrain.model_files f where f.model_id = m.id) as size_fits,
       content_hash = (select sha256(convert_to(string_agg(f.name || ' ' || f.sha256 || E'\n', '' order by f.name collate "C"), 'UTF8')) from pgtrain.model_files f where f.model_id = m.id) as hash_fits,
       architecture ->> 'hidden_size' as width
  from pgtrain.models m where m.id = :base;
select f.name, f.bytes, f.sha256 = encode(sha256(pgtrain.export_model_file(:base, f.name)), 'hex') as same
  from pgtrain.model_files f where f.model_id = :base order by f.name collate "C";
select imp.bring('imp base');

-- What its configuration says and no run here does.
begin;
set local client_min_messages = notice;
select imp.bring('drops', config => convert_to((convert_from(imp.config(), 'UTF8')::jsonb || '{"attention_dropout": 0.25}')::text, 'UTF8')) as drops \gset
select metadata -> 'warnings' as warnings from pgtrain.model_versions where model_id = :drops;
rollback;

set role regress_imports;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.bring('mine') as mine \gset
select m.name, m.owner_id = :anna as hers, m.is_public, (select count(*) from pgtrain.model_files f where f.model_id = m.id) as files,
       (select count(*) from pgtrain.model_versions v where v.model_id = m.id) as versions from pgtrain.models m where m.id = :mine;
-- A name that is taken, and what is no model.
select imp.refusal('select imp.bring(''mine'')');
select imp.refusal('select imp.bring(null)');
select imp.refusal('select imp.bring(''12'')');
select imp.refusal('select pgtrain.import_model(''GGUF''::bytea, ''short'')');
select imp.refusal('select pgtrain.import_model(''\x80025d71002e''::bytea, ''pickle'')');
select imp.refusal('select pgtrain.import_model(''PK''::bytea || ''\x0304''::bytea, ''pickle'')');
select imp.refusal('select pgtrain.import_model(''hello''::bytea, ''text'')');
select imp.refusal('select pgtrain.import_model(array[''pytorch_model.bin''], array[''x''::bytea], ''pickle'')');
select imp.refusal('select pgtrain.import_model(array[''adapter_model.safetensors''], array[''x''::bytea], ''adapter'')');
select imp.refusal('select pgtrain.import_model(array[''../config.json''], array[''x''::bytea], ''path'')');
select imp.refusal('select pgtrain.import_model(array[''/etc/passwd''], array[''x''::bytea], ''path'')');
select imp.refusal('select pgtrain.import_model(array[''.safetensors''], array[''x''::bytea], ''hidden'')');
select imp.refusal('select pgtrain.import_model(array[''config.json'', ''config.json''], array[''x''::bytea, ''x''], ''twice'')');
select imp.refusal('select pgtrain.import_model(array[''config.json''], array[''x''::bytea, ''x''], ''uneven'')');
select imp.refusal('select pgtrain.import_model(array[''config.json'', null], array[''x''::bytea, ''x''], ''null'')');
select imp.refusal('select pgtrain.import_model(array[]::text[], array[]::bytea[], ''none'')');
select imp.refusal('select pgtrain.import_model(null::bytea, ''null'')');
select imp.refusal('select pgtrain.import_model(array[''config.json'', ''tokenizer.json'', ''model.safetensors''], array[''{"model_type": "mamba"}''::bytea, imp.tokenizer(), imp.weights(1)], ''unknown family'')');
select imp.refusal('select pgtrain.import_model(array[''config.json'', ''tokenizer.json'', ''model.safetensors''], array[imp.config(300), imp.tokenizer(), imp.weights(1)], ''other shapes'')');
select imp.refusal('select pgtrain.import_model(array[''config.json'', ''tokenizer.json'', ''model.safetensors''], array[imp.config(), imp.tokenizer(), substr(imp.weights(1), 1, 5000)], ''cut'')');
select imp.refusal('select pgtrain.import_model(array[''config.json'', ''model.safetensors''], array[imp.config(), imp.weights(1)], ''no tokenizer'')');
-- The server's disk is not for users, nor are models in another's name.
select imp.refusal('select pgtrain.import_model(''/etc'', ''disk'')');
select imp.refusal(format('select pgtrain.import_model(imp.weights(1), ''for ben'', owner_id => %s)', :ben));
-- Nothing of these is left.
select name from pgtrain.models where owner_id = :anna;
commit;
reset role;
select count(*) as files_of_nobody from pgtrain_private.stored_files f where f.model_id is not null and not exists (select from pgtrain.model_files m where m.file_id = f.id);

-- Storage counts, to the byte, and stops an import.
select l.used_value = m.size_bytes as counted from pgtrain.user_usage_limits l join pgtrain.models m on m.id = :mine where l.user_id = :anna and l.resource_type = 'storage_bytes';
select pgtrain.set_usage_limit(:anna, 'storage_bytes', size_bytes + 1000) from pgtrain.models where id = :mine;
set role regress_imports;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.bring('too much');
rollback;
reset role;
select pgtrain.set_usage_limit(:anna, 'storage_bytes', -1);
select * from pgtrain_private.check_storage() where user_id in (:anna, :ben);

-- What a submit knows of the base: how much it sees, and whether conversations can be put to it.
set role regress_imports;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.import_model(array['config.json', 'tokenizer.json', 'model.safetensors', 'chat_template.jinja'],
                            array[imp.config(), imp.tokenizer(), imp.weights(2), '{% include "x" %}'::bytea], 'odd template') > 0 as imported;
select pgtrain.append_records(pgtrain.create_dataset('imp talks'), array['{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}']::jsonb[]);
select id as talks from pgtrain.datasets where name = 'imp talks' \gset
select pgtrain.append_samples(pgtrain.create_dataset('imp words'), array['one', 'two', 'three']);
select id as words from pgtrain.datasets where name = 'imp words' \gset
select pgtrain.plan_run(dataset_id => :words, config => '{"base_model": "mine"}') -> 'config' -> 'context' as context;
select c, imp.refusal(format('select pgtrain.plan_run(dataset_id => %s, config => %L)', case when c ? 'words' then :words else :talks end, c - 'words' || '{"steps": 1}'))
  from unnest(array['{"base_model": "mine", "words": 1, "context": 65}', '{"base_model": "mine"}', '{"base_model": "odd template"}', '{"base_model": "odd template", "words": 1}',
    '{"base_model": "mine", "chat_template": "{% for"}', '{"base_model": "mine", "words": 1, "chat_template": "{{ x.__class__ }}"}',
    '{"base_model": "mine", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}']::jsonb[]) c;
rollback;
reset role;

-- Removal takes files and room back.
set role regress_imports;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.delete_model(:mine);
select imp.refusal(format('select pgtrain.delete_model(%s)', :mine));
select imp.refusal(format('select pgtrain.delete_model(%s, true)', :base));
select imp.bring('another') as another \gset
commit;
reset role;
select count(*) as left_over from pgtrain_private.stored_files where model_id = :mine;
select * from pgtrain_private.check_storage() where user_id in (:anna, :ben);

-- A model is handed over with its room, or goes with its owner.
select pgtrain.delete_user(:anna, hand_over_to => :ben);
select m.name, m.owner_id = :ben as his, (select count(*) from pgtrain.model_files f where f.model_id = m.id and f.owner_id = :ben) as files,
       (select count(*) from pgtrain.model_versions v where v.model_id = m.id and v.owner_id = :ben) as versions from pgtrain.models m where m.id = :another;
select * from pgtrain_private.check_storage();
select pgtrain.delete_user(:ben);
select count(*) as left_over from pgtrain_private.stored_files where model_id = :another;
-- The platform's goes by the server's administrator.
select pgtrain.delete_model(:base);
select count(*) as left_over from pgtrain_private.stored_files where model_id is not null;
select title, count(*) from pgtrain.audit_log where title like 'model\_%' and (subject ->> 'model_id')::bigint in (:mine, :base, :another) group by 1 order by 1;
select * from pgtrain_private.check_ledger();
drop schema imp cascade;
drop owned by regress_imports;
drop role regress_imports;
