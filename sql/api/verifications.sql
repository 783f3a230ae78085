-- Verifications, functions: proofs of addresses, password reset, the second factor. Codes are made when their message is taken from
-- the outbox (outbox.sql); what is secret is made and compared in C (src/pg/functions/verifications.cpp). Who guesses is counted
-- there, whatever his transaction does.

create or replace function pgtrain_private.count_request(name text) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_count_request';
comment on function pgtrain_private.count_request(text) is 'Counts a request under a name outside of the transaction; refuses too many in a short time';
create or replace function pgtrain_private.try_attempt(name text) returns boolean
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_try_attempt';
comment on function pgtrain_private.try_attempt(text) is 'Counts a guess under a name outside of the transaction, before it is known whether it is right; false when there were too many';
create or replace function pgtrain_private.forget_attempts(name text) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_forget_attempts';
comment on function pgtrain_private.forget_attempts(text) is 'Starts the count of a name again';
create or replace function pgtrain_private.verify_secret(name text, hash text, secret text) returns boolean
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_verify_secret';
comment on function pgtrain_private.verify_secret(text, text, text) is 'Whether a password or code belongs to an Argon2id string (null costs as much and says no); counts the guess under the name and refuses too many';
create or replace function pgtrain_private.new_code(digits integer, char_set text) returns text
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_new_code';
comment on function pgtrain_private.new_code(integer, text) is 'Random characters of a set';
create or replace function pgtrain_private.hash_code(code text) returns text
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_hash_code';
comment on function pgtrain_private.hash_code(text) is 'Argon2id string of a short code';
create or replace function pgtrain_private.check_totp_form(algorithm text, digits integer, period_seconds integer, char_set text) returns void
    language c immutable strict as 'MODULE_PATHNAME', 'pgtrain_check_totp_form';
comment on function pgtrain_private.check_totp_form(text, integer, integer, text) is 'Refuses a form of one-time codes that makes no sense';
create or replace function pgtrain_private.new_totp(identity text, issuer text, account text, algorithm text, digits integer, period_seconds integer, char_set text)
    returns text[] language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_new_totp';
comment on function pgtrain_private.new_totp(text, text, text, text, integer, integer, text) is 'A new seed: sealed (hexadecimal), to type, to scan';
create or replace function pgtrain_private.matching_step(sealed bytea, identity text, algorithm text, digits integer, period_seconds integer, char_set text,
                                                         last_step bigint, code text, moment timestamptz) returns bigint
    language c immutable strict as 'MODULE_PATHNAME', 'pgtrain_matching_step';
comment on function pgtrain_private.matching_step(bytea, text, text, integer, integer, text, bigint, text, timestamptz) is 'The step, later than the last one, whose one-time code this is; null for none. The seed does not leave C';

-- ---------------------------------------------------------------- second factor

create or replace function pgtrain_private.has_second_factor(user_id bigint) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return exists (select from pgtrain.verifications v where v.owner_id = has_second_factor.user_id and v.type = 'totp' and v.confirmed_at is not null);
end $$;
comment on function pgtrain_private.has_second_factor(bigint) is 'Whether a login of the user needs a code';

create or replace function pgtrain_private.check_second_factor(user_id bigint, code text) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    factor pgtrain.verifications;
    given text := replace(check_second_factor.code, ' ', '');
    guard text := format('second factor %s', check_second_factor.user_id);
    step bigint;
