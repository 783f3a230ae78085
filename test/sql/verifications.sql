-- Verifications: codes for addresses, password reset, the outbox and who delivers, second factor and recovery codes. What an
-- application role does, and what it must not.
\set VERBOSITY terse
select current_user as superuser \gset
set client_min_messages = warning;
create role regress_verify login;
select pgtrain.grant_application('regress_verify');
select pgtrain.register_user('ver_anna', 'anna@verify.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('ver_ben', 'ben@verify.test', 'another long secret') as ben \gset
select pgtrain.register_user('ver_mailer', 'mailer@verify.test', 'a mailing secret') as mailer \gset
select pgtrain.register_user('ver_boss', 'boss@verify.test', 'the secret of the boss') as boss \gset
select pgtrain.grant_role(:mailer, 'messenger'), pgtrain.grant_role(:boss, 'admin');
delete from pgtrain.outbox;
-- One-time codes as an authenticator program makes them (HMAC of SHA-256, which the server's own functions can do).
create function public.regress_hmac(key bytea, message bytea) returns bytea language plpgsql immutable as $$
declare
    padded bytea := key || decode(repeat('00', 64 - length(key)), 'hex');
    i_pad bytea := padded;
    o_pad bytea := padded;
begin
    for i in 0..63 loop
        i_pad := set_byte(i_pad, i, get_byte(padded, i) # 54);
        o_pad := set_byte(o_pad, i, get_byte(padded, i) # 92);
    end loop;
    return sha256(o_pad || sha256(i_pad || message));
end $$;
create function public.regress_base32(text) returns bytea language sql immutable as $$
    select decode(string_agg(lpad(to_hex(substr(b.bits, 8 * i + 1, 8)::bit(8)::integer), 2, '0'), '' order by i), 'hex')
      from (select string_agg((strpos('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', c) - 1)::bit(5)::text, '' order by n) as bits
              from regexp_split_to_table($1, '') with ordinality s (c, n)) b, generate_series(0, length(b.bits) / 8 - 1) i $$;
create function public.regress_code(secret text, drift integer default 0) returns text language plpgsql as $$
declare
    mac bytea := public.regress_hmac(public.regress_base32(secret), int8send(floor(extract(epoch from clock_timestamp()) / 86400)::bigint + drift));
    at integer := get_byte(mac, 31) & 15;
begin
    return lpad((((((get_byte(mac, at) & 127) * 256 + get_byte(mac, at + 1)) * 256 + get_byte(mac, at + 2)) * 256 + get_byte(mac, at + 3)) % 1000000)::text, 6, '0');
end $$;
-- RFC 4231, test case 2.
select encode(public.regress_hmac('Jefe', 'what do ya want for nothing?'), 'hex') = '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843' as is_hmac;

\c - regress_verify
set client_min_messages = warning;
select session_token as anna_token from pgtrain.login('ver_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('ver_ben', 'another long secret') \gset
select session_token as mailer_token from pgtrain.login('ver_mailer', 'a mailing secret') \gset
select session_token as boss_token from pgtrain.login('ver_boss', 'the secret of the boss') \gset

\echo '# Nobody, and an ordinary user, deliver nothing and see nothing of it'
select pgtrain.take_messages();
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.take_messages();
select pgtrain.confirm_message(1);
select pgtrain.fail_message(1, 'no');
select count(*) from pgtrain.outbox;
select payload from pgtrain.outbox;
select target from pgtrain.outbox;
select secret from pgtrain.verifications;
select code_hash from pgtrain.recovery_codes;
select pgtrain_private.send('email_verification', 'x@y');

\echo '# A code for the address'
select pgtrain.start_verification('smoke');
select pgtrain.start_verification('email', 'other@verify.test');
select pgtrain.start_verification('email');
select pgtrain.confirm_verification('email', '000000');
select pgtrain.authenticate(:'mailer_token', session => true) = :mailer as is_mailer;
select id as message, kind, target, payload ->> 'username' as username, attempt, payload ->> 'code' as code,
       (payload ->> 'expires_at')::timestamptz - clock_timestamp() between interval '9 minutes' and interval '10 minutes' as is_short_lived
  from pgtrain.take_messages() \gset m_
select :'m_kind', :'m_target', :'m_username', :m_attempt, :'m_code' ~ '^[0-9]{6}$' as is_code, :'m_is_short_lived' as is_short_lived;
\echo '# Taken: not twice within the lease; failed: comes again with a new code'
select count(*) from pgtrain.take_messages();
select pgtrain.fail_message(:m_message, 'connection refused', interval '0');
select payload ->> 'code' as code, attempt from pgtrain.take_messages() \gset again_
select :again_attempt as attempt;
select pgtrain.confirm_message(:m_message), pgtrain.confirm_message(:m_message);
select pgtrain.fail_message(:m_message, 'too late');
\c - :superuser
set client_min_messages = warning;
select kind, payload, attempts, delivered_at is not null as is_delivered, error_message from pgtrain.outbox;
select bool_and(convert_from(secret, 'UTF8') like '$argon2id$%') as is_hashed from pgtrain.verifications where owner_id = :anna;
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.confirm_verification('email', :'m_code') as former_code where :'m_code' <> :'again_code';
select pgtrain.confirm_verification('email', null);
select pgtrain.confirm_verification('email', :'again_code') as right_code;
select pgtrain.confirm_verification('email', :'again_code') as second_time;
select is_verified, activated_at is not null as is_activated from pgtrain.users where id = :anna;
select pgtrain.start_verification('email');

\echo '# A telephone: the number is brought to one form, the proof stays'
select pgtrain.start_verification('phone');
select pgtrain.start_verification('phone', '030 1234567');
select pgtrain.start_verification('phone', '+49 (30) 123-4567');
\c - :superuser
set client_min_messages = warning;
select kind, target, payload ->> 'code' as code from pgtrain.take_messages() \gset p_
select :'p_kind', :'p_target';
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
\echo '# Five wrong codes void it, also for who rolls back'
begin;
select count(*) filter (where pgtrain.confirm_verification('phone', '00000' || n)) from generate_series(1, 3) n;
rollback;
select pgtrain.confirm_verification('phone', 'x4'), pgtrain.confirm_verification('phone', 'x5');
select pgtrain.confirm_verification('phone', :'p_code');
\c - :superuser
set client_min_messages = warning;
select pgtrain_private.forget_attempts(format('phone code of %s', :anna));
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.confirm_verification('phone', 'x' || n) from generate_series(6, 8) n;
select pgtrain.confirm_verification('phone', :'p_code') as void;
select pgtrain.start_verification('phone', '+49301234567');
\c - :superuser
set client_min_messages = warning;
select payload ->> 'code' as code from pgtrain.take_messages() \gset p_
select pgtrain_private.forget_attempts(format('phone code of %s', :anna));
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.confirm_verification('phone', :'p_code');
select type, target, confirmed_at is not null as is_confirmed from pgtrain.verifications;
select phone from pgtrain.users;

\echo '# Another address: with the password, after its code; the former one is told'
select pgtrain.change_email('anna2@verify.test', 'wrong');
select pgtrain.change_email('ben@verify.test', 'a long enough secret');
\c - :superuser
set client_min_messages = warning;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
set local pgtrain.email_domains = 'elsewhere.test';
select pgtrain.change_email('anna2@verify.test', 'a long enough secret');
rollback;
select payload ->> 'code' as code from pgtrain.take_messages() \gset taken_
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.confirm_verification('email', :'taken_code');
select pgtrain.change_email('anna2@verify.test', 'a long enough secret');
\c - :superuser
set client_min_messages = warning;
select payload ->> 'code' as code from pgtrain.take_messages() where target = 'anna2@verify.test' \gset new_
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.confirm_verification('email', :'new_code');
select email, is_verified from pgtrain.users;
\c - :superuser
set client_min_messages = warning;
select kind, target, payload from pgtrain.take_messages();

\echo '# Too many messages to one address'
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select pgtrain.start_verification('email') from generate_series(1, 4);
select pgtrain.start_verification('email');

\echo '# Password reset: the same for an address without an account'
discard all;
set client_min_messages = warning;
select pgtrain.request_password_reset('no address');
select pgtrain.request_password_reset('Anna2@verify.test');
select pgtrain.request_password_reset('stranger@verify.test');
select pgtrain.request_password_reset('stranger@verify.test') from generate_series(2, 5);
select pgtrain.request_password_reset('stranger@verify.test');
\c - :superuser
set client_min_messages = warning;
select kind, target, payload, user_id, attempts from pgtrain.outbox where kind = 'password_reset' order by id;
select kind, target, payload ->> 'token' as token,
       (payload ->> 'expires_at')::timestamptz - clock_timestamp() between interval '59 minutes' and interval '1 hour' as is_short_lived
  from pgtrain.take_messages(100) where kind = 'password_reset' \gset reset_
select :'reset_kind', :'reset_target', length(:'reset_token'), :'reset_is_short_lived' as is_short_lived;
select count(*) as of_strangers from pgtrain.outbox where target like 'stranger%';
select secret = pgtrain_private.token_hash(:'reset_token') as only_hash from pgtrain.verifications where type = 'password_reset';
\c - regress_verify
set client_min_messages = warning;
select pgtrain.reset_password('nonsense', 'a new and long secret');
select pgtrain.reset_password(:'reset_token', 'short');
select pgtrain.reset_password(:'reset_token', null);
select pgtrain.reset_password(:'reset_token', 'Anna2@verify.test');
-- Locked after wrong passwords; the reset lifts that.
select count(*) from generate_series(1, 5) n, pgtrain.login('ver_anna', 'guess ' || n);
select pgtrain.reset_password(:'reset_token', 'a new and long secret');
select pgtrain.reset_password(:'reset_token', 'a new and long secret');
select pgtrain.authenticate(:'anna_token');
select count(*) from pgtrain.login('ver_anna', 'a long enough secret');
select session_token as anna_token from pgtrain.login('ver_anna', 'a new and long secret') \gset

\echo '# A reset that is too old, and one that another password has made void'
select pgtrain.request_password_reset('anna2@verify.test');
\c - :superuser
set client_min_messages = warning;
select payload ->> 'token' as token from pgtrain.take_messages(100) where kind = 'password_reset' \gset reset_
update pgtrain.verifications set expires_at = clock_timestamp() - interval '1 second' where type = 'password_reset';
\c - regress_verify
set client_min_messages = warning;
select pgtrain.reset_password(:'reset_token', 'a new and long secret');
\c - :superuser
set client_min_messages = warning;
update pgtrain.verifications set expires_at = clock_timestamp() + interval '1 hour' where type = 'password_reset';
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.change_password('a new and long secret', 'the newest secret of all');
select pgtrain.reset_password(:'reset_token', 'a new and long secret');

\echo '# Before the first login: the code of an address, by the address'
discard all;
set client_min_messages = warning;
select pgtrain.start_verification('email', 'BOSS@verify.test'), pgtrain.start_verification('email', 'nobody@verify.test');
\c - :superuser
set client_min_messages = warning;
select target, payload ->> 'code' as code from pgtrain.take_messages(100) where target ilike '%boss%' \gset boss_
\c - regress_verify
set client_min_messages = warning;
select pgtrain.confirm_verification('email', '12', 'nobody@verify.test'), pgtrain.confirm_verification('email', '12', 'boss@verify.test');
select pgtrain.confirm_verification('email', :'boss_code', 'boss@verify.test');

\echo '# The second factor: password needed, in force after its first code'
select pgtrain.enable_totp();
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.enable_totp();
select pgtrain.enable_totp('wrong');
select pgtrain.enable_totp('the newest secret of all', algorithm => 'MD5');
select pgtrain.enable_totp('the newest secret of all', digits => 9);
select pgtrain.confirm_totp('123456');
select secret, uri from pgtrain.enable_totp('the newest secret of all', algorithm => 'SHA256', period_seconds => 86400) \gset totp_
select length(:'totp_secret') as length, replace(:'totp_uri', :'totp_secret', 'SECRET') as uri;
select count(*) = 1 as not_in_force_yet from pgtrain.login('ver_anna', 'the newest secret of all');
select pgtrain.confirm_totp(public.regress_code(:'totp_secret', 5));
select string_agg(c, ' ') as recovery from pgtrain.confirm_totp(public.regress_code(:'totp_secret', -1)) c \gset
select :'recovery' ~ '^([a-z2-9]{4}-[a-z2-9]{4}-[a-z2-9]{4}-[a-z2-9]{4} ?){10}$' as ten_codes, split_part(:'recovery', ' ', 1) as code_1, split_part(:'recovery', ' ', 2) as code_2 \gset
select :'ten_codes' as ten_codes;
select pgtrain.enable_totp('the newest secret of all');
select pgtrain.confirm_totp(public.regress_code(:'totp_secret'));
\echo '# Login: with the code, each once'
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all');
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all', code => public.regress_code(:'totp_secret', -1));
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all', code => public.regress_code(:'totp_secret'));
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all', code => public.regress_code(:'totp_secret'));
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all', code => ' ' || public.regress_code(:'totp_secret', 1));
select count(*) from pgtrain.login('ver_anna', 'wrong', code => :'code_1');
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all', code => upper(:'code_1'));
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all', code => :'code_1');
\echo '# Guesses are counted whatever happens to the transaction'
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
do $$
begin
    for n in 1..6 loop
        begin
            perform pgtrain.disable_totp(code => '00000' || n);
        exception when invalid_password then
            null;
        end;
    end loop;
end $$;
select pgtrain.disable_totp(code => :'code_2');
\c - :superuser
set client_min_messages = warning;
select pgtrain_private.forget_attempts(format('second factor %s', :anna)), pgtrain_private.forget_lock(:anna);
select title, subject - 'user_id' as subject from pgtrain.audit_log where (subject ->> 'user_id')::bigint = :anna and title ~ 'factor|recovery|verif|reset|email' order by id;
select count(*) as codes, count(used_at) as used from pgtrain.recovery_codes where user_id = :anna;
select secret::text ~ encode(public.regress_base32(:'totp_secret'), 'hex') as seed_in_clear from pgtrain.verifications where owner_id = :anna and type = 'totp';
-- A seed opens for its own user only, whoever writes another one beside it.
select opens from pgtrain.secret_health where owner_id = :anna and table_name = 'verifications';
begin;
update pgtrain.verifications set owner_id = :ben where owner_id = :anna and type = 'totp';
select opens from pgtrain.secret_health where owner_id = :ben and table_name = 'verifications';
rollback;
\c - regress_verify
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select count(c) from pgtrain.regenerate_recovery_codes('wrong') c;
select count(c) from pgtrain.regenerate_recovery_codes('the newest secret of all') c;
select pgtrain.disable_totp(code => :'code_2');
\echo '# Ben cannot remove it, the boss can'
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select pgtrain.disable_totp(user_id => :anna);
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
select pgtrain.disable_totp(user_id => :anna), pgtrain.disable_totp(user_id => :anna);
select count(*) from pgtrain.login('ver_anna', 'the newest secret of all');

\echo '# A message that nobody takes, or that fails too often, is given up and emptied'
\c - :superuser
set client_min_messages = warning;
delete from pgtrain.outbox;
select pgtrain_private.send('greeting', 'anna2@verify.test', '{"text": "hello"}', :anna) as lost \gset
select pgtrain_private.send('greeting', 'anna2@verify.test', '{"text": "hello"}', :anna) as late \gset
set pgtrain.message_attempts = 2;
select count(*) from pgtrain.take_messages(1);
select pgtrain.fail_message(:lost, 'bounced', interval '0');
update pgtrain.outbox set attempts = 2 where id = :lost;
select pgtrain.fail_message(:lost, 'bounced', interval '0');
update pgtrain.outbox set expires_at = clock_timestamp() where id = :late;
select count(*) from pgtrain.take_messages(10);
select payload, failed_at is not null as is_given_up, error_message from pgtrain.outbox order by id;
select pgtrain.take_messages(0);
select pgtrain.take_messages(1, interval '0');

delete from pgtrain.outbox;
delete from pgtrain.users where id in (:anna, :ben, :mailer, :boss);
drop function public.regress_code(text, integer), public.regress_base32(text), public.regress_hmac(bytea, bytea);
drop owned by regress_verify;
drop role regress_verify;
