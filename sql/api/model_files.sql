-- Models, functions: what versions consist of, publishing and rolling back, which model a run may start from, and removal.
-- Callers: users, submit_run (find_base), the workers (base_candidates, version_files, publish_model).

-- ---------------------------------------------------------------- files and versions

create or replace function pgtrain_private.is_model_file(name text) returns boolean
    language sql immutable
    return name in ('config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja',
                    'model.safetensors', 'model.safetensors.index.json')
        or name ~ '^model-[0-9]{5}-of-[0-9]{5}\.safetensors$';
comment on function pgtrain_private.is_model_file(text) is 'Whether an artifact of a run, or a file of an imported adapter, is a part of its whole model, as adapters and exports in other formats are not';

create or replace function pgtrain_private.version_files(model_id bigint, run_id bigint)
    returns table (name text, file_id bigint, bytes bigint, sha256 text)
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if version_files.run_id is null then
        -- Of an imported adapter: the whole model that export_model has made of it.
        return query select f.name, f.file_id, f.bytes, f.sha256 from pgtrain.model_files f
                      where f.model_id = version_files.model_id
                        and (pgtrain_private.is_model_file(f.name)
                             or exists (select from pgtrain.models m where m.id = f.model_id and m.base_model_id is null)) order by f.name collate "C";
    else
        return query select a.name, a.file_id, a.bytes, a.sha256 from pgtrain.artifacts a
                      where a.run_id = version_files.run_id and pgtrain_private.is_model_file(a.name) order by a.name collate "C";
    end if;
end $$;
comment on function pgtrain_private.version_files(bigint, bigint) is 'Files of a version of a model: the artifacts of its run, or of the import where that is null';

create or replace function pgtrain_private.describe_version(version pgtrain.model_versions) returns pgtrain.model_versions
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    listing text;
    weights text;
begin
    select string_agg(f.name || ' ' || f.sha256 || E'\n', '' order by f.name collate "C"), sum(f.bytes),
           min(case when f.name like '%.safetensors' then 'safetensors' when f.name like '%.gguf' then 'gguf' end)
      into listing, version.size_bytes, weights
      from pgtrain_private.version_files(version.model_id, version.run_id) f;
    version.format := weights;
    -- Without weights a run cannot start from it: an adapter alone, or nothing.
    version.content_hash := case when weights is not null then sha256(convert_to(listing, 'UTF8')) end;
    return version;
end $$;
comment on function pgtrain_private.describe_version(pgtrain.model_versions) is 'The version with what its files say: size, format and hash';

-- The one place where the present version of a model changes.
create or replace function pgtrain_private.use_version(model_id bigint, version integer) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    update pgtrain.models m
       set version = v.version, run_id = v.run_id, family = v.family, format = v.format, architecture = v.architecture,
           context_length = v.context_length, parameter_count = v.parameter_count, vocabulary_size = v.vocabulary_size,
           has_chat_template = v.has_chat_template, size_bytes = v.size_bytes, content_hash = v.content_hash
      from pgtrain.model_versions v
     where m.id = use_version.model_id and v.model_id = m.id and v.version = use_version.version;
end $$;
comment on function pgtrain_private.use_version(bigint, integer) is 'Makes a version the present one of its model';

create or replace function pgtrain_private.add_version(model_id bigint, run_id bigint, metadata jsonb, notes text) returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    added pgtrain.model_versions;
    config bigint;
    base pgtrain.model_versions;
