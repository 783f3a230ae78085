-- Accounts: registration, login with lock-out, tokens, scopes of an identity, revocation.
\set VERBOSITY terse
select current_user as superuser \gset
set client_min_messages = warning;
create role regress_accounts login;
select pgtrain.grant_application('regress_accounts');
\c - regress_accounts
set client_min_messages = warning;

-- Registration and its refusals.
select pgtrain.register_user('acc_anna', 'Anna@accounts.test', 'a long enough secret') > 0 as registered;
select pgtrain.register_user('acc_ben', 'ben@accounts.test', 'another long secret') > 0 as registered;
select pgtrain.register_user('ACC_ANNA', 'other@accounts.test', 'a long enough secret');
select pgtrain.register_user('acc_carl', 'anna@ACCOUNTS.test', 'a long enough secret');
select pgtrain.register_user('acc_carl', 'carl@accounts.test', 'short');
select pgtrain.register_user('bad name', 'carl@accounts.test', 'a long enough secret');
select pgtrain.register_user('acc_carl', 'no address', 'a long enough secret');
select pgtrain.register_user('acc_carl', 'carl@accounts.test', null);
select pgtrain.register_user('acc_carl', 'carl@accounts.test', 'a long enough secret', invite_code => 'nonsense');

-- Login by name or address, without regard to case. A refusal is no row.
select count(*) from pgtrain.login('acc_anna', 'wrong');
select count(*) from pgtrain.login('acc_nobody', 'wrong');
select * from pgtrain.login('ANNA@accounts.test', 'a long enough secret', 'regress') \gset a_
select * from pgtrain.login('acc_ben', 'another long secret') \gset b_
select length(:'a_session_token') = 43 as is_long, :'a_session_token' <> :'a_refresh_token' as differ, :'a_expires_at'::timestamptz > now() as is_valid;

-- Transaction scope: gone with the statement's own transaction.
select pgtrain.authenticate(:'a_session_token') = :a_user_id as is_anna;
select pgtrain.current_user_id() is null as is_nobody;
begin;
select pgtrain.authenticate(:'a_session_token') = :a_user_id as is_anna;
select pgtrain.current_user_id() = :a_user_id as is_anna;
savepoint s;
select pgtrain.authenticate(:'b_session_token') = :b_user_id as is_ben;
select username from pgtrain.users;
rollback to s;
select username from pgtrain.users;
savepoint s2;
select pgtrain.authenticate(:'b_session_token') = :b_user_id as is_ben;
release s2;
select pgtrain.current_user_id() = :b_user_id as is_ben;
commit;
select pgtrain.current_user_id() is null as is_nobody;

-- Session scope: stays over transactions; a rollback undoes it; a transaction may be somebody else; DISCARD ALL forgets it.
begin;
select pgtrain.authenticate(:'b_session_token', session => true) = :b_user_id as is_ben;
rollback;
select pgtrain.current_user_id() is null as is_nobody;
select pgtrain.authenticate(:'a_session_token', session => true) = :a_user_id as is_anna;
select username from pgtrain.users;
begin;
select pgtrain.authenticate(:'b_session_token') = :b_user_id as is_ben;
commit;
select username from pgtrain.users;
discard all;
set client_min_messages = warning;
select pgtrain.current_user_id() is null as is_nobody;

-- A refused token ends what was in force, also when the error is ignored.
select pgtrain.authenticate(:'a_session_token', session => true) = :a_user_id as is_anna;
select pgtrain.authenticate('nonsense');
select pgtrain.current_user_id() is null as is_nobody;
select pgtrain.authenticate(null);

-- Refresh: the new pair works, the old pair does not.
select r.session_token, r.new_refresh_token from pgtrain.refresh_session(:'a_refresh_token') r \gset new_
select pgtrain.refresh_session(:'a_refresh_token');
select pgtrain.authenticate(:'a_session_token');
select pgtrain.authenticate(:'new_session_token', session => true) = :a_user_id as is_anna;

-- The password changes; other sessions end.
select * from pgtrain.login('acc_anna', 'a long enough secret') \gset other_
select pgtrain.change_password('wrong', 'the newest secret of all');
select pgtrain.change_password('a long enough secret', 'tiny');
select pgtrain.change_password('a long enough secret', null);
select pgtrain.change_password('a long enough secret', 'the newest secret of all');
select pgtrain.current_user_id() = :a_user_id as is_anna;
begin;
select pgtrain.authenticate(:'other_session_token');
rollback;
select pgtrain.current_user_id() is null as refused_token_ended_this_one;
select count(*) from pgtrain.login('acc_anna', 'a long enough secret');
select * from pgtrain.login('acc_anna', 'the newest secret of all') \gset a_

