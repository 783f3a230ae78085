-- Identities: login through outside providers by a trusted database role only, invitations, SSH keys.
\set VERBOSITY terse
select current_user as superuser \gset
set client_min_messages = warning;
create role regress_app login;
create role regress_oauth login;
select pgtrain.grant_application('regress_app'), pgtrain.grant_application('regress_oauth');
select pgtrain.register_user('ide_anna', 'anna@identities.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('ide_ben', 'ben@identities.test', 'another long secret') as ben \gset
select pgtrain.register_user('ide_boss', 'boss@identities.test', 'the secret of the boss') as boss \gset
select pgtrain.grant_role(:boss, 'admin');
select session_token as anna_token from pgtrain.login('ide_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('ide_ben', 'another long secret') \gset
select session_token as boss_token from pgtrain.login('ide_boss', 'the secret of the boss') \gset

\echo '# Only an administrator trusts a role'
\c - regress_oauth
set client_min_messages = warning;
select pgtrain.trust_connection_role('discord', 'regress_oauth');
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.trust_connection_role('discord', 'regress_oauth');
select pgtrain.link_connection('discord', '4711');
select pgtrain.login_with_connection('discord', '4711');
select pgtrain.register_with_connection('discord', '4711', 'ide_carl', 'carl@identities.test');
select count(*) from pgtrain.connection_roles;
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
select pgtrain.trust_connection_role('Discord', 'regress_oauth');
select pgtrain.trust_connection_role('discord', 'regress_no_such_role');
select pgtrain.trust_connection_role('discord', 'regress_oauth'), pgtrain.trust_connection_role('discord', 'regress_oauth');
select provider_name, db_role from pgtrain.connection_roles;

\echo '# Linked by its owner; never by an equal address; each identity once'
discard all;
set client_min_messages = warning;
select pgtrain.link_connection('discord', '4711');
select count(*) from pgtrain.login_with_connection('discord', '4711');
select count(*) from pgtrain.login_with_connection('discord', 'anna@identities.test');
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.link_connection('github', '4711');
select pgtrain.link_connection('discord', '');
select pgtrain.link_connection('discord', '4711') > 0 as linked;
select pgtrain.link_connection('discord', '4711');
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select pgtrain.link_connection('discord', '4711');
select count(*) from pgtrain.connections;
select pgtrain.unlink_connection(id) from (select max(id) as id from pgtrain.connections) c;
discard all;
set client_min_messages = warning;
select user_id = :anna as is_anna, session_token from pgtrain.login_with_connection('discord', '4711', 'regress') \gset discord_
select :'discord_is_anna' as is_anna, pgtrain.authenticate(:'discord_session_token') = :anna as is_anna;
\echo '# SET ROLE and the owner''s rights do not make another role trusted'
\c - :superuser
set client_min_messages = warning;
grant regress_oauth to regress_app;
\c - regress_app
set client_min_messages = warning;
set role regress_oauth;
select pgtrain.login_with_connection('discord', '4711');
reset role;
\echo '# An account without a password: its last link stays'
\c - regress_oauth
set client_min_messages = warning;
select pgtrain.register_with_connection('discord', '4712', 'ide_carl', 'carl@identities.test') as carl \gset
select pgtrain.register_with_connection('discord', '4712', 'ide_dora', 'dora@identities.test');
select session_token from pgtrain.login_with_connection('discord', '4712') \gset carl_
select pgtrain.authenticate(:'carl_session_token', session => true) = :carl as is_carl;
select pgtrain.unlink_connection(id) from pgtrain.connections;
select pgtrain.link_connection('discord', '4713') as second \gset
select pgtrain.unlink_connection(:second), pgtrain.unlink_connection(:second);
\c - :superuser
set client_min_messages = warning;
select count(*) from pgtrain.passwords where user_id = :carl;
select count(*) from pgtrain.users where username = 'ide_dora';
update pgtrain.users set is_active = false where id = :carl;
\c - regress_oauth
set client_min_messages = warning;
select count(*) from pgtrain.login_with_connection('discord', '4712');
\echo '# A role of the same name, made anew, is not trusted'
\c - :superuser
set client_min_messages = warning;
alter role regress_oauth rename to regress_former;
create role regress_oauth login;
select pgtrain.grant_application('regress_oauth');
\c - regress_oauth
set client_min_messages = warning;
select pgtrain.login_with_connection('discord', '4711');
\c - regress_former
set client_min_messages = warning;
select pgtrain.login_with_connection('discord', '4711');
\c - :superuser
set client_min_messages = warning;
drop owned by regress_oauth;
drop role regress_oauth;
alter role regress_former rename to regress_oauth;
\c - regress_oauth
set client_min_messages = warning;
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
select pgtrain.distrust_connection_role('discord', 'regress_oauth'), pgtrain.distrust_connection_role('discord', 'regress_oauth');
select pgtrain.login_with_connection('discord', '4711');

\echo '# Invitations: by who may make users; no role beyond his own'
\c - regress_app
set client_min_messages = warning;
select pgtrain.create_invite();
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.create_invite();
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
select pgtrain.create_invite(email => 'no address');
select pgtrain.create_invite(send => true);
select pgtrain.create_invite(role => 'no_such_role');
select pgtrain.create_invite(valid_for => interval '-1 day');
select invite_id, code from pgtrain.create_invite('eve@identities.test', 'developer') \gset eve_
select invite_id, code from pgtrain.create_invite(valid_for => null) \gset open_
select code is null as is_secret from pgtrain.create_invite('fay@identities.test', send => true);
select email, role_name, expires_at - created_at between interval '6 days' and interval '8 days' as is_a_week from pgtrain.invites order by id;
select code_hash from pgtrain.invites;
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select count(*) from pgtrain.invites;
select pgtrain.revoke_invite(:open_invite_id);
select pgtrain.register_user('ide_eve', 'other@identities.test', 'a long enough secret', invite_code => :'eve_code');
select pgtrain.register_user('ide_eve', 'EVE@identities.test', 'a long enough secret', invite_code => :'eve_code') as eve \gset
select pgtrain.register_user('ide_eve2', 'eve@identities.test', 'a long enough secret', invite_code => :'eve_code');
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
select pgtrain.revoke_invite(:open_invite_id), pgtrain.revoke_invite(:open_invite_id);
select pgtrain.register_user('ide_gil', 'gil@identities.test', 'a long enough secret', invite_code => :'open_code');
\c - :superuser
set client_min_messages = warning;
select r.name from pgtrain.user_roles ur join pgtrain.roles r on r.id = ur.role_id where ur.user_id = :eve order by 1;
-- An invitation is worth what its maker may today.
begin;
select pgtrain.register_user('ide_other', 'other-boss@identities.test', 'a long enough secret') as other \gset
select pgtrain.grant_role(:other, 'admin');
savepoint granted;
select pgtrain.authenticate(session_token) = :other as is_other from pgtrain.login('ide_other', 'a long enough secret');
select code from pgtrain.create_invite(role => 'admin') \gset stale_
select code from pgtrain.create_invite() \gset plain_
select pgtrain.logout() as is_out \gset
savepoint made;
select pgtrain.revoke_role(:other, 'admin');
savepoint taken;
select pgtrain.register_user('ide_spare', 'spare@identities.test', 'a long enough secret', invite_code => :'stale_code');
rollback to taken;
select pgtrain.register_user('ide_spare', 'spare@identities.test', 'a long enough secret', invite_code => :'plain_code');
rollback to made;
select pgtrain.grant_role(:other, 'admin', clock_timestamp());
select pgtrain.register_user('ide_spare', 'spare@identities.test', 'a long enough secret', invite_code => :'stale_code');
rollback to made;
select pgtrain.register_user('ide_spare', 'spare@identities.test', 'a long enough secret', invite_code => :'stale_code') > 0 as is_registered;
rollback;
select kind, target, payload ->> 'code' as code from pgtrain.take_messages(100) where target like '%identities.test' \gset fay_
select :'fay_kind', :'fay_target';
select pgtrain.register_user('ide_fay', 'fay@identities.test', 'a long enough secret', invite_code => :'fay_code') as fay \gset
\echo '# Whoever has a code that was sent owns the address; one that was told proves nothing'
select username, is_verified, activated_at is not null as is_activated from pgtrain.users where id in (:eve, :fay) order by id;
\echo '# Void when who invited may no longer: invite, or give the role, or what the role was given since'
select pgtrain.create_role('ide_host') > 0 and pgtrain.create_role('ide_guest') > 0 as made;
select pgtrain.grant_permission('ide_host', 'create', 'invites'), pgtrain.grant_permission('ide_host', 'update', 'admin', 'any'), pgtrain.grant_role(:ben, 'ide_host');
create function pg_temp.accept(code text) returns text language plpgsql as $$
declare
    answer text := 'accepted';
begin
    begin
        perform pgtrain.register_user('ide_hal', 'hal@identities.test', 'a long enough secret', invite_code => code);
        raise exception using errcode = 'PT999', message = 'accepted';
    exception when sqlstate 'PT999' or sqlstate 'PT404' then
        return sqlerrm;
    end;
end $$;
begin;
select pgtrain.authenticate(session_token) = :ben as is_ben from pgtrain.login('ide_ben', 'another long secret');
select (pgtrain.create_invite()).code as plain_code, (pgtrain.create_invite(role => 'ide_guest')).code as guest_code \gset
commit;
select pg_temp.accept(:'plain_code') as plain, pg_temp.accept(:'guest_code') as guest;
select pgtrain.grant_permission('ide_guest', 'read', 'audit', 'any');
select pg_temp.accept(:'plain_code') as plain, pg_temp.accept(:'guest_code') as guest;
select pgtrain.revoke_permission('ide_guest', 'read', 'audit', 'any'), pgtrain.revoke_permission('ide_host', 'update', 'admin', 'any');
select pg_temp.accept(:'plain_code') as plain, pg_temp.accept(:'guest_code') as guest;
select pgtrain.grant_permission('ide_host', 'update', 'admin', 'any');
update pgtrain.user_roles set expires_at = now() - interval '1 second' where user_id = :ben and role_id = pgtrain_private.find_role('ide_host');
select pg_temp.accept(:'plain_code') as plain, pg_temp.accept(:'guest_code') as guest;
update pgtrain.user_roles set expires_at = null where user_id = :ben;
select pg_temp.accept(:'plain_code') as plain, pg_temp.accept(:'guest_code') as guest;
update pgtrain.users set is_active = false where id = :ben;
select pg_temp.accept(:'plain_code') as plain, pg_temp.accept(:'guest_code') as guest;
update pgtrain.users set is_active = true where id = :ben;
select pgtrain.revoke_role(:ben, 'ide_host');
select pgtrain.delete_role('ide_host'), pgtrain.delete_role('ide_guest');
delete from pgtrain.invites where owner_id = :ben;
select count(*) from pgtrain.invites where owner_id = :boss;

\echo '# SSH keys'
\c - regress_app
set client_min_messages = warning;
select pgtrain.add_ssh_key('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIITP1uD1HE3IkBWK/i2xiO2+696QcrHfEBQ9gNeSxQHB');
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.add_ssh_key('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIITP1uD1HE3IkBWK/i2xiO2+696QcrHfEBQ9gNeSxQHB anna@home') as key \gset
select pgtrain.add_ssh_key('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIITP1uD1HE3IkBWK/i2xiO2+696QcrHfEBQ9gNeSxQHB another comment', 'twice');
select pgtrain.add_ssh_key('  ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBjS1h0rLywF/e2DzLhkx7Nj1Na16s3JE+5tJR1tfVEw9SK80WGwj8HyAnyA5GMLsC+0Dg6MRSZGnG6bJkpy3bE=  ', 'work') > 0 as added;
select pgtrain.add_ssh_key(null);
select pgtrain.add_ssh_key('ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBjS1h0rLywF/e2DzLhkx7Nj1Na16s3JE+5tJR1tfVEw9SK80WGwj8HyAnyA5GMLsC+0Dg6MRSZGnG6bJkpy3bE=', '');
\set VERBOSITY default
select pgtrain.add_ssh_key(E'-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXkt\n-----END OPENSSH PRIVATE KEY-----');
select pgtrain.add_ssh_key('ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC2mcsPC28HHGKN+AFy2NJylfM4TSqTzqL1G5MbLRkeOaKCgVqESrACqUedvREJnXuxIXwvApzYFuiuGf+DsLzUjW1KiTZwnnzgSyDyQxGLsl3qWDE05W4XFSYUw8TQgNj/TjfyTLlOcQ0OPW08gdZDoF9UlWrXIi64Bf6dZwueNw==');
select pgtrain.add_ssh_key('command="/bin/sh" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIITP1uD1HE3IkBWK/i2xiO2+696QcrHfEBQ9gNeSxQHB');
\set VERBOSITY terse
select name, key_type, fingerprint, right(key, 8) as end_of_key from pgtrain.ssh_keys order by id;
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select count(*) from pgtrain.ssh_keys;
select pgtrain.remove_ssh_key(:key);
\echo '# Another user may have the same key'
select pgtrain.add_ssh_key('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIITP1uD1HE3IkBWK/i2xiO2+696QcrHfEBQ9gNeSxQHB') > 0 as added;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.remove_ssh_key(:key), pgtrain.remove_ssh_key(:key);
\c - :superuser
set client_min_messages = warning;
select title, count(*) from pgtrain.audit_log where title ~ '^(connection|invite|ssh_key)' group by 1 order by 1;
delete from pgtrain.outbox;
delete from pgtrain.users where username like 'ide\_%';
revoke regress_oauth from regress_app;
drop owned by regress_app, regress_oauth;
drop role regress_app, regress_oauth;
