-- Accounts, functions: registration, login, sessions, passwords, API keys, mapped database roles. What is secret is made and compared
-- in C (src/pg/functions/accounts.cpp). Settings are read where they count: by then the module is loaded and has defined them.

create or replace function pgtrain_private.hash_password(password text) returns text
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_hash_password';
comment on function pgtrain_private.hash_password(text) is 'Argon2id string of a new password; refuses one that breaks the rules for passwords';
create or replace function pgtrain_private.rehash_password(password text) returns text
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_rehash_password';
comment on function pgtrain_private.rehash_password(text) is 'Argon2id string of a password that is in use already, whatever the rules say now';
create or replace function pgtrain_private.password_needs_rehash(hash text) returns boolean
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_password_needs_rehash';
comment on function pgtrain_private.password_needs_rehash(text) is 'Whether a stored hash was made with other parameters than those set now';
create or replace function pgtrain_private.new_token() returns text
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_new_token';
comment on function pgtrain_private.new_token() is '256 random bits as 43 URL-safe characters';
create or replace function pgtrain_private.token_hash(token text) returns bytea
    language c immutable strict as 'MODULE_PATHNAME', 'pgtrain_token_hash';
comment on function pgtrain_private.token_hash(text) is 'What is stored of a token';
create or replace function pgtrain_private.new_api_key() returns text
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_new_api_key';
comment on function pgtrain_private.new_api_key() is 'A token with the mark of API keys before it';
create or replace function pgtrain_private.verify_login(user_id bigint, hash text, password text, is_open boolean, is_provisional boolean, address text) returns boolean
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_verify_login';
comment on function pgtrain_private.verify_login(bigint, text, text, boolean, boolean, text) is 'Whether the password is right and logging in is open; always costs one hash. Counts a failure outside of the transaction, a provisional success too until note_login';
create or replace function pgtrain_private.login_lock_seconds(failures integer) returns bigint
    language c stable strict as 'MODULE_PATHNAME', 'pgtrain_login_lock_seconds';
comment on function pgtrain_private.login_lock_seconds(integer) is 'How long an account is locked after so many failures';
create or replace function pgtrain_private.note_login(user_id bigint, has_succeeded boolean, address text) returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_note_login';
comment on function pgtrain_private.note_login(bigint, boolean, text) is 'At commit: counts a failed login of the user, or starts again from a successful one';
create or replace function pgtrain_private.login_locked_until(user_id bigint) returns timestamptz
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_login_locked_until';
comment on function pgtrain_private.login_locked_until(bigint) is 'Until when shared memory refuses logins of the user, null for not at all';
create or replace function pgtrain_private.forget_login_failures(user_id bigint) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_forget_login_failures';
comment on function pgtrain_private.forget_login_failures(bigint) is 'Starts the count of failures in shared memory again';
create or replace function pgtrain_private.password_hash_load(out computed bigint, out running integer, out most_at_once integer)
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_password_hash_load';
comment on function pgtrain_private.password_hash_load() is 'Password hashes since the server started: how many, how many now, how many at once at most';
create or replace function pgtrain_private.note_replay(session_id bigint) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_note_replay';
comment on function pgtrain_private.note_replay(bigint) is 'At commit: ends a session whose refresh token was shown a second time';
create or replace function pgtrain_private.session_used_at(session_id bigint) returns timestamptz
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_session_used_at';
comment on function pgtrain_private.session_used_at(bigint) is 'When a session was last used as shared memory knows it, null for unknown: transactions that cannot write use sessions too';
create or replace function pgtrain_private.write_session_uses() returns bigint
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_write_session_uses';
comment on function pgtrain_private.write_session_uses() is 'Writes down the uses of sessions that shared memory has noted since the last time; returns how many';
create or replace function pgtrain_private.hide_statement() returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_hide_statement';
comment on function pgtrain_private.hide_statement() is 'Takes the text of the statement out of pg_stat_activity and, when it fails, out of the log';
create or replace function pgtrain.current_session_id() returns bigint
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_current_session_id';
comment on function pgtrain.current_session_id() is 'The row of pgtrain.sessions that is in force, null for none';
create or replace function pgtrain.current_api_key_id() returns bigint
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_current_api_key_id';
comment on function pgtrain.current_api_key_id() is 'The row of pgtrain.api_keys that is in force, null for none';

