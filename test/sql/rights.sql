-- Rights: every kind of thing has its permissions, every table with an owner its policies by them; what applications may change in
-- tables; every function that changes something says so in the audit log.
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;

\echo '# Permissions by entity'
select p.entity || ': ' || string_agg(distinct p.action, ' ' order by p.action) from pgtrain.permissions p where p.id < 1000 group by p.entity order by p.entity collate "C";

\echo '# Tables by the entity whose permissions their policies ask for'
create temp view asked as
    select c.relname, p.polname, e.entity
      from pg_policy p join pg_class c on c.oid = p.polrelid and c.relnamespace = 'pgtrain'::regnamespace
     cross join lateral (select m[1] as entity
                           from regexp_matches(concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)),
                                               '(?:owner_scope|has_permission)\(''[a-z]+''::text, ''([a-z_]+)''::text', 'g') m) e;
select entity || ': ' || string_agg(distinct relname, ' ' order by relname) from asked group by entity order by entity collate "C";

\echo '# Exceptions to the rules (there are none)'
\echo 'policy that asks for an entity without permissions:'
select * from asked where entity not in (select p.entity from pgtrain.permissions p);
\echo 'table with an owner without a policy that asks for a permission:'
select distinct c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and a.attname in ('owner_id', 'user_id', 'actor_id')
   and c.relname not in (select relname from asked);
\echo 'table that refers to users whose row security is not on and forced:'
select c.relname from pg_class c
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and not (c.relrowsecurity and c.relforcerowsecurity)
   and exists (select from pg_constraint k where k.conrelid = c.oid and k.confrelid = 'pgtrain.users'::regclass);
\echo 'policy that asks who calls for each row, not once a statement:'
select p.polname, p.polrelid::regclass from pg_policy p
 where concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) ~ '(?<!SELECT (pgtrain_private|pgtrain)\.)(owner_scope|has_permission|current_user_id)\(';
\echo 'owner column of a policy without an index:'
select p.polrelid::regclass, m[1]
  from pg_policy p, regexp_matches(pg_get_expr(p.polqual, p.polrelid), 'in_scope\((.+?), \( SELECT', 'g') m
 where not exists (select from pg_index i where i.indrelid = p.polrelid and i.indpred is null
                      and translate(pg_get_indexdef(i.indexrelid, 1, true), '() ''', '') = translate(m[1], '() ''', ''))
   and p.polrelid::regclass::text not in ('pgtrain.run_metrics', 'pgtrain.dataset_samples',  -- by the million, and asked for by run and dataset
                                          'pgtrain.outbox', 'pgtrain.connection_roles')  -- few rows
 group by 1, 2 order by 1::text;
\echo 'text in an index that a caller''s own condition could be looked up in before the policy is asked:'
select i.indexrelid::regclass, a.attname
  from pg_index i join pg_class c on c.oid = i.indrelid
 cross join lateral unnest(i.indkey::int2[]) with ordinality k (number, place)
  join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
 where c.relnamespace = 'pgtrain'::regnamespace and c.relrowsecurity and a.atttypid in ('text'::regtype, 'varchar'::regtype, 'bytea'::regtype, 'jsonb'::regtype)
   and (c.relname, a.attname) not in (('favorites', 'entity'), ('training_tasks', 'message_id'),  -- words and numbers, no content
                                      ('datasets', 'dataset_id'), ('connection_roles', 'provider_name'), ('plans', 'name'))  -- the administrator's own
   and not exists (select from pgtrain_private.hidden_columns h where h.table_name = c.relname and coalesce(h.column_name, a.attname) = a.attname)
   and not (k.place > 1 and (select count(*) = 1 and bool_and(pg_get_expr(p.polqual, p.polrelid) ~ ('^pgtrain_private.in_scope\(' || pg_get_indexdef(i.indexrelid, 1, true)))
                               from pg_policy p where p.polrelid = c.oid and p.polcmd in ('r', '*')))
 order by 1::text;
