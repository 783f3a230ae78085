-- Accounts: registration and its rules, login with lock-out, tokens and their rotation, scopes of an identity, revocation.
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
select pgtrain.authenticate(:'a_session_token');
select pgtrain.authenticate(:'new_session_token', session => true) = :a_user_id as is_anna;
-- What is unknown, or no token at all, is refused without an error and hurts nobody.
select count(*) from pgtrain.refresh_session('nonsense');
select count(*) from pgtrain.refresh_session(null);
select count(*) from pgtrain.refresh_session('.' || split_part(:'new_new_refresh_token', '.', 2));
select pgtrain.current_user_id() = :a_user_id as is_anna;
-- A used refresh token ends the whole family at once, for whoever has the newest pair too.
select count(*) from pgtrain.refresh_session(:'a_refresh_token');
select pgtrain.current_user_id() is null as family_is_dead;
select count(*) from pgtrain.refresh_session(:'new_new_refresh_token');
select pgtrain.authenticate(:'new_session_token');
select * from pgtrain.login('acc_anna', 'a long enough secret') \gset a_
select pgtrain.authenticate(:'a_session_token', session => true) = :a_user_id as is_anna;
-- A caller who rolls the replay back gets no tokens either.
select r.session_token, r.new_refresh_token from pgtrain.refresh_session(:'a_refresh_token') r \gset new_
begin;
select count(*) from pgtrain.refresh_session(:'a_refresh_token');
rollback;
select pgtrain.authenticate(:'new_session_token', session => true) = :a_user_id as is_anna;

-- The password changes; other sessions end.
select * from pgtrain.login('acc_anna', 'a long enough secret') \gset other_
select pgtrain.change_password('wrong', 'the newest secret of all');
select pgtrain.change_password('a long enough secret', 'tiny');
select pgtrain.change_password('a long enough secret', null);
select pgtrain.change_password('a long enough secret', 'ANNA@accounts.test');
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
    for i in 1..6 loop
        perform pgtrain.login('acc_unknown', 'guess');
    end loop;
    raise warning 'no error either';
end $$;

-- What is stored is neither a password nor a token.
\c - :superuser
set client_min_messages = warning;
select bool_and(hash like '$argon2id$v=19$m=64,t=1,p=1$%') as argon2id from pgtrain.passwords p join pgtrain.users u on u.id = p.user_id where u.username like 'acc\_%';
select bool_and(length(token_hash) = 32 and length(refresh_token_hash) = 32 and length(refresh_family_hash) = 32) as hashed, count(*) filter (where token_hash = convert_to(:'a_session_token', 'UTF8')) as plain
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


-- Rules of registration are settings.
set pgtrain.password_min_length = 8;
set pgtrain.password_required_kinds = 'lower, upper,digit,other';
select pgtrain.register_user('acc_rules', 'rules@accounts.test', 'abc DEF');
select pgtrain.register_user('acc_rules', 'rules@accounts.test', 'lower case');
select pgtrain.register_user('acc_rules', 'rules@accounts.test', 'lower UPPER 1') > 0 as registered;
set pgtrain.password_required_kinds = 'lower, funny';
reset pgtrain.password_required_kinds;
set pgtrain.password_max_length = 64;
select pgtrain.register_user('acc_rules2', 'rules2@accounts.test', repeat('x', 65));
-- Characters count, not bytes.
select pgtrain.register_user('acc_rules2', 'rules2@accounts.test', repeat(U&'\00E4', 64)) > 0 as registered;
select pgtrain.register_user('acc_rules3', 'rules3@accounts.test', repeat(U&'\00E4', 7));
select pgtrain.register_user('acc_rules3', 'rules3@accounts.test', 'ACC_rules3');
reset pgtrain.password_max_length;
reset pgtrain.password_min_length;
set pgtrain.email_domains = 'example.org, Accounts.test';
select pgtrain.register_user('acc_rules3', 'rules3@accounts.test.evil', 'a long enough secret');
select pgtrain.register_user('acc_rules3', 'rules3@ACCOUNTS.test', 'a long enough secret') > 0 as registered;
reset pgtrain.email_domains;
set pgtrain.default_role = 'developer';
set pgtrain.default_plan = 'premium';
select pgtrain.register_user('acc_rules4', 'rules4@accounts.test', 'a long enough secret') as rules4 \gset
select (select string_agg(r.name, ', ') from pgtrain.user_roles ur join pgtrain.roles r on r.id = ur.role_id where ur.user_id = :rules4) as roles,
       (select p.name from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id where s.user_id = :rules4) as plan;
