-- Secrets: stored under the caller's name, listed without their values, opened by nothing that SQL can call; moved or damaged bytes do
-- not open; who may do what.
set client_min_messages = warning;
\pset format unaligned
create role regress_secrets;
select pgtrain.grant_application('regress_secrets');
select pgtrain.register_user('sec_anna', 'anna@secrets.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('sec_ben', 'ben@secrets.test', 'a long enough secret') as ben \gset
select pgtrain.register_user('sec_root', 'root@secrets.test', 'a long enough secret') as root \gset
select pgtrain.grant_role(:root, 'admin');
select session_token as anna_token from pgtrain.login('sec_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('sec_ben', 'a long enough secret') \gset
select session_token as root_token from pgtrain.login('sec_root', 'a long enough secret') \gset
set role regress_secrets;

\echo '# Nobody'
select pgtrain.store_secret('provider', 'sk-of-nobody');
select pgtrain.delete_secret('provider');
select * from pgtrain.secret_health;
select * from pgtrain.list_root_keys();
select pgtrain.rotate_secrets();

\echo '# Storing, replacing, listing, deleting'
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.store_secret('provider/key', 'sk-anna-plain-text') = pgtrain.store_secret('provider/key', 'sk-anna-second') as same_row;
prepare store(text, text) as select pgtrain.store_secret($1, $2) > 0 as stored;
execute store('token', 'a parameter');
execute store('token', 'a parameter');
select pgtrain.store_secret('longest', repeat('x', 16384)) > 0 as stored;
select name from pgtrain.my_secrets order by name;
select name, owner_id = :anna as own from pgtrain.secrets order by name;
select sealed from pgtrain.secrets;
select * from pgtrain.secrets;
update pgtrain.secrets set name = 'other';
insert into pgtrain.secrets (owner_id, name, sealed) values (:anna, 'planted', 'x');
delete from pgtrain.secrets;
select pgtrain.delete_secret('longest'), pgtrain.delete_secret('longest'), pgtrain.delete_secret(null);
begin;
select pgtrain.delete_secret('token');
rollback;
select count(*) from pgtrain.my_secrets;

\echo '# As many as the setting allows; a name that is there takes none'
reset role;
set pgtrain.secrets_per_user = 2;
set role regress_secrets;
select pgtrain.store_secret('third', 'value');
select pgtrain.store_secret('token', 'a parameter') > 0 as stored;
reset role;
reset pgtrain.secrets_per_user;
set role regress_secrets;

\echo '# What is refused, without quoting a value'
select pgtrain.store_secret('sk-anna swapped the arguments', 'name');
select pgtrain.store_secret('', 'value');
select pgtrain.store_secret('name', '');
select pgtrain.store_secret('name', null);
select pgtrain.store_secret(null, 'value');
select pgtrain.store_secret('name', repeat('x', 16385));
begin read only;
select pgtrain.store_secret('name', 'value');
rollback;
select pgtrain_private.seal_again('\x01', 'secrets/sealed/1/name');
select pgtrain_private.sealed_problem('\x01', 'secrets/sealed/1/name');
select pgtrain_private.rotate_portion(10);
select * from pgtrain_private.sealed_columns;
select * from pgtrain.secret_health;
select * from pgtrain.list_root_keys();
select pgtrain.rotate_secrets();
show pgtrain.root_key_command;
show pgtrain.root_key_file;
select name, setting from pg_settings where name like 'pgtrain.root_key%';

\echo '# Another user sees nothing of it; the same name is his own'
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select count(*) from pgtrain.my_secrets;
select count(*) from pgtrain.secrets;
select pgtrain.delete_secret('token');
select pgtrain.store_secret('token', 'of ben') > 0 as stored;
select name from pgtrain.my_secrets;

\echo '# The administrator sees which open under which key'
select pgtrain.authenticate(:'root_token', session => true) = :root as is_root;
select count(*) from pgtrain.my_secrets;
select * from pgtrain.list_root_keys();
select table_name, row_key = owner_id || '/' || name as is_keyed, name, key_id, has_key, is_current, opens, problem
  from pgtrain.secret_health where owner_id in (:anna, :ben) order by name, owner_id;
select pgtrain.rotate_secrets(), pgtrain.rotate_secrets(1);
select pgtrain.rotate_secrets(0);
select pgtrain.rotate_secrets(null);
select sealed from pgtrain.secrets;
reset role;
select pgtrain.logout();

\echo '# Moved, damaged, cut, foreign bytes'
create function pg_temp.health() returns table (name text, owner text, key_id text, opens boolean, problem text) language sql as $$
    select h.name, u.username, h.key_id, h.opens, regexp_replace(h.problem, '(sealed/)\d+', '\1N')
      from pgtrain.secret_health h join pgtrain.users u on u.id = h.owner_id where u.username like 'sec\_%' order by u.username, h.name $$;
begin;
update pgtrain.secrets s set sealed = o.sealed from pgtrain.secrets o where s.owner_id = :ben and o.owner_id = :anna and o.name = 'token';
select * from pg_temp.health();
rollback;
begin;
update pgtrain.secrets set name = 'renamed' where owner_id = :anna and name = 'token';
select * from pg_temp.health();
rollback;
begin;
update pgtrain.secrets set sealed = set_byte(sealed, length(sealed) - 1, 1 - get_byte(sealed, length(sealed) - 1) % 2) where name = 'token';
update pgtrain.secrets set sealed = substr(sealed, 1, 40) where name like 'provider%';
select * from pg_temp.health();
rollback;
begin;
update pgtrain.secrets set sealed = '' where owner_id = :ben;
update pgtrain.secrets set sealed = set_byte(sealed, 0, 2) where name = 'token' and owner_id = :anna;
update pgtrain.secrets set sealed = overlay(sealed placing '\xabababababababab' from 2) where name like 'provider%';
select * from pg_temp.health();
select pgtrain.rotate_secrets();
select pgtrain_private.seal_again(sealed, 'secrets/sealed/' || owner_id || '/' || name) from pgtrain.secrets where name like 'provider%';
rollback;
select pgtrain_private.sealed_problem('\xdeadbeef', 'x'), pgtrain_private.sealed_key('\xdeadbeef') is null as is_nothing;

\echo '# The log names the acts and no values'
select title, subject, actor_id in (:anna, :ben) as is_owner from pgtrain.audit_log where title like 'secret%' and actor_id in (:anna, :ben) order by id;
select count(*) from pgtrain.audit_log l where l::text ~ 'sk-anna-|a parameter|of ben';
select count(*) from pgtrain.secrets s where s::text ~ encode('sk-anna-', 'hex');

\echo '# Another user''s account goes, and with it his secrets'
delete from pgtrain.users where id = :ben;
select count(*) from pgtrain.secrets where owner_id = :ben;
delete from pgtrain.users where id in (:anna, :root);
drop owned by regress_secrets;
drop role regress_secrets;
