-- Sharing, functions: an owner, or an administrator, grants the use of a machine, image, instance or model and takes it back.

create or replace function pgtrain_private.find_shareable(kind text, thing_id bigint, out entity text, out grant_table text, out key_column text, out owner_id bigint)
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    thing_table text;
    known bigint;
begin
    select v.* into strict entity, thing_table, grant_table, key_column
      from (values ('nodes', 'compute_nodes', 'managed_compute_nodes', 'node_id'), ('images', 'instance_images', 'managed_images', 'image_id'),
                   ('instances', 'instances', 'managed_instances', 'instance_id'),
                   ('models', 'models', 'managed_models', 'model_id')) v (entity, thing_table, grant_table, key_column)
     where v.entity = kind || 's';
    perform pgtrain_private.require_permission('update', entity);
    execute format('select t.id, t.owner_id from pgtrain.%I t where t.id = $1', thing_table) into known, owner_id using thing_id;
    -- One answer for both cases: that something of somebody else exists is not told.
    if known is null or not (pgtrain_private.may_access(owner_id, 'update', entity) or pgtrain_private.is_server_administrator()) then
        raise exception using errcode = 'PT404', message = format('%s %s does not exist or is not yours to share', kind, coalesce(thing_id::text, 'null'));
    end if;
end $$;
comment on function pgtrain_private.find_shareable(text, bigint) is 'Where grants of a machine, image, instance or model are kept, and whose it is; refuses whom it does not belong to';

create or replace function pgtrain_private.share(kind text, thing_id bigint, grantee bigint, expires_at timestamptz) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    found_thing record;
begin
    select * into found_thing from pgtrain_private.find_shareable(kind, thing_id);
    if not exists (select from pgtrain.users u where u.id = grantee) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', coalesce(grantee::text, 'null'));
    elsif grantee = found_thing.owner_id then
        raise exception using errcode = '22023', message = format('%s %s belongs to user %s already', kind, thing_id, grantee);
    elsif expires_at <= clock_timestamp() then
        raise exception using errcode = '22023', message = 'a grant cannot end in the past', detail = format('expires_at is %s.', expires_at),
            hint = format('pgtrain.revoke_%s ends one.', kind);
    end if;
    execute format('insert into pgtrain.%1$I as m (%2$I, user_id, owner_id, granted_by, expires_at) values ($1, $2, $3, $4, $5)
                    on conflict (user_id, %2$I) do update set granted_by = excluded.granted_by, expires_at = excluded.expires_at',
                   found_thing.grant_table, found_thing.key_column)
      using thing_id, grantee, found_thing.owner_id, pgtrain.current_user_id(), expires_at;
    perform pgtrain_private.write_audit(kind || '_granted', null,
        jsonb_build_object(found_thing.key_column, thing_id, 'user_id', grantee, 'expires_at', expires_at));
end $$;
comment on function pgtrain_private.share(text, bigint, bigint, timestamptz) is 'Grants the use of a machine, image, instance or model; for the functions grant_*';

create or replace function pgtrain_private.unshare(kind text, thing_id bigint, grantee bigint) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    found_thing record;
    ended bigint;
begin
    select * into found_thing from pgtrain_private.find_shareable(kind, thing_id);
    execute format('delete from pgtrain.%I m where m.%I = $1 and m.user_id = $2', found_thing.grant_table, found_thing.key_column) using thing_id, grantee;
    get diagnostics ended = row_count;
    perform pgtrain_private.write_audit(kind || '_revoked', null, jsonb_build_object(found_thing.key_column, thing_id, 'user_id', grantee));
    return ended > 0;
end $$;
comment on function pgtrain_private.unshare(text, bigint, bigint) is 'Ends a grant of a machine, image, instance or model; for the functions revoke_*';

create or replace function pgtrain.grant_node(node_id bigint, user_id bigint, expires_at timestamptz default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('grant_node');
    perform pgtrain_private.share('node', node_id, user_id, expires_at);
end $$;
comment on function pgtrain.grant_node(bigint, bigint, timestamptz) is 'Lets another user use a machine of the caller, for a time if expires_at is given; repeating it sets the time anew';

create or replace function pgtrain.revoke_node(node_id bigint, user_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('revoke_node');
    return pgtrain_private.unshare('node', node_id, user_id);
end $$;
comment on function pgtrain.revoke_node(bigint, bigint) is 'Ends what grant_node gave; returns whether there was something';

create or replace function pgtrain.grant_image(image_id bigint, user_id bigint, expires_at timestamptz default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('grant_image');
    perform pgtrain_private.share('image', image_id, user_id, expires_at);
end $$;
comment on function pgtrain.grant_image(bigint, bigint, timestamptz) is 'Lets another user use an image of the caller, for a time if expires_at is given; repeating it sets the time anew';

create or replace function pgtrain.revoke_image(image_id bigint, user_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('revoke_image');
    return pgtrain_private.unshare('image', image_id, user_id);
end $$;
comment on function pgtrain.revoke_image(bigint, bigint) is 'Ends what grant_image gave; returns whether there was something';

create or replace function pgtrain.grant_instance(instance_id bigint, user_id bigint, expires_at timestamptz default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('grant_instance');
    perform pgtrain_private.share('instance', instance_id, user_id, expires_at);
end $$;
comment on function pgtrain.grant_instance(bigint, bigint, timestamptz) is 'Lets another user use an instance of the caller, for a time if expires_at is given; repeating it sets the time anew';

create or replace function pgtrain.revoke_instance(instance_id bigint, user_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('revoke_instance');
    return pgtrain_private.unshare('instance', instance_id, user_id);
end $$;
comment on function pgtrain.revoke_instance(bigint, bigint) is 'Ends what grant_instance gave; returns whether there was something';

create or replace function pgtrain.grant_model(model_id bigint, user_id bigint, expires_at timestamptz default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('grant_model');
    perform pgtrain_private.share('model', model_id, user_id, expires_at);
end $$;
comment on function pgtrain.grant_model(bigint, bigint, timestamptz) is 'Lets another user see a model of the caller and train from it, for a time if expires_at is given; repeating it sets the time anew';

create or replace function pgtrain.revoke_model(model_id bigint, user_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable('revoke_model');
    return pgtrain_private.unshare('model', model_id, user_id);
end $$;
comment on function pgtrain.revoke_model(bigint, bigint) is 'Ends what grant_model gave; runs of the other that have not begun fail. Returns whether there was something';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
