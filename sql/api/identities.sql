-- Identities, functions: login through outside providers, invitations, SSH keys. Their tables: schema/verifications.sql.

-- ---------------------------------------------------------------- outside providers

create or replace function pgtrain_private.check_provider(provider_name text, provider_id text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if provider_name is null or provider_name !~ '^[a-z][a-z0-9_.-]{0,62}$' then
        raise exception using errcode = '22023', message = format('provider name "%s" is not acceptable', left(provider_name, 63)),
            hint = 'Use small letters, digits, dots, dashes and underscores, beginning with a letter.';
    elsif provider_id is null or length(provider_id) not between 1 and 255 then
        raise exception using errcode = '22023', message = 'provider_id has 1 to 255 characters',
            hint = 'Give what never changes at the provider (its subject), not a name or an e-mail address.';
    end if;
    -- The role that logged in to the server: a SET ROLE, or the owner's rights that this runs with, are not what was trusted.
    if not exists (select from pgtrain.connection_roles r join pg_roles d on d.oid = r.db_role_oid
                    where r.provider_name = check_provider.provider_name and r.db_role = session_user and d.rolname = session_user) then
        raise exception using errcode = '42501', message = format('permission denied to say who somebody is at "%s"', provider_name),
            detail = format('Database role "%s" is not trusted for it.', session_user),
            hint = 'An administrator can trust it: pgtrain.trust_connection_role.';
    end if;
end $$;
comment on function pgtrain_private.check_provider(text, text) is 'Refuses a malformed identity, and a database role that is not trusted for the provider';

create or replace function pgtrain.trust_connection_role(provider_name text, db_role text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('trust_connection_role');
    perform pgtrain_private.require_any('update', 'admin', 'trust a role');
    if provider_name is null or provider_name !~ '^[a-z][a-z0-9_.-]{0,62}$' then
        raise exception using errcode = '22023', message = format('provider name "%s" is not acceptable', left(provider_name, 63)),
            hint = 'Use small letters, digits, dots, dashes and underscores, beginning with a letter.';
    elsif db_role is null or not exists (select from pg_roles r where r.rolname = db_role) then
        raise exception using errcode = '42704', message = format('role "%s" does not exist', db_role);
    end if;
    insert into pgtrain.connection_roles (provider_name, db_role, db_role_oid)
    select trust_connection_role.provider_name, r.rolname, r.oid from pg_roles r where r.rolname = trust_connection_role.db_role
    on conflict on constraint connection_roles_provider_name_db_role_key do update set db_role_oid = excluded.db_role_oid;
    perform pgtrain_private.write_audit('connection_role_trusted', null, jsonb_build_object('provider_name', provider_name, 'db_role', db_role));
end $$;
comment on function pgtrain.trust_connection_role(text, text) is 'Lets a database role say who somebody is at an outside provider: it can then log in as any user who is linked there';

create or replace function pgtrain.distrust_connection_role(provider_name text, db_role text) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('distrust_connection_role');
    perform pgtrain_private.require_any('update', 'admin', 'distrust a role');
    delete from pgtrain.connection_roles r where r.provider_name = distrust_connection_role.provider_name and r.db_role = distrust_connection_role.db_role;
    if not found then
        return false;
    end if;
    perform pgtrain_private.write_audit('connection_role_distrusted', null, jsonb_build_object('provider_name', provider_name, 'db_role', db_role));
    return true;
end $$;
comment on function pgtrain.distrust_connection_role(text, text) is 'Takes that trust back; false when it was not there';

create or replace function pgtrain_private.insert_connection(account_id bigint, provider_name text, provider_id text) returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    new_id bigint;
begin
    insert into pgtrain.connections (user_id, provider_name, provider_id)
    values (account_id, insert_connection.provider_name, insert_connection.provider_id)
    on conflict ((provider_name || ''), (provider_id || '')) do nothing returning id into new_id;
    if new_id is null then
        raise exception using errcode = '23505', message = format('this identity at "%s" is linked to an account already', provider_name),
            hint = 'Unlink it there first.';
    end if;
    perform pgtrain_private.write_audit('connection_linked', null,
        jsonb_build_object('user_id', account_id, 'provider_name', provider_name, 'connection_id', new_id));
    return new_id;
end $$;
comment on function pgtrain_private.insert_connection(bigint, text, text) is 'Links an account to an identity at a provider that nobody has yet';

create or replace function pgtrain.link_connection(provider_name text, provider_id text) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
begin
    perform pgtrain_private.require_writable('link_connection');
    me := pgtrain_private.require_user();
    perform pgtrain_private.require_account_scope('link_connection', 'update:users');
    perform pgtrain_private.check_provider(provider_name, provider_id);
    return pgtrain_private.insert_connection(me, provider_name, provider_id);
end $$;
comment on function pgtrain.link_connection(text, text) is 'Links the caller''s account to his identity at an outside provider; only from a database role that is trusted for it. An equal e-mail address links nothing';

create or replace function pgtrain.unlink_connection(connection_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account_id bigint;
begin
    perform pgtrain_private.require_writable('unlink_connection');
    perform pgtrain_private.require_account_scope('unlink_connection', 'update:users');
    if not pgtrain_private.may_manage_users() then
        perform pgtrain_private.require_user();
    end if;
    -- All of the account's, so that of two at once the second sees that his would be the last.
    select c.user_id into account_id from pgtrain.connections c where c.id = unlink_connection.connection_id;
    perform from pgtrain.connections c where c.user_id = account_id order by c.id for update;
    if not exists (select from pgtrain.connections c where c.id = unlink_connection.connection_id
                      and (c.user_id = pgtrain.current_user_id() or pgtrain_private.may_manage_users())) then
        return false;
    end if;
    if not exists (select from pgtrain.passwords p where p.user_id = account_id)
       and (select count(*) from pgtrain.connections c where c.user_id = account_id) = 1 then
        raise exception using errcode = 'PT409', message = 'this is the only way to log in to the account',
            hint = 'Set a password first with pgtrain.request_password_reset, or link another identity.';
    end if;
    delete from pgtrain.connections c where c.id = unlink_connection.connection_id;
    perform pgtrain_private.write_audit('connection_unlinked', null, jsonb_build_object('user_id', account_id, 'connection_id', connection_id));
    return true;
end $$;
comment on function pgtrain.unlink_connection(bigint) is 'Ends a link of the caller (an administrator: of anybody); not the last way to log in. False when there is none';

create or replace function pgtrain.login_with_connection(provider_name text, provider_id text, user_agent text default null, code text default null,
                                                         ip_address inet default null)
    returns table (user_id bigint, session_token text, refresh_token text, expires_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('login_with_connection');
    perform pgtrain_private.check_provider(provider_name, provider_id);
    select u.* into account from pgtrain.connections c join pgtrain.users u on u.id = c.user_id
     where c.provider_name || '' = login_with_connection.provider_name and c.provider_id || '' = login_with_connection.provider_id
       and u.is_active and (u.is_verified or not current_setting('pgtrain.login_needs_verification')::boolean);
    if account.id is not null and code is null and pgtrain_private.has_second_factor(account.id) then
        raise exception using errcode = 'PT428', message = 'a one-time code is needed',
            detail = 'The account has a second factor.', hint = 'Call login_with_connection again with code.';
    end if;
    if account.id is null or not pgtrain_private.check_second_factor(account.id, code) then
        if account.id is not null then
            perform pgtrain_private.note_login(account.id, false, login_with_connection.ip_address::text);
        end if;
        raise notice using message = 'login refused',
            hint = 'The identity is not linked, the code is wrong, or the account is not verified or not active.';
        return;
    end if;
    perform pgtrain_private.note_login(account.id, true, null);
    user_id := account.id;
    select s.session_token, s.refresh_token, s.expires_at into session_token, refresh_token, expires_at
      from pgtrain_private.start_session(account.id, login_with_connection.user_agent, login_with_connection.ip_address) s;
    perform pgtrain_private.write_audit('login', null,
        jsonb_build_object('user_id', account.id, 'provider_name', provider_name, 'user_agent', left(login_with_connection.user_agent, 500)),
        account.id, login_with_connection.ip_address);
    return next;
end $$;
comment on function pgtrain.login_with_connection(text, text, text, text, inet) is 'Logs in the user who is linked to an identity at an outside provider; only from a database role that is trusted for it, and with the code where the account has a second factor. No row when refused';

create or replace function pgtrain.register_with_connection(provider_name text, provider_id text, username text, email text, name text default null,
                                                            invite_code text default null) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    new_id bigint;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('register_with_connection');
    perform pgtrain_private.check_provider(provider_name, provider_id);
    -- The rules of registration are in one place; its password, which keeps any of them, is known to nobody and goes at once.
    new_id := pgtrain.register_user(username, email, pgtrain_private.new_token() || '.aA1', name, invite_code);
    delete from pgtrain.passwords p where p.user_id = new_id;
    perform pgtrain_private.insert_connection(new_id, provider_name, provider_id);
    return new_id;
end $$;
comment on function pgtrain.register_with_connection(text, text, text, text, text, text) is 'Makes an account without a password, linked to an identity at an outside provider; only from a database role that is trusted for it';

-- ---------------------------------------------------------------- invitations

create or replace function pgtrain.create_invite(email text default null, role text default null, valid_for interval default '7 days', send boolean default false,
                                                 out invite_id bigint, out code text)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('create_invite');
    perform pgtrain_private.require_account_scope('create_invite', 'create:invites');
    perform pgtrain_private.require_permission('create', 'invites');
    if email is not null then
        perform pgtrain_private.check_email(email);
    elsif send then
        raise exception using errcode = '22004', message = 'an invitation that is sent needs an e-mail address';
    end if;
    if valid_for <= interval '0' then
        raise exception using errcode = '22023', message = 'an invitation cannot have ended already', hint = 'Give valid_for above zero, or null for no end.';
    end if;
    if role is not null then
        perform pgtrain_private.require_any('update', 'admin', 'give roles');
        perform pgtrain_private.check_grantable(pgtrain_private.find_role(role));
    end if;
    code := pgtrain_private.new_token();
    insert into pgtrain.invites (code_hash, owner_id, email, role_name, expires_at)
    values (pgtrain_private.token_hash(code), pgtrain.current_user_id(), create_invite.email, create_invite.role, clock_timestamp() + valid_for)
    returning id into invite_id;
    if send then
        perform pgtrain_private.count_request(format('send invite to %s', lower(email)));
        perform pgtrain_private.send('invite', email, '{}', null, null, invite_id);
        code := null;
    end if;
    perform pgtrain_private.write_audit('invite_created', null,
        jsonb_build_object('invite_id', invite_id, 'email', email, 'role', role, 'is_sent', coalesce(send, false)));
end $$;
comment on function pgtrain.create_invite(text, text, interval, boolean) is 'Makes an invitation for one registration, perhaps for one address, with a role besides the default one; returns its code this once. send: the code goes to the address only. The table invites lists those that are open';

create or replace function pgtrain_private.may_still_invite(maker bigint, role_name text) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp as $$
    with held as (
        select p.action, p.entity, max(p.access) as access
          from pgtrain.user_roles ur
          join pgtrain.users u on u.id = ur.user_id and u.is_active
          join pgtrain.role_permissions rp on rp.role_id = ur.role_id and rp.is_granted
          join pgtrain.permissions p on p.id = rp.permission_id
         where ur.user_id = maker and ur.is_active and (ur.expires_at is null or ur.expires_at > clock_timestamp())
         group by p.action, p.entity),
    needed as (
        select 'create' as action, 'invites' as entity, 'own'::pgtrain.permission_access as access
        union all
        select 'update', 'admin', 'any' where role_name is not null
        union all
        select p.action, p.entity, p.access
          from pgtrain.role_permissions rp
          join pgtrain.permissions p on p.id = rp.permission_id
         where role_name is not null and rp.role_id = pgtrain_private.find_role(role_name) and rp.is_granted)
    select not exists (select from needed n
                        where not exists (select from held h where (h.action, h.entity) = (n.action, n.entity) and h.access >= n.access));
$$;
comment on function pgtrain_private.may_still_invite(bigint, text) is 'Whether the maker of an invitation could make it today: what he gave away is void with his right';

create or replace function pgtrain.revoke_invite(invite_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    reach text;
begin
    perform pgtrain_private.require_writable('revoke_invite');
    perform pgtrain_private.require_account_scope('revoke_invite', 'delete:invites');
    reach := pgtrain_private.require_permission('delete', 'invites');
    delete from pgtrain.invites i
     where i.id = revoke_invite.invite_id and (reach = 'any' or i.owner_id = pgtrain.current_user_id());
    if not found then
        return false;
    end if;
    perform pgtrain_private.write_audit('invite_revoked', null, jsonb_build_object('invite_id', invite_id));
    return true;
end $$;
comment on function pgtrain.revoke_invite(bigint) is 'Voids an invitation of the caller (with the right to it: of anybody); false when it is used or not there';

-- ---------------------------------------------------------------- SSH keys

create or replace function pgtrain_private.parse_ssh_key(key text) returns text[]
    language c immutable strict as 'MODULE_PATHNAME', 'pgtrain_parse_ssh_key';
comment on function pgtrain_private.parse_ssh_key(text) is 'Type, line without comment, SHA256 fingerprint and comment of a public key; refuses what is none';

create or replace function pgtrain.add_ssh_key(key text, name text default null) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint;
    parts text[];
    new_id bigint;
begin
    -- Somebody may paste a private key.
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('add_ssh_key');
    me := pgtrain_private.require_user();
    perform pgtrain_private.require_account_scope('add_ssh_key', 'update:users');
    if key is null then
        raise exception using errcode = '22004', message = 'the key may not be null';
    end if;
    parts := pgtrain_private.parse_ssh_key(key);
    if length(name) not between 1 and 100 then
        raise exception using errcode = '22023', message = 'the name of a key has 1 to 100 characters';
    end if;
    insert into pgtrain.ssh_keys (user_id, name, key, key_type, fingerprint)
    values (me, coalesce(add_ssh_key.name, left(nullif(parts[4], ''), 100), parts[1]), parts[2], parts[1], parts[3])
    on conflict on constraint ssh_keys_user_id_fingerprint_key do nothing returning id into new_id;
    if new_id is null then
        raise exception using errcode = '23505', message = 'you have this key already', detail = format('Its fingerprint is %s.', parts[3]);
    end if;
    perform pgtrain_private.write_audit('ssh_key_added', null, jsonb_build_object('ssh_key_id', new_id, 'fingerprint', parts[3]));
    return new_id;
end $$;
comment on function pgtrain.add_ssh_key(text, text) is 'Adds a public key of the caller (a line of authorized_keys without options); its comment becomes the name if none is given';

create or replace function pgtrain.remove_ssh_key(ssh_key_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    removed pgtrain.ssh_keys;
begin
    perform pgtrain_private.require_writable('remove_ssh_key');
    perform pgtrain_private.require_account_scope('remove_ssh_key', 'update:users');
    if not pgtrain_private.may_manage_users() then
        perform pgtrain_private.require_user();
    end if;
    delete from pgtrain.ssh_keys k
     where k.id = remove_ssh_key.ssh_key_id and (k.user_id = pgtrain.current_user_id() or pgtrain_private.may_manage_users())
    returning * into removed;
    if removed.id is null then
        return false;
    end if;
    perform pgtrain_private.write_audit('ssh_key_removed', null,
        jsonb_build_object('user_id', removed.user_id, 'ssh_key_id', removed.id, 'fingerprint', removed.fingerprint));
    return true;
end $$;
comment on function pgtrain.remove_ssh_key(bigint) is 'Removes a public key of the caller (an administrator: of anybody); false when it is not there';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
