-- API keys: shown once, bounded by scopes in every check and policy, void at once when revoked; no acts on accounts without a scope
-- that names them.
\set VERBOSITY terse
select current_user as superuser \gset
set client_min_messages = warning;
create role regress_keys login;
select pgtrain.grant_application('regress_keys');
select pgtrain.register_user('key_anna', 'anna@keys.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('key_ben', 'ben@keys.test', 'a long enough secret') as ben \gset
select pgtrain.register_user('key_root', 'root@keys.test', 'a long enough secret') as root \gset
select pgtrain.register_user('key_dev', 'dev@keys.test', 'a long enough secret') as dev \gset
select pgtrain.grant_role(:root, 'admin');
select pgtrain.grant_role(:dev, 'developer');

\c - regress_keys
set client_min_messages = warning;
-- Nobody makes keys; the scopes are checked against what there is and what the maker may do.
select pgtrain.create_api_key('x');
select session_token as anna_token from pgtrain.login('key_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('key_ben', 'a long enough secret') \gset
select session_token as root_token from pgtrain.login('key_root', 'a long enough secret') \gset
select session_token as dev_token from pgtrain.login('key_dev', 'a long enough secret') \gset
select pgtrain.authenticate(:'anna_token', true) = :anna as is_anna;
select pgtrain.create_api_key('', '{}');
select pgtrain.create_api_key(null, '{}');
select pgtrain.create_api_key('x', null);
select pgtrain.create_api_key('x', array[null]);
select pgtrain.create_api_key('x', array['read']);
select pgtrain.create_api_key('x', array['read:nothing']);
select pgtrain.create_api_key('x', array['read:datasets:all']);
select pgtrain.create_api_key('x', array['read:datasets:any:more']);
select pgtrain.create_api_key('x', array['read:datasets:any']);
select pgtrain.create_api_key('x', array['update:admin']);
select pgtrain.create_api_key('x', expires_at => now() - interval '1 second');
select * from pgtrain.create_api_key('narrow', array['read:datasets', 'read:users', 'read:datasets', 'create:datasets']) \gset narrow_
select * from pgtrain.create_api_key('wide') \gset wide_
select * from pgtrain.create_api_key('accounts', array['update:users', 'create:users']) \gset accounts_
select * from pgtrain.create_api_key('blind', array['create:datasets'], now() + interval '1 day') \gset blind_
select :'narrow_key' ~ '^pgt_[A-Za-z0-9_-]{43}$' as looks_right, :'narrow_prefix' = left(:'narrow_key', 12) as has_prefix;
select name, scopes, is_valid, is_current, last_used_at is null as unused, expires_at is not null as ends from pgtrain.my_api_keys order by id;
select pgtrain.create_dataset('key data') > 0 as made;
select hash from pgtrain.api_keys;
update pgtrain.api_keys set scopes = '{}';

-- The rights of a key are those of its user within its scopes: in checks, functions and policies.
select pgtrain.authenticate(:'narrow_key', true) = :anna as is_anna;
select pgtrain.current_api_key_id() = :narrow_id as is_key, pgtrain.current_session_id() is null as no_session;
select pgtrain.has_permission('read', 'datasets'), pgtrain.has_permission('update', 'datasets'), pgtrain.has_permission('read', 'training');
select name from pgtrain.datasets;
update pgtrain.datasets set description = 'changed';
select pgtrain.mark_favorite('datasets', id) from pgtrain.datasets where name = 'key data';
select pgtrain.submit_run(dataset_id => 1);
select username from pgtrain.users;
select name, is_current from pgtrain.my_api_keys order by id;
select pgtrain.authenticate(:'blind_key', true) = :anna as is_anna;
select count(*) from pgtrain.datasets;
select count(*) from pgtrain.users;
select pgtrain.create_dataset('made blind') > 0 as made;
-- Without scopes: all the user's rights, but no acts on accounts.
select pgtrain.authenticate(:'wide_key', true) = :anna as is_anna;
select count(*) from pgtrain.datasets;
select pgtrain.mark_favorite('datasets', id), (select count(*) from pgtrain.favorites where entity = 'datasets') as before from pgtrain.datasets where name = 'key data';
select pgtrain.authenticate(:'blind_key', true) = :anna as is_anna;
select count(*) from pgtrain.favorites;
select pgtrain.authenticate(:'wide_key', true) = :anna as is_anna;
select pgtrain.create_api_key('more', array['read:datasets']);
select pgtrain.change_password('a long enough secret', 'another long secret');
select pgtrain.register_user('key_eve', 'eve@keys.test', 'a long enough secret');
select pgtrain.revoke_session(1);
select pgtrain.revoke_all_sessions();
select pgtrain.revoke_api_key(:narrow_id);
select pgtrain.append_samples(id, array['some text that is long enough']) from pgtrain.datasets where name = 'made blind';
select pgtrain.submit_run(dataset_id => id, config => '{"size": "nano", "steps": 2}', start_at => now() + interval '1 day') as run from pgtrain.datasets where name = 'made blind' \gset
select pgtrain.cancel_run(:run);
-- A key that names them may.
select pgtrain.authenticate(:'accounts_key', true) = :anna as is_anna;
select pgtrain.register_user('key_eve', 'eve@keys.test', 'a long enough secret') > 0 as registered;
select pgtrain.change_password('a long enough secret', 'another long secret');
select pgtrain.create_api_key('more', array['read:datasets']);
select pgtrain.current_user_id() = :anna as key_outlives_the_password;
select session_token as anna_token from pgtrain.login('key_anna', 'another long secret') \gset

-- A key that may make keys makes none that reaches farther or lasts longer.
select pgtrain.authenticate(:'dev_token', true) = :dev as is_dev;
select * from pgtrain.create_api_key('maker', array['create:api', 'read:models'], now() + interval '1 hour') \gset maker_
select pgtrain.authenticate(:'maker_key', true) = :dev as is_dev;
select pgtrain.create_api_key('child', '{}');
select pgtrain.create_api_key('child', array['read:training']);
select * from pgtrain.create_api_key('child', array['read:models']) \gset child_
select pgtrain.authenticate(:'dev_token', true) = :dev as is_dev;
select name, expires_at <= now() + interval '1 hour' as bounded from pgtrain.my_api_keys order by id;

-- "any" in a scope is within the user's reach, and a scope without it cuts an administrator down to his own rows.
select pgtrain.authenticate(:'root_token', true) = :root as is_root;
select * from pgtrain.create_api_key('own only', array['read:users', 'read:datasets']) \gset own_
select * from pgtrain.create_api_key('any', array['read:users:any']) \gset any_
select pgtrain.authenticate(:'own_key', true) = :root as is_root;
select username from pgtrain.users;
select pgtrain.has_permission('read', 'users', 'any'), pgtrain.has_permission('update', 'admin', 'any');
select pgtrain.grant_role(:root, 'superuser');
select pgtrain.authenticate(:'any_key', true) = :root as is_root;
select count(*) >= 4 as sees_all from pgtrain.users;
select count(*) from pgtrain.datasets;

-- Revocation, by its owner only, counts at once; a key may end itself; a used one says when.
select pgtrain.authenticate(:'ben_token', true) = :ben as is_ben;
select pgtrain.revoke_api_key(:narrow_id);
select pgtrain.authenticate(:'anna_token', true) = :anna as is_anna;
select last_used_at > now() - interval '1 hour' as used from pgtrain.my_api_keys where id = :narrow_id;
select pgtrain.authenticate(:'narrow_key', true) = :anna as is_anna;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.revoke_api_key(:narrow_id), pgtrain.revoke_api_key(:narrow_id);
commit;
select pgtrain.current_user_id() is null as is_nobody;
select pgtrain.create_dataset('too late');
select pgtrain.authenticate(:'narrow_key');
select pgtrain.authenticate(:'wide_key', true) = :anna as is_anna;
select pgtrain.revoke_api_key(:wide_id), pgtrain.current_user_id() is null as is_nobody;
select pgtrain.authenticate('pgt_' || repeat('x', 43));
select pgtrain.authenticate(:'blind_key', true) = :anna as is_anna;
-- logout leaves the key as it is.
select pgtrain.logout(), pgtrain.current_user_id() is null as is_nobody;
select pgtrain.authenticate(:'blind_key', true) = :anna as is_anna;

-- Expiry, changed scopes and a user who is not active count in the identity that is in force.
\c - :superuser
set client_min_messages = warning;
set session authorization regress_keys;
select pgtrain.authenticate(:'blind_key', true) = :anna as is_anna;
reset session authorization;
update pgtrain.api_keys set scopes = array['read:datasets'] where id = :blind_id;
select count(*) from pgtrain.datasets where owner_id = :anna;
set session authorization regress_keys;
select count(*) from pgtrain.datasets;
reset session authorization;
update pgtrain.users set is_active = false where id = :anna;
set session authorization regress_keys;
select pgtrain.current_user_id() is null as is_nobody;
reset session authorization;
update pgtrain.users set is_active = true where id = :anna;
update pgtrain.api_keys set expires_at = now() - interval '1 second' where id = :blind_id;
set session authorization regress_keys;
select pgtrain.current_user_id() is null as is_nobody;
select pgtrain.authenticate(:'blind_key');
reset session authorization;
-- What is stored cannot be used.
select count(*) from pgtrain.api_keys k where position(convert_to(:'any_key', 'UTF8') in k.hash) > 0 or length(k.hash) <> 32;
select title, actor_id = :anna as by_anna, api_key_id = :narrow_id as with_narrow, api_key_id = :wide_id as with_wide from pgtrain.audit_log where title like 'api_key%' and (subject ->> 'api_key_id')::bigint in (:narrow_id, :wide_id) order by id;
select title, api_key_id = :wide_id as with_wide from pgtrain.audit_log where actor_id = :anna and subject ->> 'run_id' = :'run' order by id;
drop owned by regress_keys;
drop role regress_keys;
