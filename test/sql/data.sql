-- Data: datasets, samples and what is refused; the frozen state; datasets made of a query with the caller's own rights.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
select current_user as superuser \gset
create role regress_data login;
select pgtrain.grant_application('regress_data');
create table public.regress_secret (t text);
insert into public.regress_secret values ('not yours');
create schema regress_data_schema authorization regress_data;
select pgtrain.register_user('dat_anna', 'anna@data.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('dat_ben', 'ben@data.test', 'a long enough secret') as ben \gset
select session_token as anna_token from pgtrain.login('dat_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('dat_ben', 'a long enough secret') \gset
\c - regress_data
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', true) = :anna as is_anna;

select pgtrain.create_dataset('poems', 'short ones', tags => array['verse'], license => 'CC0') as poems \gset
select pgtrain.create_dataset('poems');
select pgtrain.create_dataset('');
select pgtrain.create_dataset(null);
select pgtrain.create_dataset('x', type => 'poem');
select pgtrain.create_dataset('x', format => 'poem');
select pgtrain.create_dataset('x', type => null);
select pgtrain.create_dataset('x', metadata => '[]');
select name, description, type, format, license, tags, is_public, sample_count, size_bytes, longest_bytes, content_hash from pgtrain.datasets;

-- All or none of the samples.
select pgtrain.append_samples(:poems, array['one', 'zwölf', 'three']);
\set VERBOSITY default
select pgtrain.append_samples(:poems, array['four', null]);
select pgtrain.append_samples(:poems, array['four', '', null]);
\set VERBOSITY terse
select pgtrain.append_samples(:poems, null);
select pgtrain.append_samples(:poems, '{}');
select pgtrain.append_samples(-1, array['x']);
select sample_count, size_bytes, longest_bytes, length(content_hash) from pgtrain.datasets where id = :poems;
select ordinal, content, content_hash = sha256(convert_to(content::text, 'UTF8')) as is_hash from pgtrain.dataset_samples where dataset_id = :poems order by ordinal;

-- The hash is that of the content in order, however it was added.
select pgtrain.create_dataset('poems 2') as poems2 \gset
select pgtrain.append_samples(:poems2, array['one']), pgtrain.append_samples(:poems2, array['zwölf', 'three']);
select pgtrain.create_dataset('poems 3') as poems3 \gset
select pgtrain.append_samples(:poems3, array['one', 'three', 'zwölf']);
select a.content_hash = b.content_hash as same, a.content_hash = c.content_hash as same_when_shuffled
  from pgtrain.datasets a, pgtrain.datasets b, pgtrain.datasets c where a.id = :poems and b.id = :poems2 and c.id = :poems3;
select d.content_hash = sha256(sha256(sha256(''::bytea || h1) || h2) || h3) as is_chain
  from pgtrain.datasets d, lateral (select max(content_hash::text) filter (where ordinal = 1)::bytea h1, max(content_hash::text) filter (where ordinal = 2)::bytea h2,
       max(content_hash::text) filter (where ordinal = 3)::bytea h3 from pgtrain.dataset_samples s where s.dataset_id = d.id) s where d.id = :poems;

-- Records.
select pgtrain.append_records(:poems, array['{"prompt": "a", "completion": "b"}', '{"text": "t", "more": 1}']::jsonb[]);
\set VERBOSITY default
select pgtrain.append_records(:poems, array['{"text": "t"}', '{"prompt": "a"}']::jsonb[]);
select pgtrain.append_records(:poems, array['[1]']::jsonb[]);
select pgtrain.append_records(:poems, array[null]::jsonb[]);
select pgtrain.append_records(:poems, array['{"text": ""}']::jsonb[]);
select pgtrain.append_records(:poems, array['{"text": 5}']::jsonb[]);
\set VERBOSITY terse
select sample_count, size_bytes, longest_bytes, format, kinds from pgtrain.datasets where id = :poems;

-- Conversations and preferences; what is refused is named by ordinal and field.
select pgtrain.create_dataset('talks') as talks \gset
select pgtrain.append_records(:talks, array[
    '{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}',
    '{"messages": [{"role": "user", "content": "the weather?"}, {"role": "assistant", "tool_calls": [{"function": {"name": "weather"}}]},
                   {"role": "tool", "content": "rain"}, {"role": "assistant", "content": "It rains.", "weight": 1.0},
                   {"role": "user", "content": "and now?"}, {"role": "assistant", "content": "Sun.", "weight": 0}, {"role": "user", "content": "?", "weight": null}], "tools": []}',
    '{"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "hello"}]}']::jsonb[]);
