-- Foundation, functions: who must be there, the audit log, and the rights of an application role.

create or replace function pgtrain_private.require_user() returns bigint
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_require_user';
comment on function pgtrain_private.require_user() is 'The caller, or an error when nobody is logged in';

create or replace function pgtrain_private.require_permission(action text, entity text) returns text
    language c stable strict parallel restricted as 'MODULE_PATHNAME', 'pgtrain_require_permission';
comment on function pgtrain_private.require_permission(text, text) is 'How far the caller''s right reaches, own or any, or an error; the server''s superuser without identity has any';

create or replace function pgtrain_private.require_any(action text, entity text, what text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if pgtrain_private.require_permission(action, entity) <> 'any' then
        raise exception using errcode = '42501', message = 'permission denied to ' || what,
            detail = format('Your roles let you %s your own %s only, not anybody''s.', action, entity);
    end if;
end $$;
comment on function pgtrain_private.require_any(text, text, text) is 'Refuses a caller whose right does not reach anybody''s rows, naming WHAT he wanted';

create or replace function pgtrain_private.is_server_administrator() returns boolean
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_is_server_administrator';
comment on function pgtrain_private.is_server_administrator() is 'Whether a superuser of the server calls without an identity of the platform';

-- Two addresses, because an application speaks for many: where the connection comes from, which nobody can forge, and where the user sits,
-- as the application told when he logged in.
create or replace function pgtrain_private.write_audit(title text, description text default null, subject jsonb default '{}',
                                                       actor bigint default null, address inet default null) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
    -- plpgsql, because it keeps the plan; a function in SQL is planned anew at each call.
    insert into pgtrain.audit_log (title, description, actor_id, api_key_id, host, ip, subject)
    values (title, description, nullif(coalesce(actor, pgtrain.current_user_id()), 0), pgtrain.current_api_key_id(), host(inet_client_addr()),
            coalesce(address, (select s.ip_address from pgtrain.sessions s where s.id = pgtrain.current_session_id()), inet_client_addr()),
            coalesce(subject, '{}'));
end $$;
comment on function pgtrain_private.write_audit(text, text, jsonb, bigint, inet) is 'Adds a line to the audit log: by the caller, or the actor (0: nobody), at the address of his session';

-- Somebody whose sessions an administrator ends could hold the locks on his rows in a transaction that he leaves open. Nobody but the
-- functions of the extension can lock this table, so nobody has others ended by it.
create or replace function pgtrain_private.be_urgent() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    lock table pgtrain_private.urgent_acts in access share mode;
end $$;
comment on function pgtrain_private.be_urgent() is 'Has the scheduler end whoever keeps this transaction waiting for a lock longer than pgtrain.lock_patience';

create or replace function pgtrain.grant_application(role_name text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regrole;
    relation record;
    columns text;
    beyond text;
begin
    if role_name is null or not exists (select from pg_roles where rolname = role_name) then
        raise exception using errcode = '42704', message = format('role "%s" does not exist', role_name),
            hint = 'Create it first: create role ... login;';
    end if;
    select string_agg(quote_ident(r.rolname), ', ' order by r.rolname) into beyond
      from pg_roles r
     where (r.rolsuper or r.rolbypassrls
            or r.rolname in ('pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'))
       and r.rolname <> role_name and pg_has_role(role_name, r.oid, 'member');
    if (select rolsuper or rolbypassrls from pg_roles where rolname = role_name) then
        raise exception using errcode = '22023', message = format('role "%s" is not bound by row security', role_name),
            detail = 'It is a superuser or has BYPASSRLS and would see the rows of every user.',
            hint = 'Use a role of its own for the application.';
    elsif beyond is not null then
        raise exception using errcode = '22023', message = format('role "%s" is not bound by the rights of an application', role_name),
            detail = format('As a member of %s it could read or write what is kept from it.', beyond),
            hint = 'Use a role of its own for the application.';
    end if;
    target := quote_ident(role_name)::regrole;
    execute format('grant usage on schema pgtrain to %s', target);
    execute format('grant execute on all functions in schema pgtrain to %s', target);
    execute format('grant execute on all procedures in schema pgtrain to %s', target);
    execute format('revoke execute on function pgtrain.grant_application(text), pgtrain.revoke_application(text) from %s', target);
    -- What policies and views call per statement and per row; the schema itself stays closed, so none of it can be named.
    execute format('grant execute on function pgtrain_private.owner_scope(text, text), pgtrain_private.in_scope(bigint, bigint), '
                   'pgtrain_private.scope_low(bigint), pgtrain_private.scope_high(bigint), pgtrain_private.may_access(bigint, text, text) to %s', target);
    for relation in
        select c.oid, c.relname, c.relkind from pg_class c
         where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'v', 'p', 'm')
    loop
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum) into columns
          from pg_attribute a
         where a.attrelid = relation.oid and a.attnum > 0 and not a.attisdropped
           and not exists (select from pgtrain_private.hidden_columns h
                            where h.table_name = relation.relname and coalesce(h.column_name, a.attname) = a.attname);
        if exists (select from pgtrain_private.hidden_columns h where h.table_name = relation.relname) then
            -- It may have been given before an update hid something.
            if has_table_privilege(target, relation.oid, 'select') then
                execute format('revoke select on %s from %s', relation.oid::regclass, target);
            end if;
            if columns is null then
                continue;
            end if;
            execute format('grant select (%s) on %s to %s', columns, relation.oid::regclass, target);
        else
            execute format('grant select on %s to %s', relation.oid::regclass, target);
        end if;
        select string_agg(quote_ident(w.column_name), ', ') into columns
          from pgtrain_private.writable_columns w where w.table_name = relation.relname;
        if columns is not null then
            execute format('grant update (%s) on %s to %s', columns, relation.oid::regclass, target);
        end if;
    end loop;
    perform pgtrain_private.write_audit('application_granted', null, jsonb_build_object('role', role_name));
