-- Accounts, functions: registration, login, sessions, passwords. What is secret is made and compared in C (src/pg/functions/accounts.cpp).

create or replace function pgtrain_private.hash_password(password text) returns text
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_hash_password';
comment on function pgtrain_private.hash_password(text) is 'Argon2id string of a new password; refuses a bad length';
create or replace function pgtrain_private.verify_password(hash text, password text) returns boolean
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_verify_password';
comment on function pgtrain_private.verify_password(text, text) is 'Whether the password is the one; a null hash takes as long and says no';
create or replace function pgtrain_private.password_needs_rehash(hash text) returns boolean
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_password_needs_rehash';
comment on function pgtrain_private.password_needs_rehash(text) is 'Whether a stored hash was made with other parameters than those set now';
create or replace function pgtrain_private.new_token() returns text
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_new_token';
comment on function pgtrain_private.new_token() is '256 random bits as 43 URL-safe characters';
create or replace function pgtrain_private.token_hash(token text) returns bytea
    language c immutable strict as 'MODULE_PATHNAME', 'pgtrain_token_hash';
comment on function pgtrain_private.token_hash(text) is 'What is stored of a token';
create or replace function pgtrain_private.check_login(name text) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_check_login';
comment on function pgtrain_private.check_login(text) is 'Refuses a name that is locked after failed logins';
create or replace function pgtrain_private.verify_login(name text, hash text, password text) returns boolean
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_verify_login';
comment on function pgtrain_private.verify_login(text, text, text) is 'verify_password that counts failures of a name outside of the transaction';
create or replace function pgtrain_private.login_lock_seconds(failures integer) returns bigint
    language c stable strict as 'MODULE_PATHNAME', 'pgtrain_login_lock_seconds';
comment on function pgtrain_private.login_lock_seconds(integer) is 'How long an account is locked after so many failures';
create or replace function pgtrain_private.note_login(user_id bigint, has_succeeded boolean) returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_note_login';
comment on function pgtrain_private.note_login(bigint, boolean) is 'At commit: counts a failed login of the user, or starts again from a successful one';
create or replace function pgtrain_private.hide_statement() returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_hide_statement';
comment on function pgtrain_private.hide_statement() is 'Takes the text of the statement out of pg_stat_activity and, when it fails, out of the log';
create or replace function pgtrain_private.session_lifetime_seconds() returns integer
    language c stable as 'MODULE_PATHNAME', 'pgtrain_session_lifetime';
comment on function pgtrain_private.session_lifetime_seconds() is 'pgtrain.session_lifetime';
create or replace function pgtrain_private.refresh_lifetime_seconds() returns integer
    language c stable as 'MODULE_PATHNAME', 'pgtrain_refresh_lifetime';
comment on function pgtrain_private.refresh_lifetime_seconds() is 'pgtrain.refresh_lifetime';
create or replace function pgtrain_private.current_session_id() returns bigint
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_current_session_id';
comment on function pgtrain_private.current_session_id() is 'The row of pgtrain.sessions that is in force, null for none';

create or replace function pgtrain.register_user(username text, email text, password text, name text default null, invite_code text default null)
    returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    new_id bigint;
    invite pgtrain.invites;
    extra_role text;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('register_user');
    if username is null or email is null or password is null then
        raise exception using errcode = '22004', message = 'username, email and password are needed';
    end if;
    if username !~ '^[A-Za-z0-9][A-Za-z0-9._-]{1,63}$' then
        raise exception using errcode = '22023', message = format('user name "%s" is not acceptable', username),
            hint = 'Use 2 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit.';
    end if;
    if length(email) not between 3 and 254 or email !~ '^[^@\s]+@[^@\s]+$' then
        raise exception using errcode = '22023', message = format('e-mail address "%s" is not acceptable', email);
    end if;
    if invite_code is not null then
        delete from pgtrain.invites i
         where i.code_hash = pgtrain_private.token_hash(invite_code) and (i.expires_at is null or i.expires_at > now())
           and (i.email is null or lower(i.email) = lower(register_user.email))
        returning * into invite;
        if not found then
            raise exception using errcode = 'PT404', message = 'the invitation is not valid',
                detail = 'It is unknown, used, expired, or for another address.';
        end if;
        extra_role := invite.role_name;
    end if;
    begin
        insert into pgtrain.users (username, email, name) values (register_user.username, register_user.email, register_user.name)
        returning id into new_id;
    exception when unique_violation then
        raise exception using errcode = '23505', message = 'the user name or e-mail address is taken',
            hint = 'Choose another, or log in.';
    end;
    insert into pgtrain.passwords (user_id, hash) values (new_id, pgtrain_private.hash_password(password));
    insert into pgtrain.user_roles (user_id, role_id)
    select new_id, r.id from pgtrain.roles r where r.name in ('user', extra_role);
    perform pgtrain_private.start_default_plan(new_id);
    perform pgtrain_private.write_audit('user_registered', null, jsonb_build_object('user_id', new_id));
    return new_id;
end $$;
comment on function pgtrain.register_user(text, text, text, text, text) is 'Makes an account with the role user and the plan free; returns its id. Does not log in';