select format, kinds, is_format_fixed, size_bytes = (select sum(octet_length(coalesce((content->>'prompt') || '-' || (content->>'completion'), content::text))) from pgtrain.dataset_samples where dataset_id = :talks) as is_counted
  from pgtrain.datasets where id = :talks;
select pgtrain.append_records(:talks, array[
    '{"prompt": "p", "chosen": "a", "rejected": "b"}', '{"chosen": "a", "rejected": ""}']::jsonb[]);
select pgtrain.append_records(:talks, array[
    '{"prompt": "p", "chosen": "a", "rejected": "b"}', '{"chosen": "a", "rejected": "b"}',
    '{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}']::jsonb[]);
select format, kinds from pgtrain.datasets where id = :talks;
create function regress_data_schema.why_refused(record jsonb) returns text language plpgsql as $$
declare
    message text;
    detail text;
begin
    perform pgtrain.append_records((select id from pgtrain.datasets where name = 'talks'), array[record]);
    return 'accepted';
exception when sqlstate 'PT422' then
    get stacked diagnostics message = message_text, detail = pg_exception_detail;
    return message || ': ' || detail;
end $$;
-- Without numbers, which depend on what was made before.
create function regress_data_schema.refusal(statement text) returns text language plpgsql as $$
declare
    message text;
    detail text;
    hint text;
begin
    execute statement;
    return 'accepted';
exception when sqlstate 'PT422' then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    return regexp_replace(message, '\d+', 'N') || ' ' || detail || ' ' || hint;
end $$;
select r, regress_data_schema.why_refused(r::jsonb) from unnest(array[
    '5', '{}', '{"prompt": "a"}', '{"completion": "a"}', '{"prompt": "a", "completion": ""}', '{"prompt": 1, "completion": "a"}', '{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}', '{"text": null}',
    '{"text": "t", "messages": []}', '{"messages": []}', '{"messages": {}}', '{"messages": "hi"}', '{"messages": [1]}', '{"messages": [[]]}',
    '{"messages": [{"role": "user", "content": "hi"}]}', '{"messages": [{"content": "hi"}]}', '{"messages": [{"role": "", "content": "hi"}]}',
    '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant"}]}', '{"messages": [{"role": "assistant", "content": null, "tool_calls": []}]}',
    '{"messages": [{"role": "assistant", "content": ["parts"]}]}', '{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}',
    '{"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}', '{"messages": [{"role": "assistant", "content": "x", "weight": "1"}]}',
    '{"messages": [{"role": "user", "content": "x", "weight": 0}, {"role": "assistant", "content": "y"}]}',
    '{"rejected": "b"}', '{"chosen": "a"}', '{"chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}',
    '{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}',
    '{"chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}], "prompt": "text"}',
    '{"chosen": "a", "rejected": "b", "prompt": []}']) r;

-- A format that was said when the dataset was made is kept.
select pgtrain.create_dataset('pairs only', format => 'preference') as pairs \gset
select regress_data_schema.refusal(format('select pgtrain.append_samples(%s, array[''x''])', :pairs));
select pgtrain.append_records(:pairs, array['{"chosen": "a", "rejected": "b"}', '{"text": "x"}']::jsonb[]);
select pgtrain.append_records(:pairs, array['{"chosen": "a", "rejected": "b"}']::jsonb[]);
select pgtrain.append_samples(pgtrain.create_dataset('anything', format => 'mixed'), array['x']);
select name, format, kinds, is_format_fixed from pgtrain.datasets where name in ('pairs only', 'anything') order by name;