set pgtrain.default_role = 'nothing';
select pgtrain.register_user('acc_rules5', 'rules5@accounts.test', 'a long enough secret');
reset pgtrain.default_role;
set pgtrain.default_plan = 'nothing';
select pgtrain.register_user('acc_rules5', 'rules5@accounts.test', 'a long enough secret');
reset pgtrain.default_plan;
set pgtrain.invite_only = on;
set session authorization regress_accounts;
select pgtrain.register_user('acc_rules5', 'rules5@accounts.test', 'a long enough secret');
-- Not the application's to change.
set pgtrain.invite_only = off;
set pgtrain.login_failures_allowed = 1000;
reset session authorization;
select pgtrain.register_user('acc_rules5', 'rules5@accounts.test', 'a long enough secret') > 0 as an_administrator_may;
insert into pgtrain.invites (code_hash) values (pgtrain_private.token_hash('acc-code-4'));
set session authorization regress_accounts;
select pgtrain.register_user('acc_rules6', 'rules6@accounts.test', 'a long enough secret', invite_code => 'acc-code-4') > 0 as registered;
reset session authorization;
reset pgtrain.invite_only;

-- Whatever the reason of a refusal: the same answer, and exactly one hash.
create temporary table refusals (reason text, hashes bigint, answer text);
create function pg_temp.refusal(reason text, identifier text, password text) returns void language plpgsql as $$
declare
    before bigint := (select computed from pgtrain_private.password_hash_load());
    answer text;
begin
    begin
        select format('%s rows', count(*)) into answer from pgtrain.login(identifier, password);
    exception when others then
        answer := sqlerrm;
    end;
    insert into refusals select reason, computed - before, answer from pgtrain_private.password_hash_load();
end $$;
select pgtrain.register_user('acc_' || n, n || '@accounts.test', 'a long enough secret') > 0 as registered
  from unnest(array['fine', 'inactive', 'locked', 'locked2', 'unverified', 'no_password']) n;
update pgtrain.users set is_active = false where username = 'acc_inactive';
update pgtrain.users set locked_until = now() + interval '1 hour' where username = 'acc_locked';
update pgtrain.users set is_verified = true where username <> 'acc_unverified';
delete from pgtrain.passwords where user_id = (select id from pgtrain.users where username = 'acc_no_password');
begin;
select count(*) from generate_series(1, 5) g, pgtrain.login('acc_locked2', 'guess ' || g);
rollback;
set pgtrain.login_needs_verification = on;
select pg_temp.refusal('unknown', 'acc_nobody', 'a long enough secret');
select pg_temp.refusal('wrong password', 'acc_fine', 'wrong');
select pg_temp.refusal('inactive', 'acc_inactive', 'a long enough secret');
select pg_temp.refusal('locked in the table', 'acc_locked', 'a long enough secret');
select pg_temp.refusal('locked in memory', 'acc_locked2', 'a long enough secret');
select pg_temp.refusal('not verified', 'acc_unverified', 'a long enough secret');
select pg_temp.refusal('no password', 'acc_no_password', 'a long enough secret');
select pg_temp.refusal('none: logged in', 'acc_fine', 'a long enough secret');
select * from refusals;
reset pgtrain.login_needs_verification;
-- A try while locked counts for nothing, so a lock is not made longer by who goes on trying.
select username, failed_login_count, locked_until < now() + interval '1 minute' as short from pgtrain.users where username in ('acc_locked', 'acc_locked2') order by 1;
-- The address of an account shares the tries of its name.
select count(*) from pgtrain.login('locked2@accounts.test', 'a long enough secret');
-- The administrator ends a lock.
select pgtrain.unlock_user(id) from pgtrain.users where username in ('acc_locked', 'acc_locked2');
select count(*) from pgtrain.login('locked2@accounts.test', 'a long enough secret');
select count(*) from pgtrain.login('acc_locked', 'a long enough secret');
set session authorization regress_accounts;
select pgtrain.unlock_user(:a_user_id);
reset session authorization;

-- The address that the application names is kept, else the server's; the caller sees his sessions, and which this is.
select * from pgtrain.login('acc_fine', 'a long enough secret', 'first', ip_address => '192.0.2.7') \gset f1_
select * from pgtrain.login('acc_fine', 'a long enough secret', 'second', ip_address => '2001:db8::1') \gset f2_
select * from pgtrain.login('acc_fine', 'a long enough secret', 'third') \gset f3_
set session authorization regress_accounts;
select pgtrain.authenticate(:'f1_session_token', true) = :f1_user_id as is_fine;
select user_agent, ip_address, is_current from pgtrain.my_sessions where user_agent is not null order by id;
select id as second_id from pgtrain.my_sessions where user_agent = 'second' \gset
-- Somebody else's session is not there for him.
select * from pgtrain.login('acc_anna', 'the newest secret of all') \gset a_
select pgtrain.authenticate(:'a_session_token', true) = :a_user_id as is_anna;
select pgtrain.revoke_session(:second_id);
select pgtrain.revoke_all_sessions(:f1_user_id);
select pgtrain.authenticate(:'f1_session_token', true) = :f1_user_id as is_fine;
select pgtrain.revoke_session(:second_id), pgtrain.revoke_session(:second_id), pgtrain.revoke_session(null);
begin;
select pgtrain.authenticate(:'f2_session_token');
rollback;
select pgtrain.authenticate(:'f1_session_token', true) = :f1_user_id as is_fine;
select pgtrain.revoke_all_sessions(keep_current => true) as ended;
select user_agent, is_current from pgtrain.my_sessions;
select pgtrain.revoke_all_sessions() as ended, pgtrain.current_user_id() is null as is_nobody;
select pgtrain.revoke_all_sessions();
reset session authorization;

