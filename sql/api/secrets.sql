-- Secrets of users, functions: stored and deleted by their owner, listed without their values, returned by nothing.

create or replace function pgtrain.store_secret(name text, value text) returns bigint
    language c volatile security definer set search_path = pg_catalog, pg_temp as 'MODULE_PATHNAME', 'pgtrain_store_secret';
comment on function pgtrain.store_secret(text, text) is 'Seals a value under a name of the caller, in place of what that name had; returns its id. Pass the value as a parameter';

create or replace function pgtrain.delete_secret(name text) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    had boolean;
begin
    perform pgtrain_private.require_writable('delete_secret');
    perform pgtrain_private.require_permission('delete', 'secrets');
    delete from pgtrain.secrets s where s.owner_id = pgtrain_private.require_user() and s.name = delete_secret.name;
    had := found;
    if had then
        perform pgtrain_private.write_audit('secret_deleted', null, jsonb_build_object('name', name));
    end if;
    return had;
end $$;
comment on function pgtrain.delete_secret(text) is 'Removes a secret of the caller; returns whether there was one of that name';

create or replace view pgtrain.my_secrets with (security_invoker) as
    select s.name, s.created_at, s.updated_at from pgtrain.secrets s where s.owner_id = (select pgtrain.current_user_id());
comment on view pgtrain.my_secrets is 'Names of the caller''s secrets; nothing of the values';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