begin
    select * into factor from pgtrain.verifications v
     where v.owner_id = check_second_factor.user_id and v.type = 'totp' and v.confirmed_at is not null;
    if not found then
        return true;
    elsif given is null or not pgtrain_private.try_attempt(guard) then
        return false;
    end if;
    -- No row is locked for a wrong code, so nobody keeps the owner waiting; a right one is taken by the update, once.
    if length(replace(given, '-', '')) = 16 then
        update pgtrain.recovery_codes r set used_at = clock_timestamp()
         where r.user_id = factor.owner_id and r.used_at is null and r.code_hash = pgtrain_private.token_hash(lower(replace(given, '-', '')));
        if not found then
            return false;
        end if;
        perform pgtrain_private.write_audit('recovery_code_used', null, jsonb_build_object('user_id', factor.owner_id));
    else
        step := pgtrain_private.matching_step(factor.secret, format('verifications/secret/%s/%s', factor.owner_id, factor.id), factor.algorithm, factor.digits,
                                              factor.period_seconds, factor.char_set, factor.last_step, given, clock_timestamp());
        update pgtrain.verifications v set last_step = step where v.id = factor.id and v.last_step < step;
        if not found then
            return false;
        end if;
    end if;
    perform pgtrain_private.forget_attempts(guard);
    return true;
end $$;
comment on function pgtrain_private.check_second_factor(bigint, text) is 'Whether a login may go on: the user has no second factor, or the code is a one-time or recovery code that was not used before';

-- For acts that a stolen session must not be enough for. Who has neither password nor second factor has nothing more to show.
create or replace function pgtrain_private.confirm_self(user_id bigint, password text, code text, needs_both boolean) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    stored text;
    has_factor boolean := pgtrain_private.has_second_factor(confirm_self.user_id);
    password_is_right boolean;
    code_is_right boolean;
begin
    select p.hash into stored from pgtrain.passwords p where p.user_id = confirm_self.user_id;
    if stored is null and not has_factor then
        return;
    end if;
    password_is_right := stored is not null and password is not null
        and pgtrain_private.verify_secret(format('password %s', confirm_self.user_id), stored, password);
    code_is_right := has_factor and code is not null and pgtrain_private.check_second_factor(confirm_self.user_id, code);
    if needs_both and (password_is_right or stored is null) and (code_is_right or not has_factor)
       or not needs_both and (password_is_right or code_is_right) then
        return;
    end if;
    raise exception using errcode = '28P01', message = 'the password or code is wrong or missing',
        hint = case when stored is null then 'Give a code of the second factor.'
                    when has_factor and needs_both then 'Give the password and a code of the second factor.'
                    when has_factor then 'Give the password or a code of the second factor.'
                    else 'Give the password.' end;
end $$;
comment on function pgtrain_private.confirm_self(bigint, text, text, boolean) is 'Refuses who cannot show the password or a code (needs_both: each that the account has)';

create or replace function pgtrain.enable_totp(password text default null, algorithm text default 'SHA1', digits integer default 6,
    period_seconds integer default 30, char_set text default '0123456789', out secret text, out uri text)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
    account pgtrain.users;
    proof_id bigint;
    made text[];
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('enable_totp');
    me := pgtrain_private.require_user();
    perform pgtrain_private.require_account_scope('enable_totp', 'update:users');
    if algorithm is null or digits is null or period_seconds is null or char_set is null then
        raise exception using errcode = '22004', message = 'algorithm, digits, period_seconds and char_set may not be null',
            hint = 'Leave one out to take what every authenticator program understands.';
    end if;
    perform pgtrain_private.check_totp_form(algorithm, digits, period_seconds, char_set);
    if pgtrain_private.has_second_factor(me) then
        raise exception using errcode = 'PT409', message = 'the account has a second factor already', hint = 'Remove it first with pgtrain.disable_totp.';
    end if;
    perform pgtrain_private.confirm_self(me, password, null, false);
    select * into account from pgtrain.users u where u.id = me;
    delete from pgtrain.verifications v where v.owner_id = me and v.type = 'totp' and v.confirmed_at is null;
    insert into pgtrain.verifications (owner_id, type, target, secret, algorithm, digits, period_seconds, char_set, expires_at)
    values (me, 'totp', account.username, '', enable_totp.algorithm, enable_totp.digits, enable_totp.period_seconds, enable_totp.char_set,
            clock_timestamp() + interval '1 hour')
    returning id into proof_id;
    made := pgtrain_private.new_totp(format('verifications/secret/%s/%s', me, proof_id), current_setting('pgtrain.totp_issuer'), account.username,
                                     algorithm, digits, period_seconds, char_set);
    update pgtrain.verifications v set secret = decode(made[1], 'hex') where v.id = proof_id;
    secret := made[2];
    uri := made[3];