-- Idle and absolute end.
select * from pgtrain.login('acc_fine', 'a long enough secret') \gset f1_
set pgtrain.session_idle_timeout = '30min';
update pgtrain.sessions set last_accessed_at = now() - interval '20 minutes' where token_hash = pgtrain_private.token_hash(:'f1_session_token');
select pgtrain.authenticate(:'f1_session_token') = :f1_user_id as is_fine;
select last_accessed_at > now() - interval '1 minute' as noted from pgtrain.sessions where token_hash = pgtrain_private.token_hash(:'f1_session_token');
select * from pgtrain.login('acc_fine', 'a long enough secret') \gset f2_
update pgtrain.sessions set last_accessed_at = now() - interval '31 minutes' where token_hash = pgtrain_private.token_hash(:'f2_session_token');
select pgtrain.authenticate(:'f2_session_token');
select count(*) from pgtrain.refresh_session(:'f2_refresh_token');
-- A use counts that could not be written: in a read-only transaction, with an old snapshot, rolled back. The scheduler writes it down.
create function pg_temp.rests(token text, minutes integer) returns void language sql as $$
    update pgtrain.sessions set last_accessed_at = now() - minutes * interval '1 minute' where token_hash = pgtrain_private.token_hash(token) $$;
select * from pgtrain.login('acc_fine', 'a long enough secret') \gset f3_
select pg_temp.rests(:'f3_session_token', 20);
begin read only;
select pgtrain.authenticate(:'f3_session_token') = :f1_user_id as is_fine;
commit;
select pg_temp.rests(:'f3_session_token', 31);
select pgtrain.authenticate(:'f3_session_token') = :f1_user_id as is_fine;
select * from pgtrain.login('acc_fine', 'a long enough secret') \gset f4_
select pg_temp.rests(:'f4_session_token', 20);
begin isolation level repeatable read;
select pgtrain.authenticate(:'f4_session_token') = :f1_user_id as is_fine;
rollback;
select pg_temp.rests(:'f4_session_token', 31);
select count(*) from pgtrain.refresh_session(:'f4_refresh_token');
select pg_temp.rests(:'f3_session_token', 31);
select pgtrain_private.write_session_uses() > 0 as written, pgtrain_private.write_session_uses();
select last_accessed_at > now() - interval '1 minute' as noted from pgtrain.sessions where token_hash = pgtrain_private.token_hash(:'f3_session_token');
reset pgtrain.session_idle_timeout;
select pgtrain.authenticate(:'f1_session_token') = :f1_user_id as is_fine;
set pgtrain.session_absolute_lifetime = '1h';
select * from pgtrain.login('acc_fine', 'a long enough secret') \gset f1_
select expires_at = absolute_expires_at as token, refresh_expires_at = absolute_expires_at as refresh, absolute_expires_at <= clock_timestamp() + interval '1 hour' as bounded
  from pgtrain.sessions where token_hash = pgtrain_private.token_hash(:'f1_session_token');
reset pgtrain.session_absolute_lifetime;
select session_token as f1_session_token from pgtrain.refresh_session(:'f1_refresh_token') \gset
select expires_at = absolute_expires_at as token, refresh_expires_at = absolute_expires_at as refresh, absolute_expires_at <= clock_timestamp() + interval '1 hour' as bounded
  from pgtrain.sessions where token_hash = pgtrain_private.token_hash(:'f1_session_token');

-- Where connections are handed on, an identity for the whole connection is refused, and whoever was there is gone.
select pgtrain.authenticate(:'f1_session_token', true) = :f1_user_id as is_fine;
set pgtrain.session_scope = off;
select pgtrain.authenticate(:'f1_session_token', true);
select pgtrain.current_user_id() is null as is_nobody;
select pgtrain.authenticate(:'f1_session_token') = :f1_user_id as is_fine;
reset pgtrain.session_scope;

drop owned by regress_accounts;
drop role regress_accounts;