end $$;
comment on function pgtrain.grant_application(text) is 'Gives a database role what an application needs: functions, tables under row security, nothing private. Run it again after an update';

-- Default privileges (ALTER DEFAULT PRIVILEGES) of who installs give others rights to what the script makes, and many databases have some.
create or replace function pgtrain_private.close_to_others() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    one record;
begin
    for one in
        select distinct o.kind, o.object, case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as grantee
          from (select 'schema' as kind, n.oid::regnamespace::text as object, n.nspacl as acl, n.nspowner as owner
                  from pg_namespace n where n.nspname in ('pgtrain', 'pgtrain_private')
                union all
                select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.relacl, c.relowner
                  from pg_class c where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace) and c.relkind in ('r', 'v', 'm', 'p', 'S', 'f')
                union all
                select 'routine', p.oid::regprocedure::text, p.proacl, p.proowner
                  from pg_proc p where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)) o,
               aclexplode(o.acl) x
         where x.grantee <> o.owner
    loop
        execute format('revoke all on %s %s from %s', one.kind, one.object, one.grantee);
    end loop;
end $$;
comment on function pgtrain_private.close_to_others() is 'For the install script, at its end: takes the rights that default privileges gave to others';

create or replace function pgtrain.revoke_application(role_name text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regrole;
begin
    if role_name is null or not exists (select from pg_roles where rolname = role_name) then
        raise exception using errcode = '42704', message = format('role "%s" does not exist', role_name);
    end if;
    target := quote_ident(role_name)::regrole;
    execute format('revoke all on all tables in schema pgtrain, pgtrain_private from %s', target);
    execute format('revoke all on all routines in schema pgtrain, pgtrain_private from %s', target);
    execute format('revoke all on schema pgtrain, pgtrain_private from %s', target);
    perform pgtrain_private.write_audit('application_revoked', null, jsonb_build_object('role', role_name));
end $$;
comment on function pgtrain.revoke_application(text) is 'Takes back what grant_application gave a database role';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