end $$;
comment on function pgtrain.enable_totp(text, text, integer, integer, text) is 'Makes the seed of a second factor and tells it this once, to type and as otpauth address to scan; confirm_totp with a first code puts it in force';

create or replace function pgtrain_private.make_recovery_codes(user_id bigint) returns setof text
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    code text;
begin
    delete from pgtrain.recovery_codes r where r.user_id = make_recovery_codes.user_id;
    for i in 1..10 loop
        -- 79 random bits, so that a plain hash cannot be searched.
        code := pgtrain_private.new_code(16, 'abcdefghjkmnpqrstuvwxyz23456789');
        insert into pgtrain.recovery_codes (user_id, code_hash) values (make_recovery_codes.user_id, pgtrain_private.token_hash(code));
        return next concat_ws('-', substr(code, 1, 4), substr(code, 5, 4), substr(code, 9, 4), substr(code, 13, 4));
    end loop;
end $$;
comment on function pgtrain_private.make_recovery_codes(bigint) is 'Ten new recovery codes; earlier ones are void';

create or replace function pgtrain.confirm_totp(code text) returns setof text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
    factor pgtrain.verifications;
    guard text;
    step bigint;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('confirm_totp');
    me := pgtrain_private.require_user();
    perform pgtrain_private.require_account_scope('confirm_totp', 'update:users');
    select * into factor from pgtrain.verifications v where v.owner_id = me and v.type = 'totp' and v.confirmed_at is null and v.expires_at > clock_timestamp();
    if not found then
        raise exception using errcode = 'PT404', message = 'no second factor waits for its first code', hint = 'Begin with pgtrain.enable_totp.';
    end if;
    guard := format('second factor %s', me);
    if not pgtrain_private.try_attempt(guard) then
        raise exception using errcode = 'PT423', message = 'too many wrong codes', hint = 'Wait a while.';
    end if;
    step := pgtrain_private.matching_step(factor.secret, format('verifications/secret/%s/%s', factor.owner_id, factor.id), factor.algorithm, factor.digits,
                                          factor.period_seconds, factor.char_set, factor.last_step, replace(confirm_totp.code, ' ', ''), clock_timestamp());
    if step is null then
        raise exception using errcode = '28P01', message = 'the code is wrong', hint = 'Check the clock of the device that makes the codes.';
    end if;
    update pgtrain.verifications v set confirmed_at = clock_timestamp(), expires_at = null, last_step = step where v.id = factor.id and v.confirmed_at is null;
    if not found then
        raise exception using errcode = 'PT404', message = 'no second factor waits for its first code';
    end if;
    perform pgtrain_private.forget_attempts(guard);
    perform pgtrain_private.write_audit('second_factor_enabled', null, jsonb_build_object('user_id', me));
    return query select * from pgtrain_private.make_recovery_codes(me);
end $$;
comment on function pgtrain.confirm_totp(text) is 'Puts the second factor in force by its first code; returns the recovery codes, this once';

create or replace function pgtrain.regenerate_recovery_codes(password text default null, code text default null) returns setof text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('regenerate_recovery_codes');
    me := pgtrain_private.require_user();
    perform pgtrain_private.require_account_scope('regenerate_recovery_codes', 'update:users');
    if not pgtrain_private.has_second_factor(me) then
        raise exception using errcode = 'PT409', message = 'the account has no second factor', hint = 'Begin with pgtrain.enable_totp.';
    end if;
    perform pgtrain_private.confirm_self(me, password, code, false);
    perform pgtrain_private.write_audit('recovery_codes_made', null, jsonb_build_object('user_id', me));
    return query select * from pgtrain_private.make_recovery_codes(me);
