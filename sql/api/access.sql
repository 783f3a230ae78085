-- Access, functions: giving and taking roles, own roles. Every change is honoured by all sessions with their next statement.

create or replace function pgtrain_private.find_role(role text) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    found_id bigint;
begin
    -- One of the former systems called it so.
    select r.id into found_id from pgtrain.roles r where r.name = case find_role.role when 'administrator' then 'admin' else find_role.role end;
    if found_id is null then
        raise exception using errcode = 'PT404', message = format('role "%s" does not exist', find_role.role),
            detail = format('Roles: %s.', (select string_agg(r.name, ', ' order by r.name) from pgtrain.roles r));
    end if;
    return found_id;
end $$;
comment on function pgtrain_private.find_role(text) is 'Id of a role of the platform, or an error naming those there are';

-- Nobody can hand out more than he has: the permissions of the role must be within his own.
create or replace function pgtrain_private.check_grantable(role_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    missing text;
begin
    if pgtrain_private.is_server_administrator() then
        return;
    end if;
    select string_agg(p.name, ', ' order by p.name) into missing
      from pgtrain.role_permissions rp join pgtrain.permissions p on p.id = rp.permission_id
     where rp.role_id = check_grantable.role_id and rp.is_granted and not pgtrain.has_permission(p.action, p.entity, p.access::text);
    if missing is not null then
        raise exception using errcode = '42501', message = 'permission denied to give or take a role that reaches beyond your own',
            detail = format('You lack: %s.', missing);
    end if;
end $$;
comment on function pgtrain_private.check_grantable(bigint) is 'Refuses to hand out permissions that the caller lacks';

create or replace function pgtrain.grant_role(user_id bigint, role text, expires_at timestamptz default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    role_key bigint;
    until timestamptz;
begin
    perform pgtrain_private.require_writable('grant_role');
    perform pgtrain_private.require_any('update', 'admin', 'give roles');
    role_key := pgtrain_private.find_role(role);
    perform pgtrain_private.check_grantable(role_key);
    -- Shared, so that an account that is being closed is not taken for an administrator's.
    perform from pgtrain.users u where u.id = grant_role.user_id for share;
    if not found then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', grant_role.user_id);
    end if;
    -- A new end may be an earlier one.
    if expires_at is not null and pgtrain_private.is_administrator(grant_role.user_id) then
        until := pgtrain_private.lock_administrators();
    end if;
    insert into pgtrain.user_roles as ur (user_id, role_id, assigned_by, expires_at)
    values (grant_role.user_id, role_key, pgtrain.current_user_id(), grant_role.expires_at)
    on conflict on constraint user_roles_user_id_role_id_key do update
       set is_active = true, expires_at = excluded.expires_at, assigned_by = excluded.assigned_by, assigned_at = now();
    perform pgtrain_private.keep_administrator(until);
    perform pgtrain_private.write_audit('role_granted', null, jsonb_build_object('user_id', user_id, 'role', role, 'expires_at', expires_at));
end $$;
comment on function pgtrain.grant_role(bigint, text, timestamptz) is 'Gives a user a role, for a time if expires_at is given';

create or replace function pgtrain.revoke_role(user_id bigint, role text) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    role_key bigint;
    had boolean;
    until timestamptz;
begin
    perform pgtrain_private.require_writable('revoke_role');
    perform pgtrain_private.require_any('update', 'admin', 'take roles');
    role_key := pgtrain_private.find_role(role);
    perform pgtrain_private.check_grantable(role_key);
    if pgtrain_private.is_administrator(revoke_role.user_id) then
        until := pgtrain_private.lock_administrators();
    end if;
    update pgtrain.user_roles ur set is_active = false where ur.user_id = revoke_role.user_id and ur.role_id = role_key and ur.is_active;
    had := found;
    perform pgtrain_private.keep_administrator(until);
    perform pgtrain_private.write_audit('role_revoked', null, jsonb_build_object('user_id', user_id, 'role', role));
    return had;
end $$;
comment on function pgtrain.revoke_role(bigint, text) is 'Takes a role from a user; returns whether he had it';

create or replace function pgtrain.create_role(name text, description text default '') returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    new_id bigint;
begin
    perform pgtrain_private.require_writable('create_role');
    perform pgtrain_private.require_any('create', 'admin', 'create roles');
    if (create_role.name ~ '^[a-z][a-z0-9_]{1,62}$') is not true then
        raise exception using errcode = '22023', message = format('role name "%s" is not acceptable', create_role.name),
            hint = 'Use 2 to 63 small letters, digits and underscores, beginning with a letter.';
    end if;
    if create_role.name <> 'administrator' then
        insert into pgtrain.roles (name, description) values (create_role.name, coalesce(create_role.description, ''))
        on conflict on constraint roles_name_key do nothing returning id into new_id;
    end if;
    if new_id is null then
        raise exception using errcode = '23505', message = format('there is a role "%s" already', create_role.name);
    end if;
    perform pgtrain_private.write_audit('role_created', null, jsonb_build_object('role', name));
    return new_id;
end $$;
comment on function pgtrain.create_role(text, text) is 'Makes a role without permissions';

create or replace function pgtrain.delete_role(name text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    role_key bigint;
begin
    perform pgtrain_private.require_writable('delete_role');
    perform pgtrain_private.require_any('delete', 'admin', 'delete roles');
    role_key := pgtrain_private.find_role(name);
    if (select r.is_system_role from pgtrain.roles r where r.id = role_key) then
        raise exception using errcode = 'PT409', message = format('role "%s" comes with the extension and cannot be deleted', name);
    end if;
    if exists (select from pgtrain.user_roles ur where ur.role_id = role_key and ur.is_active) then
        raise exception using errcode = 'PT409', message = format('role "%s" is still given to users', name),
            hint = 'Take it from them first with pgtrain.revoke_role.';
    end if;
    delete from pgtrain.user_roles ur where ur.role_id = role_key;
    delete from pgtrain.roles r where r.id = role_key;
    perform pgtrain_private.write_audit('role_deleted', null, jsonb_build_object('role', name));
end $$;
comment on function pgtrain.delete_role(text) is 'Removes a role that nobody has and that is not one of the extension';

create or replace function pgtrain.grant_permission(role text, action text, entity text, access text default 'own') returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    role_key bigint;
    permission_key bigint;
begin
    perform pgtrain_private.require_writable('grant_permission');
    perform pgtrain_private.require_any('update', 'admin', 'change roles');
    role_key := pgtrain_private.find_role(role);
    select p.id into permission_key from pgtrain.permissions p
     where p.action = grant_permission.action and p.entity = grant_permission.entity and p.access::text = grant_permission.access;
    if permission_key is null then
        raise exception using errcode = 'PT404', message = format('there is no permission to %s %s (%s)', action, entity, access),
            hint = 'pgtrain.permissions lists them.';
    end if;
    if not pgtrain_private.is_server_administrator() and not pgtrain.has_permission(action, entity, access) then
        raise exception using errcode = '42501', message = 'permission denied to hand out a permission that you lack';
    end if;
    insert into pgtrain.role_permissions as rp (role_id, permission_id) values (role_key, permission_key)
    on conflict on constraint role_permissions_role_id_permission_id_key do update set is_granted = true;
    perform pgtrain_private.write_audit('permission_granted', null,
        jsonb_build_object('role', role, 'action', action, 'entity', entity, 'access', access));
end $$;
comment on function pgtrain.grant_permission(text, text, text, text) is 'Adds a permission to a role';

create or replace function pgtrain.revoke_permission(role text, action text, entity text, access text default 'own') returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    role_key bigint;
    had boolean;
    until timestamptz;
begin
    perform pgtrain_private.require_writable('revoke_permission');
    perform pgtrain_private.require_any('update', 'admin', 'change roles');
    role_key := pgtrain_private.find_role(role);
    perform pgtrain_private.check_grantable(role_key);
    if action = 'update' and entity = 'admin' and access = 'any' then
        until := pgtrain_private.lock_administrators();
    end if;
    update pgtrain.role_permissions rp set is_granted = false
      from pgtrain.permissions p
     where rp.role_id = role_key and p.id = rp.permission_id and rp.is_granted
       and p.action = revoke_permission.action and p.entity = revoke_permission.entity and p.access::text = revoke_permission.access;
    had := found;
    perform pgtrain_private.keep_administrator(until);
    perform pgtrain_private.write_audit('permission_revoked', null,
        jsonb_build_object('role', role, 'action', action, 'entity', entity, 'access', access));
    return had;
end $$;
comment on function pgtrain.revoke_permission(text, text, text, text) is 'Takes a permission from a role; returns whether it was there';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
