-- Models, functions: those that run elsewhere, and favourites. Versions of local models are in model_files.sql, imports in imports.sql.

create or replace function pgtrain_private.check_model_name(name text) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if name is null or length(name) not between 1 and 200 then
        raise exception using errcode = '22023', message = 'a model needs a name of 1 to 200 characters';
    elsif name ~ '^[0-9]+$' then
        raise exception using errcode = '22023', message = format('a model may not be named "%s"', name),
            detail = 'Where a model is given by its id or name, as base_model, digits alone are an id.', hint = 'Choose a name with a letter in it.';
    end if;
end $$;
comment on function pgtrain_private.check_model_name(text) is 'Refuses what is no name of a model: nothing, too much, or digits alone';

create or replace function pgtrain.create_model(name text, kind text default 'external', provider text default null, model_id text default null,
    base_url text default null, context_length integer default null, max_tokens integer default null, temperature real default null,
    top_p real default null, system_prompt text default null, metadata jsonb default '{}') returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain_private.require_user();
    reach text := pgtrain_private.require_permission('create', 'models');
    new_id bigint;
begin
    perform pgtrain_private.require_writable('create_model');
    if kind is null or kind not in ('reference', 'external') then
        raise exception using errcode = '22023', message = format('a model of kind "%s" cannot be made by hand', kind),
            hint = 'Use external or reference; local models are published by runs.';
    end if;
    perform pgtrain_private.check_model_name(create_model.name);
    if create_model.context_length <= 0 or create_model.max_tokens <= 0 or not create_model.temperature between 0 and 100
          or not (create_model.top_p > 0 and create_model.top_p <= 1) then
        raise exception using errcode = '22023', message = 'an option of the model is out of range',
            detail = format('context_length %s and max_tokens %s (above 0), temperature %s (0 to 100), top_p %s (above 0, at most 1).',
                            create_model.context_length, create_model.max_tokens, create_model.temperature, create_model.top_p);
    elsif jsonb_typeof(create_model.metadata) <> 'object' then
        raise exception using errcode = '22023', message = format('metadata must be a JSON object, not %s', jsonb_typeof(create_model.metadata));
    end if;
    if kind = 'reference' and reach <> 'any' then
        raise exception using errcode = '42501', message = 'permission denied to make reference models';
    end if;
    insert into pgtrain.models (owner_id, kind, name, provider, model_id, base_url, context_length, max_tokens, temperature, top_p, system_prompt,
                                is_public, metadata)
    values (case when create_model.kind = 'reference' then null else me end, create_model.kind::pgtrain.model_kind, create_model.name, create_model.provider,
            create_model.model_id, create_model.base_url, create_model.context_length, create_model.max_tokens, create_model.temperature,
            create_model.top_p, create_model.system_prompt, create_model.kind = 'reference', coalesce(create_model.metadata, '{}'))
    returning id into new_id;
    perform pgtrain_private.write_audit('model_created', null, jsonb_build_object('model_id', new_id));
    return new_id;
exception when unique_violation then
    raise exception using errcode = '23505', message = format('you have a model "%s" already', name);
end $$;
comment on function pgtrain.create_model(text, text, text, text, text, integer, integer, real, real, text, jsonb) is 'Describes a model that runs elsewhere (external), or a template for everybody (reference)';

create or replace function pgtrain.mark_favorite(entity text, entity_id bigint, is_favorite boolean default true) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain_private.require_user();
    is_there boolean;
begin
    -- Not by plain SQL: the right to delete rows of a table is the right to lock all of it against everybody.
    perform pgtrain_private.require_writable('mark_favorite');
    perform pgtrain_private.require_permission('update', 'users');
    if (entity in ('datasets', 'models')) is not true then
        raise exception using errcode = '22023', message = format('%s cannot be marked', coalesce(quote_literal(entity), 'null')), detail = 'Kinds: datasets, models.';
    end if;
    if not is_favorite then
        delete from pgtrain.favorites f where f.user_id = me and f.entity = mark_favorite.entity and f.entity_id = mark_favorite.entity_id;
        return found;
    end if;
    perform pgtrain_private.require_permission('read', entity);
    is_there := case entity
        when 'datasets' then exists (select from pgtrain.datasets d
                                      where d.id = mark_favorite.entity_id and (d.is_public or pgtrain_private.may_access(d.owner_id, 'read', 'datasets')))
        else exists (select from pgtrain.models m
                      where m.id = mark_favorite.entity_id and (m.is_public or pgtrain_private.may_access(m.owner_id, 'read', 'models'))) end;
    if not is_there then
        raise exception using errcode = 'PT404', message = format('%s %s does not exist or you may not read it', rtrim(entity, 's'), coalesce(mark_favorite.entity_id::text, 'null'));
    end if;
    insert into pgtrain.favorites (user_id, entity, entity_id) values (me, mark_favorite.entity, mark_favorite.entity_id) on conflict do nothing;
    return found;
end $$;
comment on function pgtrain.mark_favorite(text, bigint, boolean) is 'Marks a dataset or model as a favourite of the caller, or no longer; returns whether that changed anything';

insert into pgtrain_private.writable_columns
select 'models', c from unnest(array['display_name', 'description', 'temperature', 'top_p', 'max_tokens', 'system_prompt', 'tags', 'metadata', 'is_active']) c
on conflict do nothing;

revoke all on all routines in schema pgtrain, pgtrain_private from public;