end $$;
comment on function pgtrain.regenerate_recovery_codes(text, text) is 'New recovery codes in place of all earlier ones; needs the password or a code';

create or replace function pgtrain.disable_totp(password text default null, code text default null, user_id bigint default null) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account_id bigint;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('disable_totp');
    account_id := coalesce(disable_totp.user_id, pgtrain_private.require_user());
    perform pgtrain_private.require_account_scope('disable_totp', 'update:users');
    if account_id is not distinct from pgtrain.current_user_id() then
        if pgtrain_private.has_second_factor(account_id) then
            perform pgtrain_private.confirm_self(account_id, password, code, false);
        end if;
    elsif not pgtrain_private.may_manage_users() then
        raise exception using errcode = '42501', message = 'permission denied to remove the second factor of another user';
    end if;
    delete from pgtrain.verifications v where v.owner_id = account_id and v.type = 'totp';
    if not found then
        return false;
    end if;
    delete from pgtrain.recovery_codes r where r.user_id = account_id;
    perform pgtrain_private.write_audit('second_factor_removed', null, jsonb_build_object('user_id', account_id));
    return true;
end $$;
comment on function pgtrain.disable_totp(text, text, bigint) is 'Removes the caller''s second factor (password or code needed), or that of a user for an administrator; false when there is none';

-- ---------------------------------------------------------------- addresses

create or replace function pgtrain_private.check_email(email text) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if email is null or length(email) not between 3 and 254 or email !~ '^[^@[:space:]]+@[^@[:space:]]+$' then
        raise exception using errcode = '22023', message = format('e-mail address "%s" is not acceptable', left(email, 254));
    end if;
end $$;
comment on function pgtrain_private.check_email(text) is 'Refuses what is no e-mail address';