-- What a run cannot learn from is refused when it is submitted.
select regress_data_schema.refusal(format($$select pgtrain.plan_run(dataset_id => %s, config => '{"size": "nano"}')$$, d)) from unnest(array[:talks, :pairs]) d;

-- Descriptive columns by plain SQL; nothing else.
update pgtrain.datasets set description = 'changed', tags = '{}' where id = :poems;
update pgtrain.datasets set sample_count = 0 where id = :poems;
update pgtrain.datasets set is_public = true where id = :poems;
delete from pgtrain.dataset_samples;
insert into pgtrain.dataset_samples (dataset_id, ordinal, content, content_hash) values (:poems, 99, '{}', '');

-- Of a query.
select pgtrain.dataset_from_query('numbers', 'select ''number '' || n from generate_series(1, 2500) n order by n', 'counted') as numbers \gset
select name, source, sample_count, size_bytes, longest_bytes from pgtrain.datasets where id = :numbers;
select content from pgtrain.dataset_samples where dataset_id = :numbers and ordinal in (1, 1001, 2500) order by ordinal;
select pgtrain.dataset_from_query('chars', 'values (''a''::varchar), (''b'')') > 0 as made;
select pgtrain.dataset_from_query('from rows of ours', format('select content ->> ''text'' from pgtrain.dataset_samples where dataset_id = %s and content ? ''text''', :poems)) > 0 as made;
\set VERBOSITY default
select pgtrain.dataset_from_query('bad', 'values (''a''), (null)');
select pgtrain.dataset_from_query('bad', 'values (''a''), ('''')');
select pgtrain.dataset_from_query('bad', 'select 1');
select pgtrain.dataset_from_query('bad', 'select ''a''::text, ''b''::text');
select pgtrain.dataset_from_query('bad', 'select ''a''::text as prompt, 1 as completion');
select pgtrain.dataset_from_query('bad', 'select ''a''::text as prompt, ''b''::text as prompt');
select pgtrain.dataset_from_query('bad', 'select ''a''::text as prompt, ''b''::text as answer');
select pgtrain.dataset_from_query('bad', 'select from generate_series(1, 2)');
select pgtrain.dataset_from_query('bad', 'select ''a'' as text, ''b'' as prompt, ''c'' as completion, ''d'' as messages, ''e'' as chosen, ''f'' as rejected, ''g'' as prompt');
select pgtrain.dataset_from_query('bad', 'select ''a'' as prompt, case n when 1 then ''b'' end as completion from generate_series(1, 2) n');
select pgtrain.dataset_from_query('bad', 'select ''a'' as prompt, case n when 1 then ''b'' else '''' end as completion from generate_series(1, 2) n');
select pgtrain.dataset_from_query('bad', 'select ''{"messages": [{"role": "user"}]}''::jsonb');
select pgtrain.dataset_from_query('bad', 'select ''[{"role": "assistant", "content": 5}]''::jsonb as messages');
select pgtrain.dataset_from_query('bad', 'select ''a''::text where false');
select pgtrain.dataset_from_query('bad', 'select ''a''::text; select ''b''::text');
select pgtrain.dataset_from_query('bad', 'update pgtrain.datasets set name = name returning ''a''::text');
select pgtrain.dataset_from_query('bad', 'with d as (update pgtrain.datasets set name = name returning 1) select ''a''::text from d');
select pgtrain.dataset_from_query('bad', 'create table regress_data_schema.t (a int)');
select pgtrain.dataset_from_query('bad', 'select t from public.regress_secret');
select pgtrain.dataset_from_query('bad', 'selec');
select pgtrain.dataset_from_query('bad', null);
\set VERBOSITY terse
create table regress_data_schema.written (t text);
create function regress_data_schema.writes() returns text language plpgsql as $$ begin insert into regress_data_schema.written values ('x'); return 'x'; end $$;
select pgtrain.dataset_from_query('bad', 'select regress_data_schema.writes()');
select count(*) from regress_data_schema.written;
insert into regress_data_schema.written values ('writing works again');
create function regress_data_schema.who() returns text language sql as $$ select current_user::text $$;
select pgtrain.dataset_from_query('who', 'select regress_data_schema.who()') as who \gset
select content from pgtrain.dataset_samples where dataset_id = :who;
select count(*) from pgtrain.datasets where name = 'bad';