-- What changes who may come in is not for a key that was not made for it, even if its user may do it.
create or replace function pgtrain_private.require_account_scope(act text, scope text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    key_id bigint := pgtrain.current_api_key_id();
begin
    if key_id is not null and not exists (select from pgtrain.api_keys k where k.id = key_id and array[scope, scope || ':any'] && k.scopes) then
        raise exception using errcode = '42501', message = format('permission denied to call %s with this API key', act),
            detail = format('The key does not have the scope "%s" by name.', scope), hint = 'Log in, or use a key that was made with that scope.';
    end if;
end $$;
comment on function pgtrain_private.require_account_scope(text, text) is 'For acts on accounts: refuses a caller whose API key does not name the scope';

create or replace function pgtrain_private.may_manage_users() returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return pgtrain_private.is_server_administrator() or pgtrain.has_permission('update', 'users', 'any');
end $$;
comment on function pgtrain_private.may_manage_users() is 'Whether the caller may act on accounts of others';

create or replace function pgtrain_private.check_no_name(username text, email text, password text) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if lower(password) in (lower(username), lower(email)) then
        raise exception using errcode = '22023', message = 'the password may not be the user name or e-mail address';
    end if;
end $$;
comment on function pgtrain_private.check_no_name(text, text, text) is 'Refuses a password that everybody can guess who knows the account';

create or replace function pgtrain_private.check_email_domain(email text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    domains text[] := array(select lower(btrim(d)) from unnest(string_to_array(current_setting('pgtrain.email_domains'), ',')) d);
begin
    if cardinality(domains) > 0 and lower(split_part(email, '@', 2)) <> all (domains) then
        raise exception using errcode = '22023', message = format('e-mail address "%s" is not acceptable', email),
            detail = format('Addresses of these domains are: %s.', array_to_string(domains, ', '));
    end if;
end $$;
comment on function pgtrain_private.check_email_domain(text) is 'Refuses an address of a domain that pgtrain.email_domains does not name';

create or replace function pgtrain_private.check_registration(username text, email text, password text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if username is null or email is null or password is null then
        raise exception using errcode = '22004', message = 'username, email and password are needed';
    end if;
    if username !~ '^[A-Za-z0-9][A-Za-z0-9._-]{1,63}$' then
        raise exception using errcode = '22023', message = format('user name "%s" is not acceptable', left(username, 64)),
            hint = 'Use 2 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit.';
    end if;
    if length(email) not between 3 and 254 or email !~ '^[^@[:space:]]+@[^@[:space:]]+$' then
        raise exception using errcode = '22023', message = format('e-mail address "%s" is not acceptable', email);
    end if;
    perform pgtrain_private.check_email_domain(email);
    perform pgtrain_private.check_no_name(username, email, password);
end $$;
comment on function pgtrain_private.check_registration(text, text, text) is 'Refuses what no account may have as name, address or password';

create or replace function pgtrain.register_user(username text, email text, password text, name text default null, invite_code text default null)
    returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    new_id bigint;
    invite pgtrain.invites;
    extra_role text;
    stored text;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('register_user');
    perform pgtrain_private.require_account_scope('register_user', 'create:users');
    perform pgtrain_private.check_registration(username, email, password);
    if invite_code is null and current_setting('pgtrain.invite_only')::boolean and not pgtrain_private.is_server_administrator()
       and not pgtrain.has_permission('create', 'users', 'any') then
        raise exception using errcode = '42501', message = 'registration needs an invitation', hint = 'Give invite_code.';
    end if;
    -- Before the insert, so that nobody waits for a name while the hash is computed.
    stored := pgtrain_private.hash_password(password);
    if invite_code is not null then
        delete from pgtrain.invites i
         where i.code_hash = pgtrain_private.token_hash(invite_code) and (i.expires_at is null or i.expires_at > now())
           and (i.email is null or lower(i.email) = lower(register_user.email))
           and (i.owner_id is null or pgtrain_private.may_still_invite(i.owner_id, i.role_name))
        returning * into invite;
        if not found then
            raise exception using errcode = 'PT404', message = 'the invitation is not valid',
                detail = 'It is unknown, used, expired, for another address, or of somebody who may no longer make it.';
        end if;
        extra_role := invite.role_name;
    end if;
    begin
        insert into pgtrain.users (username, email, name, is_verified, activated_at)
        values (register_user.username, register_user.email, register_user.name, invite.sent_at is not null,
                case when invite.sent_at is not null then now() end)
        returning id into new_id;
    exception when unique_violation then
        raise exception using errcode = '23505', message = 'the user name or e-mail address is taken',
            hint = 'Choose another, or log in.';
    end;
    insert into pgtrain.passwords (user_id, hash) values (new_id, stored);
    insert into pgtrain.user_roles (user_id, role_id)
    select new_id, pgtrain_private.find_role(r) from unnest(array[current_setting('pgtrain.default_role'), extra_role]) r where r is not null
    on conflict do nothing;
    perform pgtrain_private.start_default_plan(new_id);
    perform pgtrain_private.write_audit('user_registered', null, jsonb_build_object('user_id', new_id));
    return new_id;
end $$;
comment on function pgtrain.register_user(text, text, text, text, text) is 'Makes an account with the default role and plan; returns its id. Does not log in';

-- The refresh tokens of a session begin with a part that stays the same, so that a used one is known to belong to it.
create or replace function pgtrain_private.start_session(user_id bigint, user_agent text, ip_address inet default null, out session_token text, out refresh_token text, out expires_at timestamptz)
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    start timestamptz := clock_timestamp();
    family text := pgtrain_private.new_token();
    absolute interval := current_setting('pgtrain.session_absolute_lifetime')::interval;
    ends timestamptz := case when absolute > interval '0' then start + absolute else 'infinity' end;
begin
    -- Asked first, because a delete, even of nothing, makes every session read rights again.
    if exists (select from pgtrain.sessions s where s.user_id = start_session.user_id and s.refresh_expires_at < start - interval '30 days') then
        delete from pgtrain.sessions s where s.user_id = start_session.user_id and s.refresh_expires_at < start - interval '30 days';
    end if;
    session_token := pgtrain_private.new_token();
    refresh_token := family || '.' || pgtrain_private.new_token();
    expires_at := least(start + current_setting('pgtrain.session_lifetime')::interval, ends);
    insert into pgtrain.sessions (user_id, token_hash, refresh_token_hash, refresh_family_hash, expires_at, refresh_expires_at,
                                  absolute_expires_at, last_accessed_at, ip_address, user_agent)
    values (start_session.user_id, pgtrain_private.token_hash(session_token), pgtrain_private.token_hash(refresh_token),
            pgtrain_private.token_hash(family), start_session.expires_at,
            least(start + current_setting('pgtrain.refresh_lifetime')::interval, ends), ends, start,
            coalesce(start_session.ip_address, inet_client_addr()), left(start_session.user_agent, 500));
end $$;
comment on function pgtrain_private.start_session(bigint, text, inet) is 'Makes a session row and its two tokens; removes the user''s sessions that ended a month ago';

-- A refusal returns no row instead of an error, so that the failure it counts is committed with the caller's transaction. What a
-- caller rolls back is still counted in shared memory (verify_login). Whatever the reason, it costs one hash and says the same.
create or replace function pgtrain.login(identifier text, password text, user_agent text default null, code text default null, ip_address inet default null)
    returns table (user_id bigint, session_token text, refresh_token text, expires_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
    stored text;
    is_open boolean;
    is_right boolean;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('login');
    if identifier is null or password is null then
        raise exception using errcode = '22004', message = 'identifier and password are needed';
    end if;
    select * into account from pgtrain.users u
     where lower(u.username) = lower(identifier) or lower(u.email) = lower(identifier);
    select p.hash into stored from pgtrain.passwords p where p.user_id = account.id;
    is_open := coalesce(account.is_active and (account.locked_until > clock_timestamp()) is not true
                        and (account.is_verified or not current_setting('pgtrain.login_needs_verification')::boolean), false);
    is_right := pgtrain_private.verify_login(account.id, stored, password, is_open, code is not null, login.ip_address::text);
    if is_right and not pgtrain_private.check_second_factor(account.id, code) then
        if code is null then
            raise exception using errcode = 'PT428', message = 'a one-time code is needed',
                detail = 'The password is right, and the account has a second factor.', hint = 'Call login again with code.';
        end if;
        perform pgtrain_private.note_login(account.id, false, login.ip_address::text);
        is_right := false;
    end if;
    if not is_right then
        raise notice using message = 'login refused',
            hint = 'The name, the password or the code is wrong, or the account is locked for a while, not verified, or not active.';
        return;
    end if;
    if pgtrain_private.password_needs_rehash(stored) then
        update pgtrain.passwords p set hash = pgtrain_private.rehash_password(password) where p.user_id = account.id;
    end if;
    perform pgtrain_private.note_login(account.id, true, null);
    user_id := account.id;
    select s.session_token, s.refresh_token, s.expires_at into session_token, refresh_token, expires_at
      from pgtrain_private.start_session(account.id, login.user_agent, login.ip_address) s;
    perform pgtrain_private.write_audit('login', null, jsonb_build_object('user_id', account.id, 'user_agent', left(login.user_agent, 500)),
        account.id, login.ip_address);
    return next;
end $$;
comment on function pgtrain.login(text, text, text, text, inet) is 'Checks name (or e-mail), password and, where the account has a second factor, its code; returns a session and a refresh token, no row when refused. Pass secrets as parameters so that no log has them';

create or replace function pgtrain.authenticate(token text, session boolean default false) returns bigint
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_authenticate';
comment on function pgtrain.authenticate(text, boolean) is 'Makes the owner of a session token or API key the caller until the end of the transaction (session: until logout); returns the user';

create or replace function pgtrain.logout() returns boolean
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_logout';
comment on function pgtrain.logout() is 'Ends the session in force; its tokens are void from then on. Nobody is left in this connection. Returns whether there was a session';

-- A used token says that two have it, and nobody can tell who is the thief: the session ends for both. A refusal returns no row
-- instead of an error, so that this end is committed with the caller's transaction.
create or replace function pgtrain.refresh_session(refresh_token text)
    returns table (session_token text, new_refresh_token text, expires_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    family text := split_part(refresh_token, '.', 1);
    start timestamptz := clock_timestamp();
    idle interval := nullif(current_setting('pgtrain.session_idle_timeout')::interval, interval '0');
    live_id bigint;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('refresh_session');
    select s.id into live_id from pgtrain.sessions s join pgtrain.users u on u.id = s.user_id
     where s.refresh_family_hash = pgtrain_private.token_hash(family) and s.is_active and s.refresh_expires_at > start
       and (greatest(s.last_accessed_at, pgtrain_private.session_used_at(s.id)) + idle <= start) is not true and u.is_active;
    session_token := pgtrain_private.new_token();
    new_refresh_token := family || '.' || pgtrain_private.new_token();
    update pgtrain.sessions s
       set token_hash = pgtrain_private.token_hash(session_token), refresh_token_hash = pgtrain_private.token_hash(new_refresh_token),
           expires_at = least(start + current_setting('pgtrain.session_lifetime')::interval, s.absolute_expires_at),
           refresh_expires_at = least(start + current_setting('pgtrain.refresh_lifetime')::interval, s.absolute_expires_at),
           last_accessed_at = start
     where s.id = live_id and s.is_active and s.refresh_token_hash = pgtrain_private.token_hash(refresh_session.refresh_token)
    returning s.expires_at into refresh_session.expires_at;
    if found then
        return next;
        return;
    end if;
    perform pgtrain_private.note_replay(live_id);
    raise notice using message = 'refresh refused',
        hint = 'The refresh token is unknown, was used before, or its session has ended. Log in again with pgtrain.login.';
end $$;
comment on function pgtrain.refresh_session(text) is 'Exchanges a refresh token for a new pair of tokens; the old pair is void. No row when refused; a token that was used before ends the session';

create or replace view pgtrain.my_sessions with (security_invoker, security_barrier) as
    select s.id, coalesce(s.id = pgtrain.current_session_id(), false) as is_current, s.created_at, s.last_accessed_at, s.expires_at,
           s.refresh_expires_at, s.absolute_expires_at, s.ip_address, s.user_agent
      from pgtrain.sessions s
     where s.user_id = (select pgtrain.current_user_id()) and s.is_active and s.refresh_expires_at > now();
comment on view pgtrain.my_sessions is 'The caller''s live sessions: where he is logged in, and which one this is';

create or replace function pgtrain.revoke_session(session_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    owner_id bigint;
begin
    perform pgtrain_private.require_writable('revoke_session');
    perform pgtrain_private.require_account_scope('revoke_session', 'update:users');
    if pgtrain_private.may_manage_users() then
        perform pgtrain_private.be_urgent();
    else
        perform pgtrain_private.require_user();
    end if;
    select s.user_id into owner_id from pgtrain.sessions s
     where s.id = revoke_session.session_id and s.is_active and (s.user_id = pgtrain.current_user_id() or pgtrain_private.may_manage_users())
       for no key update;
    if owner_id is null then
        return false;
    end if;
    -- The log first: it names the caller, who may be ending himself.
    perform pgtrain_private.write_audit('session_revoked', null, jsonb_build_object('user_id', owner_id, 'session_id', session_id));
    update pgtrain.sessions s set is_active = false where s.id = revoke_session.session_id;
    return true;
end $$;
comment on function pgtrain.revoke_session(bigint) is 'Ends a session of the caller (an administrator: of anybody) at once; returns whether there was one';

create or replace function pgtrain.revoke_all_sessions(user_id bigint default null, keep_current boolean default false) returns integer
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    owner_id bigint := coalesce(user_id, pgtrain_private.require_user());
    ended integer;
begin
    perform pgtrain_private.require_writable('revoke_all_sessions');
    perform pgtrain_private.require_account_scope('revoke_all_sessions', 'update:users');
    if owner_id is distinct from pgtrain.current_user_id() then
        if not pgtrain_private.may_manage_users() then
            raise exception using errcode = '42501', message = 'permission denied to end the sessions of another user';
        end if;
        perform pgtrain_private.be_urgent();
    end if;
    perform pgtrain_private.write_audit('sessions_revoked', null, jsonb_build_object('user_id', owner_id));
    update pgtrain.sessions s set is_active = false
     where s.user_id = owner_id and s.is_active and not (keep_current and s.id is not distinct from pgtrain.current_session_id());
    get diagnostics ended = row_count;
    return ended;
end $$;
comment on function pgtrain.revoke_all_sessions(bigint, boolean) is 'Ends all sessions of the caller, or of a user for an administrator, at once; returns how many';

create or replace function pgtrain_private.forget_lock(user_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.forget_login_failures(user_id);
    update pgtrain.users u set failed_login_count = 0, locked_until = null where u.id = forget_lock.user_id;
end $$;
comment on function pgtrain_private.forget_lock(bigint) is 'Lets a user log in again who was locked after failed logins';

create or replace function pgtrain.unlock_user(user_id bigint) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('unlock_user');
    if not pgtrain_private.may_manage_users() then
        raise exception using errcode = '42501', message = 'permission denied to unlock users';
    end if;
    perform pgtrain_private.forget_lock(user_id);
    perform pgtrain_private.write_audit('user_unlocked', null, jsonb_build_object('user_id', user_id));
end $$;
comment on function pgtrain.unlock_user(bigint) is 'For administrators: ends a lock after failed logins';

create or replace function pgtrain.change_password(old_password text, new_password text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
    stored text;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('change_password');
    perform pgtrain_private.require_account_scope('change_password', 'update:users');
    me := pgtrain_private.require_user();
    if pgtrain_private.login_locked_until(me) is not null then
        raise exception using errcode = 'PT423', message = 'too many wrong passwords',
            detail = format('The password cannot be changed until %s.', pgtrain_private.login_locked_until(me)), hint = 'Wait.';
    end if;
    if new_password is null then
        raise exception using errcode = '22004', message = 'the new password may not be null';
    end if;
    select p.hash into stored from pgtrain.passwords p where p.user_id = me;
    if not pgtrain_private.verify_login(me, stored, coalesce(old_password, ''), true, false, null) then
        raise exception using errcode = '28P01', message = 'the old password is wrong';
    end if;
    perform pgtrain_private.check_no_name(u.username, u.email, new_password) from pgtrain.users u where u.id = me;
    update pgtrain.passwords p set hash = pgtrain_private.hash_password(new_password) where p.user_id = me;
    update pgtrain.sessions s set is_active = false
     where s.user_id = me and s.is_active and s.id is distinct from pgtrain.current_session_id();
    perform pgtrain_private.write_audit('password_changed');
end $$;
comment on function pgtrain.change_password(text, text) is 'Changes the caller''s password and ends all other sessions of his';

-- API keys.

create or replace function pgtrain_private.check_scopes(scopes text[]) returns text[]
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    scope text;
    parts text[];
begin
    foreach scope in array scopes loop
        parts := string_to_array(scope, ':');
        if not exists (select from pgtrain.permissions p
                        where p.action = parts[1] and p.entity = parts[2] and p.access::text = coalesce(parts[3], 'own') and cardinality(parts) <= 3) then
            raise exception using errcode = '22023', message = format('scope "%s" is unknown', scope),
                detail = 'A scope is action:entity for own rows or action:entity:any for everybody''s.',
                hint = 'pgtrain.permissions lists actions and entities.';
        end if;
        if not pgtrain.has_permission(parts[1], parts[2], coalesce(parts[3], 'own')) then
            raise exception using errcode = '42501', message = format('permission denied to make a key with scope "%s"', scope),
                detail = 'A key cannot do more than its maker.';
        end if;
    end loop;
    return array(select distinct s from unnest(scopes) s order by s);
end $$;
comment on function pgtrain_private.check_scopes(text[]) is 'The scopes without doubles, or an error for one that is unknown or beyond the caller''s rights';

create or replace function pgtrain.create_api_key(name text, scopes text[] default '{}', expires_at timestamptz default null, out id bigint, out key text, out prefix text)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain_private.require_user();
    maker_ends timestamptz;
begin
    perform pgtrain_private.require_writable('create_api_key');
    perform pgtrain_private.require_account_scope('create_api_key', 'create:api');
    if (length(name) between 1 and 100) is not true then
        raise exception using errcode = '22023', message = 'the name of an API key has 1 to 100 characters';
    end if;
    if expires_at <= clock_timestamp() then
        raise exception using errcode = '22023', message = 'the API key would have expired already', detail = format('It is to end at %s.', expires_at);
    end if;
    if scopes is null or array_position(scopes, null) is not null then
        raise exception using errcode = '22004', message = 'the scopes of an API key may not be null', hint = 'Give an empty array for no bounds.';
    end if;
    if pgtrain.current_api_key_id() is not null then
        if cardinality(scopes) = 0 then
            raise exception using errcode = '42501', message = 'an API key cannot make a key without scopes';
        end if;
        select k.expires_at into maker_ends from pgtrain.api_keys k where k.id = pgtrain.current_api_key_id();
    end if;
    key := pgtrain_private.new_api_key();
    prefix := left(key, 12);
    insert into pgtrain.api_keys (user_id, name, hash, prefix, scopes, expires_at)
    values (me, create_api_key.name, pgtrain_private.token_hash(key), create_api_key.prefix, pgtrain_private.check_scopes(scopes),
            least(create_api_key.expires_at, maker_ends))
    returning api_keys.id into create_api_key.id;
    perform pgtrain_private.write_audit('api_key_created', null, jsonb_build_object('api_key_id', id, 'name', name, 'prefix', prefix, 'scopes', scopes));
end $$;
comment on function pgtrain.create_api_key(text, text[], timestamptz) is 'Makes a key for a program that acts for the caller, within the scopes. The key is shown this once';

create or replace view pgtrain.my_api_keys with (security_invoker, security_barrier) as
    select k.id, k.name, k.prefix, k.scopes, k.is_active and coalesce(k.expires_at > now(), true) as is_valid,
           coalesce(k.id = pgtrain.current_api_key_id(), false) as is_current, k.created_at, k.last_used_at, k.expires_at
      from pgtrain.api_keys k
     where k.user_id = (select pgtrain.current_user_id());
comment on view pgtrain.my_api_keys is 'The caller''s API keys; the keys themselves are known to nobody here';

create or replace function pgtrain.revoke_api_key(api_key_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    owner_id bigint;
begin
    perform pgtrain_private.require_writable('revoke_api_key');
    -- A key may always end itself: who finds one lying about does well to.
    if api_key_id is distinct from pgtrain.current_api_key_id() then
        perform pgtrain_private.require_account_scope('revoke_api_key', 'delete:api');
    end if;
    if pgtrain_private.may_manage_users() then
        perform pgtrain_private.be_urgent();
    else
        perform pgtrain_private.require_user();
    end if;
    select k.user_id into owner_id from pgtrain.api_keys k
     where k.id = revoke_api_key.api_key_id and k.is_active and (k.user_id = pgtrain.current_user_id() or pgtrain_private.may_manage_users())
       for no key update;
    if owner_id is null then
        return false;
    end if;
    perform pgtrain_private.write_audit('api_key_revoked', null, jsonb_build_object('user_id', owner_id, 'api_key_id', api_key_id));
    update pgtrain.api_keys k set is_active = false where k.id = revoke_api_key.api_key_id;
    return true;
end $$;
comment on function pgtrain.revoke_api_key(bigint) is 'Voids an API key of the caller (an administrator: of anybody) at once; returns whether there was one';

-- Database roles that stand for users.

create or replace function pgtrain_private.require_mapping_right(user_id bigint, act text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    given bigint;
begin
    perform pgtrain_private.require_account_scope(act, 'update:admin');
    if pgtrain_private.require_permission('update', 'admin') <> 'any' then
        raise exception using errcode = '42501', message = format('permission denied to call %s', act);
    end if;
    if not exists (select from pgtrain.users u where u.id = require_mapping_right.user_id) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', require_mapping_right.user_id);
    end if;
    -- Who may connect as the role becomes the user, so this gives away all that the user may do.
    for given in select ur.role_id from pgtrain.user_roles ur where ur.user_id = require_mapping_right.user_id and ur.is_active loop
        perform pgtrain_private.check_grantable(given);
    end loop;
end $$;
comment on function pgtrain_private.require_mapping_right(bigint, text) is 'Refuses a caller who is no administrator or has less rights than the user';

create or replace function pgtrain.map_database_role(user_id bigint, role name) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    target record;
begin
    perform pgtrain_private.require_writable('map_database_role');
    perform pgtrain_private.require_mapping_right(user_id, 'map_database_role');
    select r.oid, r.rolsuper, r.rolcanlogin into target from pg_roles r where r.rolname = role;
    if not found then
        raise exception using errcode = '42704', message = format('role "%s" does not exist', role), hint = 'Create it first: create role ... login;';
    end if;
    if target.rolsuper or not target.rolcanlogin then
        raise exception using errcode = '22023', message = format('role "%s" cannot stand for a user', role),
            detail = case when target.rolsuper then 'It is a superuser.' else 'It cannot log in.' end;
    end if;
    -- What a role of that name that is gone stood for ends here.
    update pgtrain.users u set db_role = null, db_role_oid = null
     where u.db_role = role and u.db_role_oid <> target.oid or u.db_role_oid = target.oid and u.db_role <> role;
    begin
        update pgtrain.users u set db_role = role, db_role_oid = target.oid where u.id = map_database_role.user_id;
    exception when unique_violation then
        raise exception using errcode = '23505', message = format('role "%s" stands for another user', role),
            hint = 'Take it from him first with pgtrain.unmap_database_role.';
    end;
    perform pgtrain_private.write_audit('database_role_mapped', null, jsonb_build_object('user_id', user_id, 'role', role));
end $$;
comment on function pgtrain.map_database_role(bigint, name) is 'For administrators: whoever connects as that database role is that user, without a token';

create or replace function pgtrain.unmap_database_role(user_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    had boolean;
begin
    perform pgtrain_private.require_writable('unmap_database_role');
    perform pgtrain_private.require_mapping_right(user_id, 'unmap_database_role');
    update pgtrain.users u set db_role = null, db_role_oid = null where u.id = unmap_database_role.user_id and u.db_role is not null;
    had := found;
    perform pgtrain_private.write_audit('database_role_unmapped', null, jsonb_build_object('user_id', user_id));
    return had;
end $$;
comment on function pgtrain.unmap_database_role(bigint) is 'For administrators: the database role of a user stands for nobody from now on; returns whether there was one';

insert into pgtrain_private.writable_columns
select 'users', c from unnest(array['name', 'first_name', 'last_name', 'phone', 'avatar_url', 'metadata']) c
on conflict do nothing;

revoke all on all routines in schema pgtrain, pgtrain_private from public;
