-- Database roles that stand for users: who connects as one is the user, and nothing else makes him so.
\set VERBOSITY terse
select current_user as superuser \gset
set client_min_messages = warning;
create role regress_map_anna login;
create role regress_map_ben login;
create role regress_map_nologin;
grant regress_map_anna to regress_map_ben;
select pgtrain.grant_application('regress_map_anna');
select pgtrain.grant_application('regress_map_ben');
select pgtrain.register_user('map_anna', 'anna@map.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('map_ben', 'ben@map.test', 'a long enough secret') as ben \gset
select pgtrain.register_user('map_admin', 'admin@map.test', 'a long enough secret') as admin \gset
select pgtrain.grant_role(:admin, 'admin');
select pgtrain.register_user('map_super', 'super@map.test', 'a long enough secret') as super \gset
select pgtrain.grant_role(:super, 'superuser');
select session_token as admin_token from pgtrain.login('map_admin', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('map_ben', 'a long enough secret') \gset

select pgtrain.map_database_role(-5, 'regress_map_anna');
select pgtrain.map_database_role(:anna, 'regress_map_nothing');
select pgtrain.map_database_role(:anna, 'regress_map_nologin');
-- Its name is that of whoever runs the tests, so only the code is shown.
\set VERBOSITY sqlstate
select pgtrain.map_database_role(:anna, :'superuser');
\set VERBOSITY terse
select pgtrain.map_database_role(:anna, 'regress_map_anna');
select pgtrain.map_database_role(:ben, 'regress_map_anna');

\c - regress_map_anna
set client_min_messages = warning;
select pgtrain.current_user_id() = :anna as is_anna, pgtrain.current_session_id() is null as no_session;
select username from pgtrain.users;
select pgtrain.create_dataset('mapped data') > 0 as made;
select pgtrain.map_database_role(:anna, 'regress_map_ben');
-- A token wins for as long as it holds; who was refused or logged out is nobody from then on.
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select username from pgtrain.users;
commit;
select pgtrain.current_user_id() = :anna as is_anna;
begin;
select pgtrain.logout();
select pgtrain.current_user_id() is null as is_nobody;
rollback;
select pgtrain.current_user_id() = :anna as is_anna;
select pgtrain.authenticate('nonsense');
select pgtrain.current_user_id() is null as is_nobody;
discard all;
set client_min_messages = warning;
select pgtrain.current_user_id() = :anna as is_anna;
select pgtrain.logout(), pgtrain.current_user_id() is null as is_nobody;

-- Membership, SET ROLE and SET SESSION AUTHORIZATION do not make one of another role the user.
\c - regress_map_ben
set client_min_messages = warning;
set role regress_map_anna;
select current_user, pgtrain.current_user_id() is null as is_nobody, (select count(*) from pgtrain.datasets) as datasets;
set session authorization regress_map_anna;
select pgtrain.current_user_id() is null as is_nobody;
reset role;

-- A superuser stands for himself only, also a role that was made one later; a renamed or recreated role stands for nobody.
\c - :superuser
set client_min_messages = warning;
select pgtrain.current_user_id() is null as is_nobody;
alter role regress_map_anna superuser;
set session authorization regress_map_anna;
select pgtrain.current_user_id() is null as is_nobody;
reset session authorization;
alter role regress_map_anna nosuperuser;
set session authorization regress_map_anna;
select pgtrain.current_user_id() = :anna as is_anna;
reset session authorization;
alter role regress_map_anna rename to regress_map_other;
set session authorization regress_map_other;
select pgtrain.current_user_id() is null as is_nobody;
reset session authorization;
create role regress_map_anna login;
select pgtrain.grant_application('regress_map_anna');
set session authorization regress_map_anna;
select pgtrain.current_user_id() is null as is_nobody;
reset session authorization;
-- Mapped anew, the former role's claim is gone.
select pgtrain.map_database_role(:ben, 'regress_map_anna');
select id = :ben as is_ben, db_role_oid = 'regress_map_anna'::regrole as has_oid from pgtrain.users where db_role is not null and username like 'map\_%';
set session authorization regress_map_anna;
select pgtrain.current_user_id() = :ben as is_ben;
reset session authorization;
-- Deactivated, taken away: at once.
update pgtrain.users set is_active = false where id = :ben;
set session authorization regress_map_anna;
select pgtrain.current_user_id() is null as is_nobody;
reset session authorization;
update pgtrain.users set is_active = true where id = :ben;
select pgtrain.unmap_database_role(:ben), pgtrain.unmap_database_role(:ben);
set session authorization regress_map_anna;
select pgtrain.current_user_id() is null as is_nobody;
-- An administrator of the platform maps, but nobody who may do more than he.
select pgtrain.authenticate(:'admin_token', true) = :admin as is_admin;
select pgtrain.map_database_role(:anna, 'regress_map_other');
reset session authorization;
delete from pgtrain.role_permissions where role_id = 2 and permission_id = (select id from pgtrain.permissions where name = 'users_delete_any');
set session authorization regress_map_anna;
select pgtrain.map_database_role(:super, 'regress_map_ben');
select pgtrain.logout();
reset session authorization;
insert into pgtrain.role_permissions (id, role_id, permission_id) overriding system value
select 2000 + id, 2, id from pgtrain.permissions where name = 'users_delete_any';
select title from pgtrain.audit_log where title like 'database_role%' and (subject ->> 'user_id')::bigint in (:anna, :ben) order by id;
select pgtrain.unmap_database_role(:anna);
drop owned by regress_map_anna, regress_map_ben, regress_map_other;
drop role regress_map_anna, regress_map_ben, regress_map_other, regress_map_nologin;