-- Of several columns, which may be JSON.
select count(pgtrain.dataset_from_query(q.name, q.query))
  from (values ('q and a', $$select 'What is ' || n || '?' as prompt, E'It is "' || n || E'".\n' as completion from generate_series(1, 1) n$$),
               ('chats', $$select jsonb_build_array(jsonb_build_object('role', 'user', 'content', 'hi'), jsonb_build_object('role', 'assistant', 'content', 'yes')) as messages$$),
               ('preferred', $$select null::text as prompt, 'good' as chosen, 'bad'::varchar as rejected$$),
               ('preferred 2', $$select 'why?' as prompt, 'good' as chosen, 'bad'::varchar as rejected$$),
               ('preferred chats', $$select '[{"role": "assistant", "content": "a"}]'::json as chosen, '[{"role": "assistant", "content": "b"}]'::jsonb as rejected$$),
               ('whole', $$select '{"text": "t", "id": 7}'::jsonb$$)) q (name, query);
select d.name, d.format, d.kinds, s.content from pgtrain.datasets d join pgtrain.dataset_samples s on s.dataset_id = d.id
 where d.name in ('q and a', 'chats', 'preferred', 'preferred 2', 'preferred chats', 'whole') order by d.name;

-- Somebody else sees nothing, also by guessing ids.
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select (select count(*) from pgtrain.datasets), (select count(*) from pgtrain.dataset_samples), (select count(*) from pgtrain.user_training_datasets);
\set VERBOSITY sqlstate
savepoint s;
select pgtrain.append_samples(:poems, array['x']);
rollback to s;
select pgtrain.delete_dataset(:poems);
rollback;

\set VERBOSITY terse
-- Public ones are read by everybody and written by their owner.
\c - :superuser
set client_min_messages = warning;
update pgtrain.datasets set is_public = true where id = :poems2;
\c - regress_data
set client_min_messages = warning;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select d.name, count(*) from pgtrain.datasets d join pgtrain.dataset_samples s on s.dataset_id = d.id group by 1;
update pgtrain.datasets set description = 'mine now' returning name;
\set VERBOSITY sqlstate
select pgtrain.append_samples(:poems2, array['x']);
\set VERBOSITY terse
rollback;

-- What was frozen stays: samples are never changed, only a whole dataset goes.
\c - :superuser
set client_min_messages = warning;
update pgtrain.dataset_samples set content = '{"text": "forged"}' where dataset_id = :poems;
delete from pgtrain.dataset_samples where dataset_id = :poems;
truncate pgtrain.dataset_samples;
select pgtrain.delete_dataset(:poems);
select count(*) from pgtrain.dataset_samples where dataset_id = :poems;
select title, subject ->> 'name' as name from pgtrain.audit_log where title = 'dataset_deleted' and subject ->> 'dataset_id' = :'poems';

-- A dataset larger than memory can be made of a query: what a batch takes is given back before the next. 50 MB here.
begin;
create temporary table memory_seen (bytes bigint);
create function pg_temp.look() returns trigger language plpgsql as $$
begin
    insert into memory_seen select sum(total_bytes) from pg_backend_memory_contexts where name in ('SPI Proc', 'pgtrain statement');
    return null;
end $$;
create trigger look after update of sample_count on pgtrain.datasets for each row execute function pg_temp.look();
create temporary table large_texts (t text);
alter table large_texts alter t set storage external;
insert into large_texts select repeat(g || ' ', 100000) from generate_series(1, 160) g;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.dataset_from_query('very large', 'select t from large_texts') as large \gset
select sample_count, size_bytes from pgtrain.datasets where id = :large;
select count(*) as batches, max(bytes) < 33554432 as is_little from memory_seen;
rollback;

drop table public.regress_secret;
drop schema regress_data_schema cascade;
drop owned by regress_data;
drop role regress_data;