-- Logout voids the token everywhere.
select pgtrain.authenticate(:'a_session_token', session => true) = :a_user_id as is_anna;
select pgtrain.logout();
select pgtrain.current_user_id() is null as is_nobody;
select pgtrain.logout();
select pgtrain.authenticate(:'a_session_token');

-- Deactivating the account, expiry and removal of the session are honoured by the identity that is in force.
\c - :superuser
set client_min_messages = warning;
set session authorization regress_accounts;
select * from pgtrain.login('acc_anna', 'the newest secret of all') \gset a_
select pgtrain.authenticate(:'a_session_token', session => true) = :a_user_id as is_anna;
reset session authorization;
update pgtrain.users set is_active = false where id = :a_user_id;
set session authorization regress_accounts;
select pgtrain.current_user_id() is null as is_nobody, pgtrain.has_permission('read', 'users') as may;
select count(*) from pgtrain.login('acc_anna', 'the newest secret of all');
reset session authorization;
update pgtrain.users set is_active = true where id = :a_user_id;
set session authorization regress_accounts;
select pgtrain.current_user_id() = :a_user_id as is_anna;
reset session authorization;
update pgtrain.sessions set expires_at = now() - interval '1 second' where user_id = :a_user_id;
set session authorization regress_accounts;
select pgtrain.current_user_id() is null as is_nobody;
select pgtrain.change_password('x', 'y');

\c - regress_accounts
set client_min_messages = warning;
-- Lock-out: five failures, then even the right password is refused; a rollback does not help the guesser.
begin;
select count(*) from pgtrain.login('acc_ben', 'guess 1');
select count(*) from pgtrain.login('acc_ben', 'guess 2');
select count(*) from pgtrain.login('acc_ben', 'guess 3');
rollback;
begin;
select count(*) from pgtrain.login('acc_ben', 'guess 4');
select count(*) from pgtrain.login('acc_ben', 'guess 5');
rollback;
select count(*) from pgtrain.login('acc_ben', 'another long secret');
-- An unknown name is treated alike.
do $$
begin
    for i in 1..5 loop
        perform pgtrain.login('acc_unknown', 'guess');
    end loop;
    perform pgtrain.login('acc_unknown', 'guess');
exception when sqlstate 'PT423' then
    raise warning 'unknown name is locked too';
end $$;

-- What is stored is neither a password nor a token.
\c - :superuser
set client_min_messages = warning;
select bool_and(hash like '$argon2id$v=19$m=64,t=1,p=1$%') as argon2id from pgtrain.passwords p join pgtrain.users u on u.id = p.user_id where u.username like 'acc\_%';
select bool_and(length(token_hash) = 32 and length(refresh_token_hash) = 32) as hashed, count(*) filter (where token_hash = convert_to(:'a_session_token', 'UTF8')) as plain
  from pgtrain.sessions where user_id in (:a_user_id, :b_user_id);
-- An invitation is used up by one registration, holds for its address and time, and gives its role.
insert into pgtrain.invites (code_hash, email, role_name, expires_at) values
    (pgtrain_private.token_hash('acc-code-1'), 'Dora@accounts.test', 'developer', now() + interval '1 day'),
    (pgtrain_private.token_hash('acc-code-2'), null, null, now() - interval '1 second'),
    (pgtrain_private.token_hash('acc-code-3'), null, null, null);
select pgtrain.register_user('acc_eve', 'eve@accounts.test', 'a long enough secret', invite_code => 'acc-code-1');
select pgtrain.register_user('acc_dora', 'dora@ACCOUNTS.test', 'a long enough secret', invite_code => 'acc-code-1') as dora \gset
select r.name from pgtrain.user_roles ur join pgtrain.roles r on r.id = ur.role_id where ur.user_id = :dora order by 1;
select pgtrain.register_user('acc_eve', 'dora2@accounts.test', 'a long enough secret', invite_code => 'acc-code-1');
select pgtrain.register_user('acc_eve', 'eve@accounts.test', 'a long enough secret', invite_code => 'acc-code-2');
select pgtrain.register_user('acc_eve', 'eve@accounts.test', 'short', invite_code => 'acc-code-3');
select pgtrain.register_user('acc_eve', 'eve@accounts.test', 'a long enough secret', invite_code => 'acc-code-3') > 0 as a_failure_did_not_use_it_up;
-- Sessions that ended long ago go with the next login.
update pgtrain.sessions set refresh_expires_at = now() - interval '31 days' where user_id = :a_user_id;
select count(*) from pgtrain.login('acc_anna', 'the newest secret of all');
select count(*) from pgtrain.sessions where user_id = :a_user_id;
-- Another cost is taken over at the next login.
set pgtrain.password_passes = 2;
select count(*) from pgtrain.login('acc_anna', 'the newest secret of all');
select hash like '%t=2%' as rehashed from pgtrain.passwords where user_id = :a_user_id;
reset pgtrain.password_passes;

drop owned by regress_accounts;
drop role regress_accounts;