create or replace function pgtrain_private.start_proof(user_id bigint, type pgtrain.verification_type, target text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    proof_id bigint;
begin
    perform pgtrain_private.count_request(format('send %s for %s', start_proof.type, start_proof.user_id));
    perform pgtrain_private.count_request(format('send %s to %s', start_proof.type, lower(start_proof.target)));
    insert into pgtrain.verifications as v (owner_id, type, target, secret)
    values (start_proof.user_id, start_proof.type, start_proof.target, '')
    on conflict (owner_id, type) where confirmed_at is null do update set target = excluded.target, secret = '', expires_at = null
    returning v.id into proof_id;
    delete from pgtrain.outbox o where o.verification_id = proof_id and o.delivered_at is null;
    perform pgtrain_private.send(start_proof.type || '_verification', start_proof.target, '{}', start_proof.user_id, proof_id);
end $$;
comment on function pgtrain_private.start_proof(bigint, pgtrain.verification_type, text) is 'Begins the proof of an address anew and sends its code';

create or replace function pgtrain.start_verification(type text, target text default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain.current_user_id();
    account pgtrain.users;
    number text;
begin
    perform pgtrain_private.require_writable('start_verification');
    if type is null or type not in ('email', 'phone') then
        raise exception using errcode = '22023', message = format('verification "%s" is not known', type), detail = 'Known: email, phone.';
    end if;
    if me is null and type = 'email' and target is not null then
        -- Before the first login. Whether the address has an account is looked up when the message is taken, not here.
        perform pgtrain_private.check_email(target);
        perform pgtrain_private.count_request(format('send email to %s', lower(target)));
        perform pgtrain_private.send('email_verification', target);
        return;
    end if;
    me := pgtrain_private.require_user();
    select * into account from pgtrain.users u where u.id = me;
    if type = 'email' then
        if lower(coalesce(target, account.email)) <> lower(account.email) then
            raise exception using errcode = '22023', message = 'this is not the address of your account', hint = 'Use pgtrain.change_email to change it.';
        elsif account.is_verified then
            raise exception using errcode = 'PT409', message = 'the address is verified already';
        end if;
        number := account.email;
    else
        number := regexp_replace(coalesce(target, account.phone), '[[:space:]().-]', '', 'g');
        if number is null or number !~ '^[+][0-9]{7,15}$' then
            raise exception using errcode = '22023', message = format('telephone number "%s" is not acceptable', left(coalesce(target, account.phone), 50)),
                hint = 'Give it with its country, as in +49 30 1234567.';
        end if;
    end if;
    perform pgtrain_private.start_proof(me, type::pgtrain.verification_type, number);
    perform pgtrain_private.write_audit('verification_started', null, jsonb_build_object('user_id', me, 'type', type));
end $$;
comment on function pgtrain.start_verification(text, text) is 'Sends a code to the caller''s e-mail address or a telephone (email, phone). Nobody logged in: to an e-mail address, if it has an account that is not verified; the answer is the same for any';

create or replace function pgtrain.change_email(new_email text, password text default null, code text default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('change_email');
    me := pgtrain_private.require_user();
    perform pgtrain_private.require_account_scope('change_email', 'update:users');
    perform pgtrain_private.check_email(new_email);
    perform pgtrain_private.check_email_domain(new_email);
    perform pgtrain_private.confirm_self(me, password, code, false);
    perform pgtrain_private.start_proof(me, 'email', new_email);
    perform pgtrain_private.write_audit('email_change_started', null, jsonb_build_object('user_id', me));
end $$;
comment on function pgtrain.change_email(text, text, text) is 'Sends a code to another address; confirm_verification makes it the address of the account. Needs the password or a code of the second factor';

create or replace function pgtrain_private.email_proven(account_id bigint, new_email text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
begin
    select * into account from pgtrain.users u where u.id = account_id;
    begin
        update pgtrain.users u set email = new_email, is_verified = true, activated_at = coalesce(u.activated_at, now()) where u.id = account_id;
    exception when unique_violation then
        raise exception using errcode = '23505', message = 'the e-mail address is taken';
    end;
    if lower(account.email) <> lower(new_email) then
        perform pgtrain_private.send('email_changed', account.email, jsonb_build_object('username', account.username), account_id);
    end if;
end $$;
comment on function pgtrain_private.email_proven(bigint, text) is 'Takes over an address whose code was given; tells the former one';

-- A wrong code is no error, so that its count is committed with the caller's transaction.
create or replace function pgtrain.confirm_verification(type text, code text, target text default null) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain.current_user_id();
    proof pgtrain.verifications;
    stored text;
    guard text;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('confirm_verification');
    if type is null or type not in ('email', 'phone') then
        raise exception using errcode = '22023', message = format('verification "%s" is not known', type), detail = 'Known: email, phone.';
    elsif code is null then
        raise exception using errcode = '22004', message = 'the code may not be null';
    end if;
    if me is null and type = 'email' and target is not null then
        select v.* into proof from pgtrain.verifications v join pgtrain.users u on u.id = v.owner_id
         where lower(u.email) = lower(confirm_verification.target) and v.type = 'email' and v.confirmed_at is null and lower(v.target) = lower(u.email);
        guard := format('code for %s', lower(target));
    else
        me := pgtrain_private.require_user();
        select * into proof from pgtrain.verifications v
         where v.owner_id = me and v.type::text = confirm_verification.type and v.confirmed_at is null;
        guard := format('%s code of %s', type, me);
    end if;
    if proof.expires_at > clock_timestamp() and octet_length(proof.secret) > 0
       and (select count(*) from pgtrain_private.wrong_codes w where w.verification_id = proof.id) < current_setting('pgtrain.verification_attempts')::integer then
        stored := convert_from(proof.secret, 'UTF8');
    end if;
    if not pgtrain_private.verify_secret(guard, stored, replace(code, ' ', '')) then
        if proof.id is not null then
            insert into pgtrain_private.wrong_codes (verification_id) values (proof.id);
        end if;
        raise notice using message = 'code refused', hint = 'It is wrong, too old, or was replaced by a newer one.';
        return false;
    end if;
    -- Whoever comes second with the same code finds it gone.
    delete from pgtrain.verifications v where v.id = proof.id and v.secret = proof.secret;
    if not found then
        return false;
    end if;
    if proof.type = 'email' then
        perform pgtrain_private.email_proven(proof.owner_id, proof.target);
    else
        delete from pgtrain.verifications v where v.owner_id = proof.owner_id and v.type = 'phone';
        insert into pgtrain.verifications (owner_id, type, target, secret, confirmed_at) values (proof.owner_id, 'phone', proof.target, '', clock_timestamp());
        update pgtrain.users u set phone = proof.target where u.id = proof.owner_id;
    end if;
    perform pgtrain_private.write_audit('verification_confirmed', null, jsonb_build_object('user_id', proof.owner_id, 'type', type));
    return true;
end $$;
comment on function pgtrain.confirm_verification(text, text, text) is 'Gives back the code that was sent: the address or number is proven. False when the code is wrong, used or too old. Nobody logged in: with the e-mail address as target';

-- ---------------------------------------------------------------- password reset

create or replace function pgtrain.request_password_reset(email text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('request_password_reset');
    perform pgtrain_private.check_email(email);
    perform pgtrain_private.count_request(format('send reset to %s', lower(email)));
    -- Nothing is looked up before the message is taken: an address without an account costs and leaves the same.
    perform pgtrain_private.send('password_reset', email);
    perform pgtrain_private.write_audit('password_reset_requested');
end $$;
comment on function pgtrain.request_password_reset(text) is 'Sends a token to the address, if it has an active account; whether it has is told to nobody';

create or replace function pgtrain.reset_password(token text, new_password text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    stored text;
    proof pgtrain.verifications;
    is_taken boolean := false;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('reset_password');
    if token is null or new_password is null then
        raise exception using errcode = '22004', message = 'token and new_password are needed';
    end if;
    select v.* into proof from pgtrain.verifications v join pgtrain.users u on u.id = v.owner_id
     where v.type = 'password_reset' and v.secret = pgtrain_private.token_hash(reset_password.token) and v.expires_at > clock_timestamp() and u.is_active;
    if proof.id is not null then
        perform pgtrain_private.check_no_name(u.username, u.email, new_password) from pgtrain.users u where u.id = proof.owner_id;
        -- Before the row is taken, so that nobody waits for it while the hash is computed.
        stored := pgtrain_private.hash_password(new_password);
        delete from pgtrain.verifications v where v.id = proof.id and v.secret = proof.secret;
        is_taken := found;
    end if;
    if not is_taken then
        raise exception using errcode = '28000', message = 'the reset token is not valid', detail = 'It is unknown, used, replaced by a newer one, or too old.',
            hint = 'Ask for another with pgtrain.request_password_reset.';
    end if;
    insert into pgtrain.passwords as p (user_id, hash) values (proof.owner_id, stored)
    on conflict on constraint passwords_pkey do update set hash = excluded.hash;
    update pgtrain.sessions s set is_active = false where s.user_id = proof.owner_id and s.is_active;
    update pgtrain.users u set is_verified = true, activated_at = coalesce(u.activated_at, now())
     where u.id = proof.owner_id and lower(u.email) = lower(proof.target) and not u.is_verified;
    perform pgtrain_private.forget_lock(proof.owner_id);
    perform pgtrain_private.forget_attempts(format('password %s', proof.owner_id));
    perform pgtrain_private.write_audit('password_reset', null, jsonb_build_object('user_id', proof.owner_id));
end $$;
comment on function pgtrain.reset_password(text, text) is 'Sets a new password with the token that was sent: once, within pgtrain.reset_lifetime. Ends all sessions and lifts the lock after failed logins; a second factor stays';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