\echo 'function that asks for a permission that does not exist:'
select f.proname, m[1], m[2]
  from pg_proc f, regexp_matches(f.prosrc, '(?:require_permission|has_permission|may_access)\((?:[a-z_.]+, )?''([a-z]+)'', ''([a-z_]+)''', 'g') m
 where f.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and not exists (select from pgtrain.permissions p where p.action = m[1] and p.entity = m[2]);
\echo 'system role that is not one of the extension, or lacks:'
select name from pgtrain.roles where is_system_role <> (id < 1000)
union all select n from unnest(array['superuser', 'admin', 'premium', 'user', 'developer']) n where n not in (select name from pgtrain.roles where is_system_role);
\echo 'premium has not all that user has:'
select permission from pgtrain.role_grants where role = 'user' except select permission from pgtrain.role_grants where role = 'premium';
\echo 'anybody''s rows are reached by other roles than superuser and admin:'
select role, permission from pgtrain.role_grants where access = 'any' and role not in ('superuser', 'admin')
   and not (role = 'messenger' and entity = 'messages');  -- whose messages it delivers is anybody's by nature

\echo 'function that changes something and leaves no line in the audit log:'
-- What a function calls is looked for too. Without need of a line:
create temp table unlogged (function name, why text);
insert into unlogged values
    ('append_samples', 'the rows are append-only and have their times'), ('append_records', 'as append_samples'),
    ('dataset_from_query', 'in C; calls create_dataset'), ('store_secret', 'in C; writes secret_stored'), ('submit_run', 'in C; writes submit_run'),
    ('authenticate', 'the session has its times, and its login a line'), ('count_usage', 'the ledger says so'), ('logout', 'the session says when it ended'),
    ('plan_run', 'writes a cache'), ('mark_favorite', 'a mark that its user sees alone'), ('take_messages', 'the message says so'), ('confirm_message', 'as take_messages'), ('fail_message', 'as take_messages'), ('wait_for_run', 'reads'), ('export_artifact', 'reads'), ('export_model_file', 'reads'), ('generate', 'reads'), ('generate_many', 'reads'), ('generate_stream', 'reads');
create temp view sources as
    select p.proname, p.prosrc as text from pg_proc p where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace);
with recursive logged as (
    select proname from sources where text ~ 'write_audit|audit_log' or proname = 'write_audit'
    union
    select s.proname from sources s join logged l on s.text ~ ('\mpgtrain(_private)?\.' || l.proname || '\M'))
select p.proname from pg_proc p
 where p.pronamespace = 'pgtrain'::regnamespace and p.provolatile = 'v' and p.proname not in (select proname from logged)
   and p.proname not in (select function from unlogged) order by p.proname collate "C";

\echo '# Those in C, and a login that fails, leave one: who, on what, from where'
select pgtrain.register_user('rgt_anna', 'anna@rights.test', 'a long enough secret') as anna \gset
select session_token as token from pgtrain.login('rgt_anna', 'a long enough secret') \gset
select count(*) from pgtrain.login('rgt_anna', 'wrong');
begin;
select pgtrain.authenticate(:'token') = :anna;
select pgtrain.append_samples(pgtrain.dataset_from_query('d', $$select 'some text that is long enough'$$), array['more']);
select pgtrain.submit_run(dataset_id => id, config => '{"size": "nano", "steps": 3}', start_at => now() + interval '1 day') > 0 from pgtrain.datasets where owner_id = :anna;
select pgtrain.store_secret('s', 'value') > 0;
select pgtrain.delete_secret('s');
commit;
select title, actor_id = :anna as by_her, db_role = session_user as db_role, ip is not distinct from inet_client_addr() as ip, subject ->> 'user_id' = :'anna' as on_her
  from pgtrain.audit_log
 where id >= (select max(id) from pgtrain.audit_log where title = 'user_registered' and subject->>'user_id' = :'anna') order by id;