begin
    select m.id, m.owner_id into strict added.model_id, added.owner_id from pgtrain.models m where m.id = add_version.model_id for no key update;
    select coalesce(max(v.version), 0) + 1 into added.version from pgtrain.model_versions v where v.model_id = add_version.model_id;
    added.run_id := add_version.run_id;
    added := pgtrain_private.describe_version(added);
    select a.file_id into config from pgtrain.artifacts a where a.run_id = add_version.run_id and a.name = 'config.json';
    if found then
        added.architecture := pgtrain_private.json_or_null(pgtrain_private.read_stored_file(config));
    end if;
    select r.parameters into added.parameter_count from pgtrain.training_runs r where r.id = add_version.run_id;
    -- An adapter is what its base is.
    if added.architecture is null then
        select v.* into base from pgtrain.training_runs r join pgtrain.model_versions v on v.content_hash || '' = r.base_model_hash
         where r.id = add_version.run_id limit 1;
        added.architecture := base.architecture;
        added.parameter_count := coalesce(base.parameter_count, added.parameter_count);
    end if;
    added.family := added.architecture ->> 'model_type';
    added.vocabulary_size := pgtrain_private.number_or_null(added.architecture, 'vocab_size');
    added.context_length := coalesce(pgtrain_private.number_or_null(added.architecture, 'max_position_embeddings'),
        pgtrain_private.number_or_null(added.architecture, 'n_positions'), nullif(pgtrain_private.number_or_null(metadata -> 'config', 'context'), 0));
    added.has_chat_template := exists (select from pgtrain.artifacts a where a.run_id = add_version.run_id and a.name = 'chat_template.jinja')
        or coalesce(base.has_chat_template, false);
    insert into pgtrain.model_versions (model_id, version, owner_id, run_id, family, format, architecture, context_length, parameter_count,
                                        vocabulary_size, has_chat_template, size_bytes, content_hash, notes, metadata)
    values (added.model_id, added.version, added.owner_id, added.run_id, added.family, added.format, added.architecture, added.context_length,
            added.parameter_count, added.vocabulary_size, added.has_chat_template, added.size_bytes, added.content_hash, add_version.notes,
            coalesce(add_version.metadata, '{}'));
    perform pgtrain_private.use_version(added.model_id, added.version);
    return added.version;
end $$;
comment on function pgtrain_private.add_version(bigint, bigint, jsonb, text) is 'Makes the artifacts of a run the next and present version of a model';

