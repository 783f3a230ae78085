-- Access: roles, permissions, expiry; and the attacks on identity and row security that must fail.
\set VERBOSITY terse
select current_user as superuser \gset
set client_min_messages = warning;
create role regress_access login;
create role regress_access_other login;
select pgtrain.grant_application('regress_access');
create schema regress_evil authorization regress_access;
select pgtrain.register_user('axs_anna', 'anna@access.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('axs_ben', 'ben@access.test', 'a long enough secret') as ben \gset
select pgtrain.register_user('axs_root', 'root@access.test', 'a long enough secret') as root \gset
select session_token as anna_token from pgtrain.login('axs_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('axs_ben', 'a long enough secret') \gset
select session_token as root_token from pgtrain.login('axs_root', 'a long enough secret') \gset
select pgtrain.grant_role(:root, 'admin');
\pset format unaligned

-- What the seeded roles may do.
select role, entity, string_agg(action || ':' || access, ' ' order by action, access) from pgtrain.role_grants group by role, entity order by role, entity;

\c - regress_access
set client_min_messages = warning;
-- Nobody may do anything.
select pgtrain.has_permission('read', 'users'), count(*) from pgtrain.users;
select pgtrain.create_dataset('x');
select pgtrain.grant_role(:ben, 'admin');

-- A user has his own rights, an administrator everybody's.
select pgtrain.authenticate(:'anna_token', true) = :anna as is_anna;
select pgtrain.has_permission('read', 'datasets'), pgtrain.has_permission('read', 'datasets', 'any'), pgtrain.has_permission('fly', 'datasets');
select pgtrain.has_permission('read', 'datasets', 'all');
select pgtrain.grant_role(:anna, 'admin');
select pgtrain.revoke_role(:ben, 'user');
select pgtrain.create_role('mine');
select pgtrain.set_usage_limit(:anna, 'training_jobs', -1);
select pgtrain.create_dataset('axs data') > 0 as made;
select pgtrain.authenticate(:'root_token', true) = :root as is_root;
select count(*) from pgtrain.users where id in (:anna, :ben, :root);
select count(*) from pgtrain.datasets where name = 'axs data';

-- Giving, expiry, taking: honoured by the next statement. Nobody gives what he lacks.
select pgtrain.create_role('axs_reader', 'reads all data') > 0 as made;
select pgtrain.create_role('axs_reader');
select pgtrain.create_role('Not Good');
select pgtrain.create_role(null);
select pgtrain.grant_permission('axs_reader', 'read', 'datasets', 'any');
select pgtrain.grant_permission('axs_reader', 'read', 'nothing', 'any');
select pgtrain.grant_role(:ben, 'axs_writer');
select pgtrain.grant_role(:ben, 'axs_reader');
select pgtrain.grant_role(-5, 'axs_reader');
select pgtrain.delete_role('axs_reader');
select pgtrain.delete_role('user');
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select name from pgtrain.datasets where name = 'axs data';
select pgtrain.has_permission('read', 'datasets', 'any');
commit;
select pgtrain.grant_role(:ben, 'axs_reader', now() - interval '1 second');
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select name from pgtrain.datasets where name = 'axs data';
commit;
select pgtrain.grant_role(:ben, 'axs_reader', now() + interval '1 hour');
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select name from pgtrain.datasets where name = 'axs data';
commit;
select pgtrain.revoke_permission('axs_reader', 'read', 'datasets', 'any');
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select name from pgtrain.datasets where name = 'axs data';
commit;
select pgtrain.revoke_role(:ben, 'axs_reader'), pgtrain.revoke_role(:ben, 'axs_reader');
select pgtrain.delete_role('axs_reader');

-- Attack: an identity by setting, role change or session authorization.
select pgtrain.authenticate(:'ben_token', true) = :ben as is_ben;
select set_config('pgtrain.user_id', :'anna', false);
set pgtrain.current_user_id = 1;
select set_config('request.jwt.claims', '{"sub":"1"}', false) is not null as set;
set role regress_access_other;
set session authorization regress_access_other;
-- Its name is that of whoever runs the tests, so only the code is shown.
\set VERBOSITY sqlstate
set session authorization :superuser;
\set VERBOSITY terse
select pgtrain.current_user_id() = :ben as is_ben, count(*) from pgtrain.users;

-- Attack: private functions and tables.
select pgtrain_private.token_hash('x');
select pgtrain_private.write_audit('forged');
select * from pgtrain_private.rights_marker;
select hash from pgtrain.passwords;
select token_hash from pgtrain.sessions;
select * from pgtrain.sessions;
select id is not null from pgtrain.sessions limit 1;
select pgtrain.grant_application('regress_access');

-- Attack: writing what only functions write.
update pgtrain.users set is_active = true;
update pgtrain.users set failed_login_count = 0, locked_until = null;
update pgtrain.users set db_role = 'regress_access';
update pgtrain.user_usage_limits set limit_value = -1;
update pgtrain.user_usage_limits set used_value = 0;
insert into pgtrain.user_roles (user_id, role_id) select :ben, 2;
delete from pgtrain.usage_entries;
truncate pgtrain.audit_log;
update pgtrain.datasets set owner_id = :ben;
update pgtrain.datasets set content_hash = '\x00';
insert into pgtrain.favorites (user_id, entity, entity_id) values (:anna, 'models', 1);
-- Own profile, and nobody else's.
update pgtrain.users set name = 'Ben' where id in (:anna, :ben);
select name from pgtrain.users;

-- Attack: a leaky function in a condition is not shown rows of others; an operator of one's own is not used in our functions.
create function regress_evil.leak(t text) returns boolean language plpgsql cost 0.0000001 as $$ begin raise warning 'leaked %', t; return true; end $$;
create function regress_evil.always(bigint, bigint) returns boolean language plpgsql as $$ begin raise warning 'evil operator ran as %', current_user; return true; end $$;
create operator regress_evil.= (leftarg = bigint, rightarg = bigint, function = regress_evil.always);
select count(*) from pgtrain.users where regress_evil.leak(username);
select count(*) from pgtrain.user_training_datasets where regress_evil.leak(name);
select count(*) from pgtrain.my_usage where regress_evil.leak(resource_type::text);
set search_path = regress_evil, pg_catalog;
select pgtrain.has_permission('read', 'datasets');
select count(*) from pgtrain.datasets;
select pgtrain.create_dataset('ben''s own') operator(pg_catalog.>) 0 as made;
begin;
select pgtrain.authenticate(:'anna_token') operator(pg_catalog.=) :anna as is_anna;
commit;
select pgtrain.logout();
reset search_path;

-- Attack: a statement prepared by one user, run by another; the plan is kept.
select session_token as ben_token from pgtrain.login('axs_ben', 'a long enough secret') \gset
set plan_cache_mode = force_generic_plan;
prepare mine as select name from pgtrain.datasets order by name;
prepare who as select pgtrain.current_user_id();
begin; select pgtrain.authenticate(:'anna_token') = :anna as is_anna; execute mine; commit;
begin; select pgtrain.authenticate(:'ben_token') = :ben as is_ben; execute mine; commit;
execute mine;
begin; select pgtrain.authenticate(:'root_token') = :root as is_root; select count(*) >= 2 as sees_all from pgtrain.datasets where name in ('axs data', 'ben''s own'); commit;
begin; select pgtrain.authenticate(:'anna_token') = :anna as is_anna; execute mine; commit;
-- A cursor shows the rows of who is in force when it is first read.
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
declare c cursor for select name from pgtrain.datasets order by name;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
fetch all from c;
commit;
-- With the owner index or without it, in parallel or not: the same rows.
set enable_seqscan = off;
begin; select pgtrain.authenticate(:'ben_token') = :ben as is_ben; select name from pgtrain.datasets order by name; commit;
reset enable_seqscan; set enable_indexscan = off; set enable_bitmapscan = off; set enable_indexonlyscan = off;
begin; select pgtrain.authenticate(:'ben_token') = :ben as is_ben; select name from pgtrain.datasets order by name; commit;
set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; set force_parallel_mode = on;
begin; select pgtrain.authenticate(:'ben_token') = :ben as is_ben; select name from pgtrain.datasets order by name; commit;
reset all;
-- The index of the owner serves the policy, whatever autovacuum has counted in the tables.
set enable_seqscan = off; set enable_bitmapscan = off;
\pset format aligned
begin; select pgtrain.authenticate(:'ben_token') = :ben as is_ben; explain (costs off) select id from pgtrain.ssh_keys; explain (costs off) select id from pgtrain.audit_log; commit;

\c - :superuser
set client_min_messages = warning;
-- Attack: a function in an index, run when an administrator analyses the table.
select pgtrain.register_user('axs_eve', 'eve@access.test', 'a long enough secret') as eve \gset
\c - regress_access
set client_min_messages = warning;
create function regress_evil.grab(bigint) returns bigint language plpgsql immutable as $$ begin perform pgtrain.grant_role($1, 'admin'); return $1; exception when insufficient_privilege or invalid_authorization_specification then return 0; end $$;
create table regress_evil.trap (id bigint);
create index on regress_evil.trap (regress_evil.grab(id));
insert into regress_evil.trap values (:eve);
\c - :superuser
set client_min_messages = warning;
analyze regress_evil.trap;
reindex table regress_evil.trap;
select r.name from pgtrain.user_roles ur join pgtrain.roles r on r.id = ur.role_id where ur.user_id = :eve;

drop schema regress_evil cascade;
drop owned by regress_access, regress_access_other;
drop role regress_access, regress_access_other;
