-- Imports: a model of others becomes a model here. Copying, checking in the trainer's sandbox and storing are in C
-- (src/pg/functions/import.cpp); here are the rights, the row and what is known of the model. An adapter lies over a model that is here
-- already, which its row names before its files are looked at. One transaction: an import that fails or is cancelled leaves nothing.

create or replace function pgtrain_private.import_files(model_id bigint, owner_id bigint, path text, content bytea, names text[], contents bytea[])
    returns jsonb
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_import_files';
comment on function pgtrain_private.import_files(bigint, bigint, text, bytea, text[], bytea[]) is
    'Takes the files of a model, or of an adapter where its row names a base model, from a path, from one value (GGUF) or from named values, has the trainer check them, and stores them; returns what it found';

create or replace function pgtrain_private.require_storage(owner_id bigint, bytes bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
begin
    -- The commit counts exactly; this refuses before gigabytes are read for nothing.
    select * into counter from pgtrain.user_usage_limits l where l.user_id = require_storage.owner_id and l.resource_type = 'storage_bytes';
    if counter.limit_value >= 0 and counter.used_value + require_storage.bytes > counter.limit_value then
        perform pgtrain_private.refuse_usage(counter, require_storage.bytes);
    end if;
end $$;
comment on function pgtrain_private.require_storage(bigint, bigint) is 'Refuses what would not fit into the storage of a user; the platform (null) has no limit';

create or replace function pgtrain_private.add_model_file(model_id bigint, owner_id bigint, file_id bigint, name text, storage pgtrain_private.storage_kind,
                                                          bytes bigint, sha256 text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    insert into pgtrain_private.stored_files (id, model_id, owner_id, storage, bytes, sha256) overriding system value
    values (add_model_file.file_id, add_model_file.model_id, add_model_file.owner_id, add_model_file.storage, add_model_file.bytes,
            decode(add_model_file.sha256, 'hex'));
    update pgtrain_private.stored_files f set counted_bytes = f.bytes where f.id = add_model_file.file_id;
    insert into pgtrain.model_files (model_id, owner_id, name, file_id, bytes, sha256)
    values (add_model_file.model_id, add_model_file.owner_id, add_model_file.name, add_model_file.file_id, add_model_file.bytes, add_model_file.sha256);
end $$;
comment on function pgtrain_private.add_model_file(bigint, bigint, bigint, text, pgtrain_private.storage_kind, bigint, text) is
    'Rows of a file of an imported model whose bytes were hashed as they were copied; chunks follow in the same transaction';

create or replace function pgtrain_private.begin_import(name text, description text, for_user bigint, base_model text) returns pgtrain.models
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models;
begin
    perform pgtrain_private.require_writable('import_model');
    if for_user is not null and for_user is distinct from pgtrain.current_user_id() then
        perform pgtrain_private.require_any('create', 'models', 'import models for others');
        if not exists (select from pgtrain.users u where u.id = for_user and u.is_active) then
            raise exception using errcode = 'PT404', message = format('user %s does not exist or is not active', for_user);
        end if;
        model.owner_id := for_user;
    elsif not pgtrain_private.is_server_administrator() then
        model.owner_id := pgtrain_private.require_user();
        perform pgtrain_private.require_permission('create', 'models');
    end if;
    perform pgtrain_private.check_model_name(begin_import.name);
    -- No index keeps names of the platform apart, because its templates may be named alike.
    if model.owner_id is null then
        perform pg_advisory_xact_lock('pgtrain.models'::regclass::oid::integer, hashtext(begin_import.name));
    end if;
    if model.owner_id is null and exists (select from pgtrain.models m where m.owner_id is null and m.kind = 'local' and m.name || '' = begin_import.name) then
        raise exception using errcode = '23505', message = format('the platform has a model "%s" already', begin_import.name),
            hint = 'Choose another name, or delete that one with pgtrain.delete_model.';
    end if;
    if begin_import.base_model is not null then
        select b.model_id, b.content_hash into model.base_model_id, model.base_model_hash from pgtrain_private.find_base(begin_import.base_model, 'base_model') b;
    end if;
    -- First of all, so that of two imports of one name the second waits here and not after its gigabytes.
    insert into pgtrain.models (owner_id, kind, name, description, is_public, base_model_id, base_model_hash)
    values (model.owner_id, 'local', begin_import.name, begin_import.description, model.owner_id is null, model.base_model_id, model.base_model_hash)
    returning * into model;
    return model;
exception when unique_violation then
    raise exception using errcode = '23505', message = case when model.owner_id is null then sqlerrm else format('there is a model "%s" already', begin_import.name) end,
        hint = 'Choose another name, or delete that one with pgtrain.delete_model.';
end $$;
comment on function pgtrain_private.begin_import(text, text, bigint, text) is 'The row of a model that is being imported: the caller''s, another user''s (administrators), or the platform''s (the server''s administrator)';

create or replace function pgtrain_private.finish_import(model pgtrain.models, described jsonb, source text) returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    version pgtrain.model_versions;
    warning text;
begin
    for warning in select w.warning from jsonb_array_elements_text(described -> 'warnings') w (warning) loop
        raise notice 'model "%": %', model.name, warning;
    end loop;
    version.model_id := model.id;
    version := pgtrain_private.describe_version(version);
    insert into pgtrain.model_versions (model_id, version, owner_id, family, format, architecture, context_length, parameter_count, vocabulary_size,
                                        has_chat_template, size_bytes, content_hash, metadata)
    values (model.id, 1, model.owner_id, described ->> 'model_type', version.format, described -> 'architecture',
            nullif(pgtrain_private.number_or_null(described, 'context_length'), 0), (described ->> 'parameters')::bigint,
            pgtrain_private.number_or_null(described, 'vocab_size'), (described ->> 'has_chat_template')::boolean,
            version.size_bytes, version.content_hash, jsonb_strip_nulls(jsonb_build_object('stored_types', described -> 'stored_types', 'warnings', coalesce(described -> 'warnings', '[]'),
                'chat_template_problem', nullif(described ->> 'chat_template_problem', ''), 'base_model_name_or_path', described -> 'base_name')));
    perform pgtrain_private.use_version(model.id, 1);
    perform pgtrain_private.write_audit('model_imported', null, jsonb_build_object('model_id', model.id, 'name', model.name, 'source', source,
        'size_bytes', version.size_bytes, 'content_hash', encode(version.content_hash, 'hex')));
    return model.id;
end $$;
comment on function pgtrain_private.finish_import(pgtrain.models, jsonb, text) is 'The first version of an imported model, with what the trainer found';

create or replace function pgtrain.import_model(path text, name text, description text default null, owner_id bigint default null,
                                                base_model text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models := pgtrain_private.begin_import(name, description, import_model.owner_id, base_model);
begin
    if path is null then
        raise exception using errcode = '22004', message = 'path may not be null';
    end if;
    return pgtrain_private.finish_import(model, pgtrain_private.import_files(model.id, model.owner_id, path, null, null, null), path);
end $$;
comment on function pgtrain.import_model(text, text, text, bigint, text) is
    'Brings a model in from the server''s disk: a folder as Hugging Face''s tools save it, or a GGUF file; or with base_model, the id or name of a model that is here, an adapter on it: a folder as PEFT saves it. Roles that may read the server''s files name any path, others one within pgtrain.import_folder. Returns its id';

create or replace function pgtrain.import_model(content bytea, name text, description text default null, owner_id bigint default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models := pgtrain_private.begin_import(name, description, import_model.owner_id, null);
begin
    if content is null then
        raise exception using errcode = '22004', message = 'content may not be null';
    end if;
    return pgtrain_private.finish_import(model, pgtrain_private.import_files(model.id, model.owner_id, null, content, null, null), null);
end $$;
comment on function pgtrain.import_model(bytea, text, text, bigint) is 'Brings a model in from the bytes of a GGUF file; returns its id';

create or replace function pgtrain.import_model(files text[], contents bytea[], name text, description text default null, owner_id bigint default null,
                                                base_model text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    model pgtrain.models := pgtrain_private.begin_import(name, description, import_model.owner_id, base_model);
begin
    if files is null or contents is null then
        raise exception using errcode = '22004', message = 'files and contents may not be null';
    end if;
    return pgtrain_private.finish_import(model, pgtrain_private.import_files(model.id, model.owner_id, null, null, files, contents), null);
end $$;
comment on function pgtrain.import_model(text[], bytea[], text, text, bigint, text) is
    'Brings a model in from the files of a Hugging Face folder (config.json, model.safetensors or its shards, tokenizer.json ...), by names and bytes; or with base_model, the id or name of a model that is here, an adapter on it (adapter_config.json, adapter_model.safetensors); returns its id';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
