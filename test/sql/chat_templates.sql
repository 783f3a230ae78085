-- Conversations need a template that can be used: what has none, or one outside the subset, is refused when the run is submitted,
-- by construct; texts are learned all the same.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
create role regress_templates;
select pgtrain.grant_application('regress_templates');
select pgtrain.register_user('tpl_anna', 'anna@templates.test', 'a long enough secret') as anna \gset
select session_token as anna_token from pgtrain.login('tpl_anna', 'a long enough secret') \gset
\getenv here PG_ABS_SRCDIR
\set tiny_model :here '/sql/tiny_model.inc'
\i :tiny_model
create function imp.bring_with(name text, chat_template text) returns bigint language sql as $$
    select pgtrain.import_model(array['config.json', 'tokenizer.json', 'model.safetensors', 'chat_template.jinja'],
        array[imp.config(), imp.tokenizer(), imp.weights(7), convert_to(chat_template, 'UTF8')], name) $$;

set role regress_templates;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.bring('tpl none') as none \gset
select imp.bring_with('tpl odd', '{% include "other" %}') as odd \gset
select imp.bring_with('tpl good', '{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}') as good \gset
select m.name, m.has_chat_template, v.metadata ->> 'chat_template_problem' as problem, v.metadata -> 'warnings' as warnings
  from pgtrain.models m join pgtrain.model_versions v on v.model_id = m.id where m.name like 'tpl %' order by 1;

select pgtrain.create_dataset('talks') as talks \gset
select pgtrain.append_records(:talks, array['{"text": "only text"}', '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}']::jsonb[]) as samples;
select pgtrain.create_dataset('lists') as lists \gset
select pgtrain.append_records(:lists, array['{"prompt": "a", "completion": "b"}',
    '{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}']::jsonb[]) as samples;
select pgtrain.create_dataset('texts') as texts \gset
select pgtrain.append_records(:texts, array['{"text": "only text"}', '{"prompt": "a", "completion": "b"}']::jsonb[]) as samples;

create function pg_temp.plan(dataset bigint, config jsonb) returns text language sql as $$
    select imp.refusal(format('select pgtrain.plan_run(dataset_id => %s, config => %L)', dataset, config || '{"context": 32, "epochs": 1}')) $$;
-- By base model and data.
select b.base, d.data, pg_temp.plan(d.id, jsonb_build_object('base_model', b.base))
  from (values ('tpl none'), ('tpl odd'), ('tpl good')) b (base), (values ('talks', :talks), ('lists', :lists), ('texts', :texts)) d (data, id) order by 1, 2;
select imp.refusal(format('select pgtrain.submit_run(dataset_id => %s, config => %L)', :talks, '{"base_model": "tpl odd", "context": 32, "epochs": 1}'));
rollback;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select imp.bring('tpl none') as none \gset
select pgtrain.create_dataset('talks') as talks \gset
select pgtrain.append_records(:talks, array['{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}']::jsonb[]) as samples;
create function pg_temp.plan_with(dataset bigint, chat_template text) returns text language sql as $$
    select imp.refusal(format('select pgtrain.plan_run(dataset_id => %s, config => %L)', dataset,
        jsonb_build_object('base_model', 'tpl none', 'context', 32, 'epochs', 1, 'chat_template', chat_template))) $$;
-- A template in the configuration serves, and is refused by construct.
select t as chat_template, pg_temp.plan_with(:talks, t) from unnest(array[
    '{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}',
    '{% include "other" %}',
    '{% extends "other" %}',
    '{% import "other" as o %}',
    '{% call f() %}a{% endcall %}',
    '{{ messages | unheard_of }}',
    '{% if messages %}never ended',
    '{{ messages.__class__ }}']) with ordinality x (t, n) order by n;
rollback;
reset role;
drop schema imp cascade;
drop owned by regress_templates;
drop role regress_templates;