\echo '# Users see their own lines; nobody changes one'
create role regress_rights login;
select pgtrain.grant_application('regress_rights');
set role regress_rights;
begin; select pgtrain.authenticate(:'token') = :anna; select string_agg(distinct title, ' ' order by title) from pgtrain.audit_log; commit;
update pgtrain.audit_log set title = 'x';
reset role;
-- For the table's owner too, in whatever form; even where triggers of others are off.
update pgtrain.audit_log set title = 'x';
insert into pgtrain.audit_log (id, title) overriding system value select id, 'x' from pgtrain.audit_log on conflict (id) do update set title = 'x';
merge into pgtrain.audit_log a using (values (1)) v (i) on true when matched then delete;
set session_replication_role = replica;
delete from pgtrain.audit_log;
truncate pgtrain.audit_log;
reset session_replication_role;

\echo '# An administrator speaks from where he logged in; a login is the act of who logs in, whoever was there before'
select pgtrain.authenticate(:'token', true) = :anna;
select pgtrain.register_user('rgt_ben', 'ben@rights.test', 'a long enough secret') as ben \gset
select session_token as ben_token from pgtrain.login('rgt_ben', 'a long enough secret', ip_address => '192.0.2.7') \gset
select pgtrain.authenticate(:'ben_token', true) = :ben;
select pgtrain.create_training('from afar') > 0;
select count(*) from pgtrain.login('rgt_ben', 'wrong', ip_address => '192.0.2.8');
-- Who guesses learns nothing from the log either.
begin; set local role regress_rights; select count(*) from pgtrain.login('rgt_anna', 'wrong'); commit;
set role regress_rights;
select count(*) from pgtrain.audit_log where title = 'login_failed';
reset role;
select subject - 'user_id' = jsonb_build_object('caller', :ben, 'failures', 1) as names_caller, actor_id from pgtrain.audit_log where title = 'login_failed' order by id desc limit 1;
select pgtrain.logout();
select title, actor_id = :ben as by_him, host is not distinct from host(inet_client_addr()) as host, ip from pgtrain.audit_log
 where (subject->>'user_id')::bigint = :ben or actor_id = :ben order by id;
discard all;
set client_min_messages = warning;
\echo '# No application for who reaches beyond its rights by membership'
begin;
grant pg_write_all_data to regress_rights;
savepoint given;
select pgtrain.grant_application('regress_rights');
rollback to given;
revoke pg_write_all_data from regress_rights;
create role regress_between noinherit bypassrls in role pg_monitor;
grant regress_between to regress_rights;
savepoint given;
select pgtrain.grant_application('regress_rights');
rollback to given;
alter role regress_between nobypassrls;
select pgtrain.grant_application('regress_rights');
rollback;
\echo '# grant_application again takes away what was hidden since'
select has_column_privilege('regress_rights', 'pgtrain.trainings', 'description', 'select'), has_table_privilege('regress_rights', 'pgtrain.image_sizes', 'select');
begin;
insert into pgtrain_private.hidden_columns values ('trainings', 'description'), ('image_sizes', null);
select pgtrain.grant_application('regress_rights');
select has_column_privilege('regress_rights', 'pgtrain.trainings', 'description', 'select'), has_column_privilege('regress_rights', 'pgtrain.trainings', 'name', 'select'),
       has_any_column_privilege('regress_rights', 'pgtrain.image_sizes', 'select');
rollback;
\echo '# What an application may write in tables by itself: nothing else'
select t.relname || ' ' || lower(p) || coalesce(' (' || string_agg(a.attname, ' ' order by a.attname) || ')', '')
  from pg_class t cross join unnest(array['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
  left join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and p = 'UPDATE' and has_column_privilege('regress_rights', t.oid, a.attnum, p)
 where t.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace) and t.relkind in ('r', 'p', 'v')
   and (a.attnum is not null or has_table_privilege('regress_rights', t.oid, p)) group by t.relname, p order by 1;
\echo '# revoke_application takes everything back: no right is left, and the role can be dropped'
select pgtrain.revoke_application('regress_rights'), pgtrain.revoke_application('regress_rights');
select has_schema_privilege('regress_rights', 'pgtrain', 'usage');
drop role regress_rights;
select pgtrain.revoke_application('regress_rights');
select pgtrain.revoke_application(null);
select pgtrain.delete_dataset(id, force => true) from pgtrain.datasets where owner_id = :anna;