create or replace function pgtrain_private.start_session(user_id bigint, user_agent text, out session_token text, out refresh_token text, out expires_at timestamptz)
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- Asked first, because a delete, even of nothing, makes every session read rights again.
    if exists (select from pgtrain.sessions s where s.user_id = start_session.user_id and s.refresh_expires_at < now() - interval '30 days') then
        delete from pgtrain.sessions s where s.user_id = start_session.user_id and s.refresh_expires_at < now() - interval '30 days';
    end if;
    session_token := pgtrain_private.new_token();
    refresh_token := pgtrain_private.new_token();
    expires_at := now() + make_interval(secs => pgtrain_private.session_lifetime_seconds());
    insert into pgtrain.sessions (user_id, token_hash, refresh_token_hash, expires_at, refresh_expires_at, ip_address, user_agent)
    values (start_session.user_id, pgtrain_private.token_hash(session_token), pgtrain_private.token_hash(refresh_token),
            start_session.expires_at, now() + make_interval(secs => pgtrain_private.refresh_lifetime_seconds()),
            inet_client_addr(), left(start_session.user_agent, 500));
end $$;
comment on function pgtrain_private.start_session(bigint, text) is 'Makes a session row and its two tokens; removes the user''s sessions that ended a month ago';

-- A refusal returns no row instead of an error, so that the failure it counts is committed with the caller's transaction. What a
-- caller rolls back is still counted in shared memory (verify_login).
create or replace function pgtrain.login(identifier text, password text, user_agent text default null)
    returns table (user_id bigint, session_token text, refresh_token text, expires_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
    stored text;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('login');
    if identifier is null or password is null then
        raise exception using errcode = '22004', message = 'identifier and password are needed';
    end if;
    perform pgtrain_private.check_login(lower(identifier));
    select * into account from pgtrain.users u
     where lower(u.username) = lower(identifier) or lower(u.email) = lower(identifier);
    if account.locked_until > now() then
        raise exception using errcode = 'PT423', message = 'too many failed logins',
            detail = format('Logins are refused until %s.', account.locked_until), hint = 'Wait, or reset the password.';
    end if;
    select p.hash into stored from pgtrain.passwords p where p.user_id = account.id;
    if not pgtrain_private.verify_login(lower(identifier), stored, password) or not account.is_active then
        perform pgtrain_private.note_login(account.id, false);
        raise notice using message = 'login refused', hint = 'The name or the password is wrong, or the account is not active.';
        return;
    end if;
    if pgtrain_private.password_needs_rehash(stored) then
        update pgtrain.passwords p set hash = pgtrain_private.hash_password(password)
         where p.user_id = account.id and length(password) >= 8;
    end if;
    perform pgtrain_private.note_login(account.id, true);
    user_id := account.id;
    select s.session_token, s.refresh_token, s.expires_at into session_token, refresh_token, expires_at
      from pgtrain_private.start_session(account.id, login.user_agent) s;
    return next;
end $$;
comment on function pgtrain.login(text, text, text) is 'Checks name (or e-mail) and password; returns a session and a refresh token, no row when refused. Pass the password as a parameter so that no log has it';

create or replace function pgtrain.authenticate(token text, session boolean default false) returns bigint
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_authenticate';
comment on function pgtrain.authenticate(text, boolean) is 'Makes the owner of a session token the caller until the end of the transaction (session: until logout); returns the user';

create or replace function pgtrain.logout() returns boolean
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_logout';
comment on function pgtrain.logout() is 'Ends the session in force; its tokens are void from then on. Returns whether there was one';

create or replace function pgtrain.refresh_session(refresh_token text, out session_token text, out new_refresh_token text, out expires_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('refresh_session');
    session_token := pgtrain_private.new_token();
    new_refresh_token := pgtrain_private.new_token();
    update pgtrain.sessions s
       set token_hash = pgtrain_private.token_hash(session_token), refresh_token_hash = pgtrain_private.token_hash(new_refresh_token),
           expires_at = now() + make_interval(secs => pgtrain_private.session_lifetime_seconds()),
           refresh_expires_at = now() + make_interval(secs => pgtrain_private.refresh_lifetime_seconds()), last_accessed_at = now()
      from pgtrain.users u
     where s.refresh_token_hash = pgtrain_private.token_hash(refresh_session.refresh_token)
       and s.is_active and s.refresh_expires_at > now() and u.id = s.user_id and u.is_active
    returning s.expires_at into refresh_session.expires_at;
    if not found then
        raise exception using errcode = '28000', message = 'the refresh token is not valid', hint = 'Log in again with pgtrain.login.';
    end if;
end $$;
comment on function pgtrain.refresh_session(text) is 'Exchanges a refresh token for a new pair of tokens; the old pair is void';

create or replace function pgtrain.change_password(old_password text, new_password text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
    stored text;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('change_password');
    me := pgtrain_private.require_user();
    if new_password is null then
        raise exception using errcode = '22004', message = 'the new password may not be null';
    end if;
    select p.hash into stored from pgtrain.passwords p where p.user_id = me;
    if not pgtrain_private.verify_password(stored, old_password) then
        raise exception using errcode = '28P01', message = 'the old password is wrong';
    end if;
    update pgtrain.passwords p set hash = pgtrain_private.hash_password(new_password) where p.user_id = me;
    update pgtrain.sessions s set is_active = false
     where s.user_id = me and s.is_active and s.id is distinct from pgtrain_private.current_session_id();
    perform pgtrain_private.write_audit('password_changed');
end $$;
comment on function pgtrain.change_password(text, text) is 'Changes the caller''s password and ends all other sessions of his';

insert into pgtrain_private.writable_columns
select 'users', c from unnest(array['name', 'first_name', 'last_name', 'phone', 'avatar_url', 'metadata']) c
on conflict do nothing;

revoke all on all routines in schema pgtrain, pgtrain_private from public;