create or replace function pgtrain_private.note_weights(run_id bigint, model_id bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    version pgtrain.model_versions;
begin
    for version in select v.* from pgtrain.model_versions v
                    where (v.run_id = note_weights.run_id or v.model_id = note_weights.model_id and v.run_id is null) and v.content_hash is null for no key update loop
        version := pgtrain_private.describe_version(version);
        update pgtrain.model_versions v set format = version.format, size_bytes = version.size_bytes, content_hash = version.content_hash where v.id = version.id;
        perform pgtrain_private.use_version(m.id, m.version) from pgtrain.models m where m.id = version.model_id and m.version = version.version;
    end loop;
end $$;
comment on function pgtrain_private.note_weights(bigint, bigint) is 'Versions that were an adapter alone, of whose run, or of which imported model, there are whole weights now: runs can start from them';

create or replace function pgtrain_private.json_or_null(content bytea) returns jsonb
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return convert_from(content, 'UTF8')::jsonb;
exception when others then
    return null;
end $$;
comment on function pgtrain_private.json_or_null(bytea) is 'The JSON that bytes hold, null when they hold none';

create or replace function pgtrain_private.number_or_null(object jsonb, key text) returns bigint
    language sql immutable
    return case when jsonb_typeof(object -> key) = 'number' and (object ->> key)::numeric between 0 and 2147483647 then (object ->> key)::numeric::bigint end;
comment on function pgtrain_private.number_or_null(jsonb, text) is 'A count of a configuration, null when it is none';

create or replace function pgtrain_private.publish_model(run_id bigint, owner_id bigint, name text, metadata jsonb default '{}') returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    published bigint;
    mark text;
begin
    select v.model_id into published from pgtrain.model_versions v where v.run_id = publish_model.run_id order by v.id limit 1;
    if found then
        return published;
    end if;
    -- A name that is taken, also by another worker at this moment, gets the run's number and then a count: publishing must not fail
    -- a run that has succeeded. So does one of digits alone, which would be an id.
    for tried in case when publish_model.name ~ '^[0-9]+$' then 1 else 0 end..1000 loop
        mark := case tried when 0 then '' when 1 then format(' (run %s)', publish_model.run_id) else format(' (run %s, %s)', publish_model.run_id, tried) end;
        insert into pgtrain.models (owner_id, kind, name, run_id, metadata)
        values (publish_model.owner_id, 'local', left(publish_model.name, 200 - length(mark)) || mark, publish_model.run_id,
                coalesce(publish_model.metadata, '{}'))
        on conflict (owner_id, (name || '')) do nothing
        returning id into published;
        exit when found;
    end loop;
    perform pgtrain_private.add_version(published, publish_model.run_id, publish_model.metadata, null);
    return published;
end $$;
comment on function pgtrain_private.publish_model(bigint, bigint, text, jsonb) is 'Makes the model of a run; repeating it returns the same model';

-- One answer for both cases: that a model of somebody else exists is not told.
create or replace function pgtrain_private.find_own_model(model_id bigint, action text) returns pgtrain.models
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models;
begin
    perform pgtrain_private.require_permission(action, 'models');
    -- Locked, so that what others just do to it has come to its end: a model that was deleted meanwhile is not there. A deletion waits for
    -- submits that have found it too, other changes do not.
    if action = 'delete' then
        select * into model from pgtrain.models m
         where m.id = find_own_model.model_id and (pgtrain_private.may_access(m.owner_id, action, 'models') or pgtrain_private.is_server_administrator()) for update;
    else
        select * into model from pgtrain.models m
         where m.id = find_own_model.model_id and (pgtrain_private.may_access(m.owner_id, action, 'models') or pgtrain_private.is_server_administrator()) for no key update;
    end if;
    if not found then
        raise exception using errcode = 'PT404', message = format('model %s does not exist or you may not %s it', coalesce(find_own_model.model_id::text, 'null'), action);
    end if;
    return model;
end $$;
comment on function pgtrain_private.find_own_model(bigint, text) is 'Locks the model, if the caller may do that to it; else PT404';

create or replace function pgtrain.publish_model(run_id bigint, name text default null, notes text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    run pgtrain.training_runs;
    model pgtrain.models;
    known integer;
begin
    perform pgtrain_private.require_writable('publish_model');
    perform pgtrain_private.require_permission('create', 'models');
    run := pgtrain_private.find_run(publish_model.run_id, 'update');
    perform pgtrain_private.require_result(run);
    perform pgtrain_private.check_model_name(coalesce(publish_model.name, run.publish_as, run.name));
    if not exists (select from pgtrain.artifacts a where a.run_id = run.id) then
        raise exception using errcode = 'PT404', message = format('run %s has no artifacts any more', run.id);
    end if;
    -- Again where the one of that name is deleted between both statements.
    loop
        insert into pgtrain.models (owner_id, kind, name) values (run.owner_id, 'local', coalesce(publish_model.name, run.publish_as, run.name))
        on conflict (owner_id, (name || '')) do nothing
        returning * into model;
        exit when found;
        select * into model from pgtrain.models m
         where m.owner_id = run.owner_id and m.name || '' = coalesce(publish_model.name, run.publish_as, run.name) for no key update;
        exit when found;
    end loop;
    if model.kind <> 'local' then
        raise exception using errcode = 'PT409', message = format('model "%s" runs elsewhere and has no versions here', model.name), hint = 'Choose another name.';
    end if;
    select v.version into known from pgtrain.model_versions v where v.model_id = model.id and v.run_id = run.id order by v.version desc limit 1;
    if known is not null then
        perform pgtrain_private.use_version(model.id, known);
    else
        known := pgtrain_private.add_version(model.id, run.id, jsonb_build_object('parameters', run.parameters, 'loss_before', run.loss_before,
            'loss_after', run.loss_after, 'config', run.config), publish_model.notes);
    end if;
    perform pgtrain_private.write_audit('model_published', null, jsonb_build_object('model_id', model.id, 'run_id', run.id, 'version', known));
    return model.id;
end $$;
comment on function pgtrain.publish_model(bigint, text, text) is
    'Makes the result of a succeeded run the next version of the model of that name, which is made if need be; a run that is a version already becomes the present one. Returns the model''s id';

create or replace function pgtrain.rollback_model(model_id bigint, version integer default null) returns integer
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models;
    chosen pgtrain.model_versions;
begin
    perform pgtrain_private.require_writable('rollback_model');
    model := pgtrain_private.find_own_model(rollback_model.model_id, 'update');
    select * into chosen from pgtrain.model_versions v
     where v.model_id = model.id and case when rollback_model.version is null then v.version < model.version else v.version = rollback_model.version end
     order by v.version desc limit 1;
    if not found then
        raise exception using errcode = 'PT404',
            message = case when rollback_model.version is null then format('model %s has no version before %s', model.id, model.version)
                           else format('model %s has no version %s', model.id, rollback_model.version) end,
            hint = 'pgtrain.model_versions lists them.';
    elsif not exists (select from pgtrain.model_files f where f.model_id = model.id and chosen.run_id is null)
          and not exists (select from pgtrain.artifacts a where a.run_id = chosen.run_id) then
        raise exception using errcode = 'PT409', message = format('version %s of model %s has no files any more', chosen.version, model.id),
            detail = format('Run %s, which made it, was deleted.', chosen.run_id);
    end if;
    perform pgtrain_private.use_version(model.id, chosen.version);
    perform pgtrain_private.write_audit('model_rolled_back', null, jsonb_build_object('model_id', model.id, 'from', model.version, 'to', chosen.version));
    return chosen.version;
end $$;
comment on function pgtrain.rollback_model(bigint, integer) is 'Makes an earlier version of a model the present one (null: the one before), or a later one again; returns its number. Runs that were submitted keep what they were frozen on';

create or replace function pgtrain_private.find_model_file(model_id bigint, name text) returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models;
    chosen bigint;
    names text;
begin
    perform pgtrain_private.require_permission('read', 'models');
    select * into model from pgtrain.models m where m.id = find_model_file.model_id and pgtrain_private.may_use_model(m);
    if not found then
        raise exception using errcode = 'PT404', message = format('model %s does not exist or you may not read it', coalesce(find_model_file.model_id::text, 'null'));
    end if;
    -- The only one need not be named.
    select min(f.file_id) filter (where f.name = coalesce(find_model_file.name, f.name)), string_agg(f.name, ', ' order by f.name)
      into chosen, names
      from (select a.name, a.file_id from pgtrain.artifacts a where a.run_id = model.run_id
            union all select f.name, f.file_id from pgtrain.model_files f where f.model_id = model.id and model.run_id is null) f
    having find_model_file.name is not null or count(*) = 1;
    if chosen is null then
        raise exception using errcode = 'PT404',
            message = case when find_model_file.name is null then format('model %s has not exactly one file: name one', model.id)
                           else format('model %s has no file "%s"', model.id, find_model_file.name) end,
            detail = coalesce('It has: ' || coalesce(names, (select string_agg(f.name, ', ' order by f.name)
                from (select a.name from pgtrain.artifacts a where a.run_id = model.run_id
                      union all select v.name from pgtrain.model_files v where v.model_id = model.id and model.run_id is null) f)) || '.', 'It has none.');
    end if;
    return chosen;
end $$;
comment on function pgtrain_private.find_model_file(bigint, text) is 'The stored file of the present version of a model that the caller may use';

create or replace function pgtrain.export_model_file(model_id bigint, name text default null) returns bytea
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    return pgtrain_private.read_stored_file(pgtrain_private.find_model_file(model_id, name));
end $$;
comment on function pgtrain.export_model_file(bigint, text) is 'Bytes of a file of the present version of a model, imported or trained, checked against its hash';

create or replace function pgtrain.export_model_file(model_id bigint, name text, first_byte bigint, bytes integer default 67108864) returns bytea
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    return pgtrain_private.read_file(pgtrain_private.find_model_file(model_id, name), first_byte, bytes);
end $$;
comment on function pgtrain.export_model_file(bigint, text, bigint, integer) is 'A part of such a file, from a place counted from 0; empty behind its end. For files of any size';

-- ---------------------------------------------------------------- what runs start from

create or replace function pgtrain_private.may_use_model(model pgtrain.models) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (model.is_public and pgtrain.has_permission('read', 'models'))
        or pgtrain_private.may_access(model.owner_id, 'read', 'models') or pgtrain_private.is_server_administrator()
        or (pgtrain.has_permission('read', 'models')
            and exists (select from pgtrain.managed_models g where g.model_id = model.id and g.user_id = pgtrain.current_user_id()
                                                              and (g.expires_at is null or g.expires_at > clock_timestamp())));
end $$;
comment on function pgtrain_private.may_use_model(pgtrain.models) is 'Whether the caller may see a model and train from it: his own, a public one, or one that he was granted';

create or replace function pgtrain_private.find_base(reference text, place text default 'config: base_model', out model_id bigint, out content_hash bytea, out architecture jsonb, out title text,
                                                     out context_length bigint, out template_problem text)
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain.current_user_id();
    model pgtrain.models;
    others bigint[];
begin
    perform pgtrain_private.require_permission('read', 'models');
    if reference ~ '^[0-9]{1,18}$' then
        select * into model from pgtrain.models m where m.id = reference::bigint and pgtrain_private.may_use_model(m);
    end if;
    if model.id is null then
        select * into model from pgtrain.models m where m.owner_id = me and m.name || '' = reference;
    end if;
    if model.id is null then
        select array_agg(m.id order by m.id) into others from pgtrain.models m
         where m.name = reference and m.kind = 'local'
           and (m.is_public or m.id in (select g.model_id from pgtrain.managed_models g where g.user_id = me)) and pgtrain_private.may_use_model(m);
        if cardinality(others) > 1 then
            raise exception using errcode = '22023', message = format('more than one model is named "%s"', reference),
                detail = format('Models: %s.', array_to_string(others, ', ')), hint = 'Give base_model as the id of one.';
        end if;
        select * into model from pgtrain.models m where m.id = others[1];
    end if;
    if model.id is null then
        raise exception using errcode = 'PT404', message = format('%s: model "%s" does not exist or you may not read it', place, reference),
            hint = 'Give the id or the name of a model: one of yours, a public one, or one that you were granted. pgtrain.import_model brings one in.';
    elsif model.kind <> 'local' then
        raise exception using errcode = 'PT422', message = format('%s: model "%s" has no weights here', place, model.name),
            detail = format('Its kind is %s: it runs elsewhere.', model.kind), hint = 'Import it with pgtrain.import_model.';
    end if;
    -- Kept until the run is committed, so that delete_model sees it. Models of others are not locked: whoever deletes one decides.
    if model.owner_id = me then
        select * into model from pgtrain.models m where m.id = model.id for key share;
        if not found then
            raise exception using errcode = 'PT404', message = format('%s: model "%s" was deleted', place, reference);
        end if;
    end if;
    -- Of the version that is there now.
    if model.content_hash is null then
        raise exception using errcode = 'PT422', message = format('%s: model "%s" has no whole weights', place, model.name),
            detail = 'It is an adapter, or files for llama.cpp alone, not a model as it was trained.',
            hint = 'pgtrain.export_run, or export_model of an imported adapter, makes "merged" of an adapter; or start from its base.';
    end if;
    model_id := model.id;
    content_hash := model.content_hash;
    architecture := model.architecture;
    title := model.name;
    context_length := model.context_length;
    if not model.has_chat_template then
        template_problem := coalesce((select v.metadata ->> 'chat_template_problem' from pgtrain.model_versions v
                                       where v.model_id = model.id and v.version = model.version), 'The model brings none.');
    end if;
end $$;
comment on function pgtrain_private.find_base(text, text) is 'The model that a run or an adapter of the caller may be on top of, by id or name; refuses what is not there, not his to read, or has no weights';

create or replace function pgtrain_private.base_candidates(run_id bigint, adapter_id bigint, sees_all boolean, out model_id bigint, out made_by bigint, out may_use boolean) returns setof record
    language sql stable set search_path = pg_catalog, pg_temp as $$
    -- The model that was named before others of the same content: a model that was imported again serves as well.
    select v.model_id, v.run_id,
           sees_all or m.is_public or m.owner_id is not distinct from r.owner_id
           or exists (select from pgtrain.managed_models g where g.model_id = m.id and g.user_id = r.owner_id and (g.expires_at is null or g.expires_at > clock_timestamp()))
      from (select t.owner_id, t.base_model_id, t.base_model_hash from pgtrain.training_runs t where t.id = base_candidates.run_id
            union all select a.owner_id, a.base_model_id, a.base_model_hash from pgtrain.models a where a.id = base_candidates.adapter_id) r
      join pgtrain.model_versions v on v.content_hash || '' = r.base_model_hash
      join pgtrain.models m on m.id = v.model_id
     order by v.model_id = r.base_model_id desc, v.id
$$;
comment on function pgtrain_private.base_candidates(bigint, bigint, boolean) is 'Versions of models that are what a run was frozen on, or an imported adapter lies over, and whether its owner may still use each';

-- ---------------------------------------------------------------- for everybody, and removal

create or replace function pgtrain.set_model_public(model_id bigint, is_public boolean default true) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models;
begin
    perform pgtrain_private.require_writable('set_model_public');
    perform pgtrain_private.require_any('update', 'models', 'show models to everybody');
    if is_public is null then
        raise exception using errcode = '22004', message = 'is_public may not be null';
    end if;
    model := pgtrain_private.find_own_model(set_model_public.model_id, 'update');
    if model.owner_id is null and not is_public then
        raise exception using errcode = 'PT409', message = format('model %s belongs to the platform', model.id), detail = 'Such a model is for everybody.',
            hint = 'pgtrain.delete_model removes it.';
    end if;
    update pgtrain.models m set is_public = set_model_public.is_public where m.id = model.id;
    perform pgtrain_private.write_audit('model_made_public', null, jsonb_build_object('model_id', model.id, 'is_public', is_public));
end $$;
comment on function pgtrain.set_model_public(bigint, boolean) is 'Lets everybody see a model and train from it, or no longer; for administrators';

create or replace function pgtrain.delete_model(model_id bigint, force boolean default false) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models;
    needing bigint[];
    others bigint;
    adapters text;
begin
    perform pgtrain_private.require_writable('delete_model');
    model := pgtrain_private.find_own_model(delete_model.model_id, 'delete');
    if not coalesce(delete_model.force, false) then
        select array_agg(r.id order by r.id) filter (where r.owner_id is not distinct from model.owner_id),
               count(*) filter (where r.owner_id is distinct from model.owner_id)
          into needing, others
          from pgtrain.training_runs r where r.base_model_id = model.id and r.status in ('queued', 'running', 'paused');
        if needing is not null or others > 0 then
            raise exception using errcode = 'PT409', message = format('model %s is needed by runs', model.id),
                detail = concat_ws(' ', 'Runs: ' || array_to_string(needing[1:20], ', ') || '.', case when others > 0 then format('Runs of others: %s.', others) end),
                hint = 'Wait for their end or cancel them; force => true deletes it all the same, and they fail with model_missing.';
        end if;
        -- Where an adapter has been merged too, it still writes text as the adapter that it is.
        select string_agg(a.name, ', ' order by a.name) into adapters
          from pgtrain.models a
         where a.id <> model.id and a.owner_id is not distinct from model.owner_id
           and (a.base_model_id = model.id
                or exists (select from pgtrain.model_versions v join pgtrain.training_runs r on r.id = v.run_id
                            where v.model_id = a.id and r.base_model_id = model.id
                              and (v.content_hash is null or exists (select from pgtrain.artifacts f where f.run_id = r.id and f.name = 'adapter_model.safetensors'))));
        if adapters is not null then
            raise exception using errcode = 'PT409', message = format('model %s is needed by adapters', model.id),
                detail = format('Models: %s.', adapters), hint = 'They write text only on top of it. force => true deletes it all the same.';
        end if;
    end if;
    delete from pgtrain.favorites f where f.entity = 'models' and f.entity_id = model.id;
    delete from pgtrain.models m where m.id = model.id;
    perform pgtrain_private.write_audit('model_deleted', null, jsonb_build_object('model_id', model.id, 'name', model.name));
end $$;
comment on function pgtrain.delete_model(bigint, boolean) is 'Removes a model with its versions and, when it was imported, its files; runs keep their artifacts. Refused while runs or adapters need it, unless forced';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
