-- Adapters of others: imported over a model that is here, used, measured, exported and deleted as those of runs; what is refused. Paths
-- are in test/t/050_imports.pl, an adapter of a run that comes back in test/t/051_fine_tuning.pl.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
create role regress_adapters;
select pgtrain.grant_application('regress_adapters');
select pgtrain.register_user('ad_anna', 'anna@adapters.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('ad_ben', 'ben@adapters.test', 'a long enough secret') as ben \gset
select session_token as anna_token from pgtrain.login('ad_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('ad_ben', 'a long enough secret') \gset

\getenv here PG_ABS_SRCDIR
\set tiny_model :here '/sql/tiny_model.inc'
\i :tiny_model
create function imp.adapter_config(more jsonb default '{}') returns bytea language sql as $$
    select convert_to((jsonb_build_object('peft_type', 'LORA', 'task_type', 'CAUSAL_LM', 'r', 2, 'lora_alpha', 4, 'target_modules', array['q_proj', 'down_proj'],
                                          'base_model_name_or_path', 'somebody/tiny') || more)::text, 'UTF8') $$;
create function imp.adapter(numbers bytea default '\x0000803e000000bf0000003f', rank integer default 2, module text default 'mlp.down_proj', more text default 'lora_B') returns bytea language sql as $$
    select imp.tensors(array['base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight', 'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight',
                             'base_model.model.model.layers.0.' || module || '.lora_A.weight', 'base_model.model.model.layers.0.' || module || '.' || more || '.weight'],
                       array[jsonb_build_array(rank, 8), jsonb_build_array(8, rank), jsonb_build_array(rank, 16), jsonb_build_array(8, rank)], 1, numbers) $$;
create function imp.adapt(name text, base_model text, config bytea default imp.adapter_config(), weights bytea default imp.adapter()) returns bigint language sql as $$
    select pgtrain.import_model(array['adapter_config.json', 'adapter_model.safetensors'], array[config, weights], name, base_model => base_model) $$;

select imp.bring('ad base', 1) as base \gset
set role regress_adapters;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.bring('anna''s', 2) as own \gset
select imp.adapt('by name', 'ad base') as by_name \gset
select imp.adapt('by id', :own::text) as by_id \gset
select m.name, m.kind, m.base_model_id in (:base, :own) as has_base, m.base_model_hash = b.content_hash as hash_fits, m.content_hash is null as is_adapter, m.format, m.family, m.version,
       m.parameter_count = b.parameter_count as counts_base, m.vocabulary_size, m.context_length, m.has_chat_template, m.architecture = b.architecture as is_as_base,
       (select v.metadata - 'stored_types' from pgtrain.model_versions v where v.model_id = m.id) as metadata,
       (select string_agg(f.name, ' ' order by f.name) from pgtrain.model_files f where f.model_id = m.id) as files
  from pgtrain.models m join pgtrain.models b on b.id = m.base_model_id where m.id in (:by_name, :by_id) order by m.id;
-- It counts as storage what its two files have.
select sum(f.bytes) = 2 * (octet_length(imp.adapter()) + octet_length(imp.adapter_config())) as counted from pgtrain.model_files f where f.model_id in (:by_name, :by_id);
commit;
reset role;
select * from pgtrain_private.check_storage() where user_id in (:anna, :ben);

-- What is refused leaves nothing. imp.refusal leaves numbers out.
set role regress_adapters;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
create function pg_temp.config_of(more jsonb) returns text language sql as $$ select imp.refusal(format('select imp.adapt(''refused'', ''ad base'', config => imp.adapter_config(%L))', more)) $$;
create function pg_temp.weights_of(call text) returns text language sql as $$ select imp.refusal(format('select imp.adapt(''refused'', ''ad base'', weights => %s)', call)) $$;
create function pg_temp.files_of(names text[], base_model text) returns text language sql as $$
    select imp.refusal(format('select pgtrain.import_model(%L::text[], array_fill(''x''::bytea, array[%s]), ''refused'', base_model => %L)', names, cardinality(names), base_model)) $$;
select pg_temp.files_of('{adapter_config.json,adapter_model.safetensors}', null);
select pg_temp.files_of('{config.json,tokenizer.json,model.safetensors}', 'ad base');
select pg_temp.files_of('{config.json,tokenizer.json}', 'ad base');
select pg_temp.files_of('{adapter_config.json}', 'ad base');
select pg_temp.files_of('{adapter_model.safetensors}', 'ad base');
select pg_temp.files_of('{adapter_config.json,adapter_model.bin}', 'ad base');
select pg_temp.files_of('{adapter_config.json,adapter_model.safetensors,../config.json}', 'ad base');
select pg_temp.files_of('{adapter_config.json,adapter_model.safetensors}', 'ad base');
select imp.refusal('select imp.adapt(''refused'', ''nothing'')');
select imp.refusal(format('select imp.adapt(''refused'', %L)', :by_name));
select pgtrain.create_model('ad elsewhere') > 0 as made;
select imp.refusal('select imp.adapt(''refused'', ''ad elsewhere'')');
select imp.refusal('select imp.adapt(''by id'', ''ad base'')');
select imp.refusal('select imp.adapt(''refused'', ''ad base'', config => ''{"peft_type": "LORA", "r": 2'')');
select imp.refusal('select imp.adapt(''refused'', ''ad base'', config => ''[]'')');
select imp.refusal('select imp.adapt(''refused'', ''ad base'', config => ''{}'')');
select imp.refusal('select imp.adapt(''refused'', ''ad base'', config => ''\xff'')');
select imp.refusal('select imp.adapt(''refused'', ''ad base'', config => convert_to(repeat(''['', 100000), ''UTF8''))');
select more, pg_temp.config_of(more) from unnest(array['{"peft_type": "IA3"}', '{"r": 0}', '{"r": 1e9}', '{"r": "2"}', '{"r": 4}', '{"lora_alpha": "x"}', '{"lora_alpha": 1e999}', '{"lora_alpha": 1e39}', '{"alpha_pattern": {"q_proj": -1e39}}', '{"bias": "all"}',
    '{"use_dora": true}', '{"modules_to_save": ["lm_head"]}', '{"init_lora_weights": "pissa"}', '{"rank_pattern": {"q_proj": -1}}', '{"something_new": {"a": 1}}']::jsonb[]) more;
-- What a database cannot keep as text is no reason.
savepoint named;
select imp.adapt('strange base', 'ad base', convert_to(replace(convert_from(imp.adapter_config(), 'UTF8'), 'somebody/tiny', 'a\u0000b'), 'UTF8')) as strange \gset
select metadata ->> 'base_model_name_or_path' as base_name from pgtrain.model_versions where model_id = :strange;
rollback to named;
select pg_temp.weights_of('imp.adapter(''\x0000c07f'')') as not_a_number;
select pg_temp.weights_of('imp.adapter(''\x0000807f'')') as infinite;
select pg_temp.weights_of('imp.adapter(rank => 3)') as other_rank;
select pg_temp.weights_of('imp.adapter(module => ''mlp.gate_proj'')') as other_shape;
select pg_temp.weights_of('imp.adapter(module => ''mlp.side_proj'')') as unknown_module;
select pg_temp.weights_of('imp.adapter(more => ''lora_C'')') as unknown_tensor;
select pg_temp.weights_of('substr(imp.adapter(), 1, 400)') as cut;
select pg_temp.weights_of('imp.weights(1)') as whole_model;
select name from pgtrain.models where owner_id = :anna order by 1;
rollback;

-- Its text and loss are those of the whole model that is made of it; its base is measured beside it. One without effect writes what its base does.
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.append_samples(pgtrain.create_dataset('ad words'), array(select 'sample number ' || g from generate_series(1, 20) g)) = 20 as filled;
select id as words from pgtrain.datasets where name = 'ad words' \gset
select imp.adapt('of nothing', 'ad base', weights => imp.adapter('\x00000000')) as nothing \gset
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => ''{"base_model": "by name", "steps": 5}'')', :words));
select imp.refusal(format('select pgtrain.export_model(%s, ''{onnx}'')', :by_name));
select imp.refusal(format('select pgtrain.export_model(%s, ''{}'')', :by_name));
select imp.refusal(format('select pgtrain.export_model(%s, ''{merged}'')', :own));
select imp.refusal(format('select pgtrain.export_model(%s, ''{merged}'')', :base));
select name, bytes > 0 as has_bytes from pgtrain.export_model(:by_name, '{peft,merged,gguf_f16}');
select count(*) as again from pgtrain.export_model(:by_name, '{merged,gguf_f16,peft}');
select m.content_hash is not null as is_whole, m.format, m.size_bytes = (select sum(f.bytes) from pgtrain.model_files f where f.model_id = m.id and f.name !~ 'adapter|gguf') as size_fits from pgtrain.models m where m.id = :by_name;
select pgtrain.import_model(array_agg(f.name), array_agg(pgtrain.export_model_file(:by_name, f.name)), 'merged') as merged
  from pgtrain.model_files f where f.model_id = :by_name and f.name !~ 'adapter|gguf' \gset
select pgtrain.import_model(pgtrain.export_model_file(:by_name, 'model-f16.gguf'), 'merged gguf') > 0 as gguf_reads;
create function pg_temp.loss(choice text, at text default 'after') returns numeric language sql as $$
    select round((case when at = 'after' then e.after_metrics else e.before_metrics end ->> 'loss')::numeric, 4) from pgtrain.evaluations e
     where e.id = (select max(x.id) from pgtrain.evaluations x where x.model_name = choice) $$;
select count(pgtrain.evaluate(:words, model => n)) as evaluated from unnest(array['by name', 'merged', 'of nothing', 'ad base']) n;
select model_name, before_metrics is not null as has_before, improvement is not null as has_improvement, after_metrics ->> 'samples' as samples from pgtrain.evaluations where dataset_id = :words order by id;
select pg_temp.loss('by name') = pg_temp.loss('merged') as as_merged, pg_temp.loss('by name') <> pg_temp.loss('ad base') as has_effect,
       pg_temp.loss('by name', 'before') = pg_temp.loss('ad base') as before_is_base, pg_temp.loss('of nothing') = pg_temp.loss('ad base') as nothing_is_base;
select pgtrain.generate(model => 'by name', prompt => 'abc', max_tokens => 8, temperature => 0) = pgtrain.generate(model => 'merged', prompt => 'abc', max_tokens => 8, temperature => 0) as same_text;
-- Numbers that are finite each and not together: it is said, not measured as nothing.
select imp.adapt('too large', 'ad base', weights => imp.adapter('\x0000007f')) > 0 as imported;
select imp.refusal(format('select pgtrain.evaluate(%s, model => ''too large'')', :words));
savepoint pairs;
select pgtrain.append_records(pgtrain.create_dataset('ad pairs'), array['{"prompt": "p", "chosen": "a", "rejected": "b"}']::jsonb[]) as filled \gset
select id as pairs from pgtrain.datasets where name = 'ad pairs' \gset
select imp.refusal(format('select pgtrain.evaluate(%s, model => ''too large'')', :pairs));
rollback to pairs;
-- Runs start from it now.
select pgtrain.submit_run(dataset_id => :words, config => '{"base_model": "by name", "steps": 5}', start_at => now() + interval '1 day') as run \gset
select base_model_id = :by_name as from_it from pgtrain.training_runs where id = :run;
rollback;
reset role;

-- The template of conversations that lies beside it, which older saves keep in tokenizer_config.json, goes before that of the base.
begin;
select imp.refusal('select pgtrain.generate(model => ''ad base'', messages => ''[{"role": "user", "content": "a"}]'', max_tokens => 1)');
select pgtrain.import_model(array['adapter_config.json', 'adapter_model.safetensors', f.name, 'tokenizer.json'], array[imp.adapter_config(), imp.adapter(), convert_to(f.content, 'UTF8'), 'not read'], f.name, base_model => 'ad base') > 0 as imported
  from (values ('chat_template.jinja', '{% for m in messages %}{{ m.content }}{% endfor %}'), ('tokenizer_config.json', '{"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}')) f (name, content);
select m.name, m.owner_id, m.is_public, m.has_chat_template, (select string_agg(f.name, ' ' order by f.name) from pgtrain.model_files f where f.model_id = m.id) as files,
       length(pgtrain.generate(model_id => m.id, messages => '[{"role": "user", "content": "a"}]', max_tokens => 4, temperature => 0)) >= 0 as answers
  from pgtrain.models m where m.base_model_id = :base and m.owner_id is null order by 1;
-- Merged it has the template in a file of its own.
select f.name from pgtrain.models m, pgtrain.export_model(m.id, '{merged}') f where m.name = 'tokenizer_config.json';
select m.has_chat_template, pgtrain.export_model_file(m.id, 'tokenizer_config.json') = '{"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}'::bytea as is_adapters from pgtrain.models m where m.name = 'tokenizer_config.json';
rollback;
-- What takes another's place is counted in its place.
set role regress_adapters;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.import_model(array['adapter_config.json', 'adapter_model.safetensors', 'tokenizer_config.json'], array[imp.adapter_config(), imp.adapter(), '{}'], 'counted', base_model => 'ad base') as counted \gset
commit;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select count(*) as files from pgtrain.export_model(:counted, '{merged}');
commit;
reset role;
select * from pgtrain_private.check_storage() where user_id in (:anna, :ben);
select l.used_value = (select sum(f.bytes) from pgtrain.model_files f where f.owner_id = :anna) as counted from pgtrain.user_usage_limits l where l.user_id = :anna and l.resource_type = 'storage_bytes';

-- Whose base it is: the importer must be allowed to read it, and so must the owner.
set role regress_adapters;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select imp.refusal(format('select imp.adapt(''ben''''s'', %L)', :own));
commit;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.grant_model(:own, :ben, now() + interval '1 hour');
commit;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select imp.adapt('ben''s', :own::text) as bens \gset
select length(pgtrain.generate(model_id => :bens, prompt => 'abc', max_tokens => 1)) >= 0 as writes;
commit;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.revoke_model(:own, :ben);
commit;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select imp.refusal(format('select pgtrain.generate(model_id => %s, prompt => ''abc'', max_tokens => 1)', :bens));
select imp.refusal(format('select pgtrain.export_model(%s, ''{merged}'')', :bens));
select imp.refusal(format('select pgtrain.export_model(%s, ''{merged}'')', :by_id));
commit;
reset role;
-- The server's administrator reads everything, but an adapter of the platform is for everybody, and one for a user is that user's.
select imp.refusal(format('select imp.adapt(''platform''''s'', %L)', :own));
select imp.refusal(format('select pgtrain.import_model(array[''adapter_config.json'', ''adapter_model.safetensors''], array[imp.adapter_config(), imp.adapter()], ''for ben'', owner_id => %s, base_model => %L)', :ben, :own));
select pgtrain.import_model(array['adapter_config.json', 'adapter_model.safetensors'], array[imp.adapter_config(), imp.adapter()], 'for anna', owner_id => :anna, base_model => :own::text) > 0 as for_anna;

-- The base stays while adapters need it, unless forced; then they say so. The same files again serve as well.
set role regress_adapters;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.refusal(format('select pgtrain.delete_model(%s)', :own));
select pgtrain.delete_model(:own, true);
select imp.refusal(format('select pgtrain.generate(model_id => %s, prompt => ''abc'', max_tokens => 1)', :by_id));
select imp.bring('anna''s again', 2) as again \gset
select length(pgtrain.generate(model_id => :by_id, prompt => 'abc', max_tokens => 1)) >= 0 as writes;
-- Merged, it is still an adapter to those that have it write.
select imp.adapt('merged too', :again::text) as merged \gset
select count(*) > 0 as forms from pgtrain.export_model(:merged, '{merged}');
select imp.refusal(format('select pgtrain.delete_model(%s)', :again));
select pgtrain.delete_model(:by_id);
commit;
reset role;
select pgtrain.delete_user(:anna);
select pgtrain.delete_user(:ben);
select pgtrain.delete_model(:base);
select count(*) as left_over from pgtrain_private.stored_files where model_id is not null;
select * from pgtrain_private.check_storage();
select * from pgtrain_private.check_ledger();
drop schema imp cascade;
drop owned by regress_adapters;
drop role regress_adapters;
