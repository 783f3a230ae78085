-- Exports after the fact: further forms of a model that a run has made, or of an imported adapter, written and compared by a trainer as a run does itself. The
-- trainer is a child of the session; a cancelled query ends it, and leaves nothing.

create or replace function pgtrain_private.export_files(run_id bigint, owner_id bigint, exports text, present text[]) returns jsonb
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_export_files';
comment on function pgtrain_private.export_files(bigint, bigint, text, text[]) is
    'Has a trainer write further forms of the model of a run, and stores those files whose names are not present; returns them as publish_run takes artifacts';

create or replace function pgtrain_private.add_export_file(run_id bigint, owner_id bigint, file_id bigint, storage pgtrain_private.storage_kind, bytes bigint,
                                                           sha256 text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    insert into pgtrain_private.stored_files (id, run_id, owner_id, storage, bytes, sha256) overriding system value
    values (add_export_file.file_id, add_export_file.run_id, add_export_file.owner_id, add_export_file.storage, add_export_file.bytes,
            decode(add_export_file.sha256, 'hex'));
    update pgtrain_private.stored_files f set counted_bytes = f.bytes where f.id = add_export_file.file_id;
end $$;
comment on function pgtrain_private.add_export_file(bigint, bigint, bigint, pgtrain_private.storage_kind, bigint, text) is
    'Row of a file that was exported from a run that has ended; chunks follow in the same transaction';

create or replace function pgtrain_private.missing_exports(exports text[], present text[]) returns text[]
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if coalesce(cardinality(exports), 0) = 0 or exists (select from unnest(exports) e where e is null) then
        raise exception using errcode = '22004', message = 'exports needs at least one form, none of them null',
            hint = 'Choose of peft, merged, gguf_f16, gguf_q8_0 and gguf_q4_k.';
    end if;
    return array(select e from unnest(exports) e
                  where not case e when 'peft' then 'adapter_model.safetensors' = any (present)
                                   when 'merged' then present && array['model.safetensors', 'model.safetensors.index.json']
                                   when 'gguf_f16' then 'model-f16.gguf' = any (present)
                                   when 'gguf_q8_0' then 'model-q8_0.gguf' = any (present)
                                   when 'gguf_q4_k' then 'model-q4_k.gguf' = any (present) else false end);
end $$;
comment on function pgtrain_private.missing_exports(text[], text[]) is 'Those of the wanted forms whose files are not present, in their order';

create or replace function pgtrain.export_run(run_id bigint, exports text[]) returns setof pgtrain.artifacts
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    run pgtrain.training_runs;
    wanted text[];
    present text[];
    made jsonb;
begin
    perform pgtrain_private.require_writable('export_run');
    run := pgtrain_private.find_run(export_run.run_id, 'update');
    perform pgtrain_private.require_result(run);
    -- One at a time for each run, so that none is written twice; and it is there until the end.
    perform from pgtrain.training_runs r where r.id = run.id for no key update;
    present := array(select a.name from pgtrain.artifacts a where a.run_id = run.id);
    wanted := pgtrain_private.missing_exports(exports, present);
    if cardinality(wanted) > 0 and not exists (select from unnest(present) p where p like '%.safetensors') then
        raise exception using errcode = 'PT409', message = format('run %s left GGUF files alone, which other forms cannot be made of', run.id),
            detail = 'Their numbers are rounded: it would not be what was trained.', hint = 'Train it again with peft or merged among exports.';
    elsif cardinality(wanted) > 0 then
        made := pgtrain_private.export_files(run.id, run.owner_id, array_to_string(wanted, ','), present);
        insert into pgtrain.artifacts (run_id, owner_id, name, file_id, bytes, sha256)
        select run.id, run.owner_id, f.name, f.file_id, f.bytes, f.sha256
          from jsonb_to_recordset(made) f (name text, file_id bigint, bytes bigint, sha256 text);
        perform pgtrain_private.note_weights(run.id, null);
        perform pgtrain_private.write_audit('export_run', null, jsonb_build_object('run_id', run.id, 'exports', wanted));
    end if;
    return query select a.* from pgtrain.artifacts a where a.run_id = run.id and not a.name = any (present) order by a.name collate "C";
end $$;
comment on function pgtrain.export_run(bigint, text[]) is
    'Writes further forms of a run''s model (peft, merged, gguf_f16, gguf_q8_0, gguf_q4_k), each read back and compared, and keeps them as its artifacts; returns the new ones, forms that are there are not made again. A merged adapter can be a base model';

create or replace function pgtrain_private.export_to_model(choice jsonb, model_id bigint, owner_id bigint, exports text, present text[]) returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_export_to_model';
comment on function pgtrain_private.export_to_model(jsonb, bigint, bigint, text, text[]) is
    'Has a trainer write forms of a checkpoint or of an imported adapter, and stores those files whose names are not present as those of a model, in place of others so named';

create or replace function pgtrain.export_model(model_id bigint, exports text[]) returns setof pgtrain.model_files
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    model pgtrain.models;
    wanted text[];
    present text[];
begin
    perform pgtrain_private.require_writable('export_model');
    -- Locked: one at a time, so that none is written twice; and it is there until the end.
    model := pgtrain_private.find_own_model(export_model.model_id, 'update');
    if model.run_id is not null then
        raise exception using errcode = 'PT409', message = format('model %s is the model of run %s', model.id, model.run_id), hint = format('Call pgtrain.export_run(%s, ...).', model.run_id);
    elsif model.base_model_id is null then
        raise exception using errcode = 'PT422', message = format('model %s is no adapter', model.id),
            detail = 'Further forms are made of what runs have trained and of imported adapters.', hint = 'Import the form that you need.';
    end if;
    present := array(select f.name from pgtrain.model_files f where f.model_id = model.id);
    wanted := pgtrain_private.missing_exports(export_model.exports, present);
    if cardinality(wanted) > 0 then
        -- The adapter's own was kept for its chat template alone, which gets a file of its own; beside merged weights it is the base's.
        if 'merged' = any (wanted) then
            present := array_remove(present, 'tokenizer_config.json');
        end if;
        perform pgtrain_private.export_to_model(jsonb_build_object('model_id', model.id), model.id, model.owner_id, array_to_string(wanted, ','), present);
        perform pgtrain_private.note_weights(null, model.id);
        perform pgtrain_private.write_audit('export_model', null, jsonb_build_object('model_id', model.id, 'exports', wanted));
    end if;
    return query select f.* from pgtrain.model_files f where f.model_id = model.id and not f.name = any (present) order by f.name collate "C";
end $$;
comment on function pgtrain.export_model(bigint, text[]) is
    'Writes further forms of an imported adapter (merged, gguf_f16, gguf_q8_0, gguf_q4_k), each read back and compared, and keeps them as its files, which export_model_file gives; returns the new ones, forms that are there are not made again. Merged it can be a base model';

create or replace function pgtrain.publish_checkpoint(checkpoint text, name text default null, notes text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    kept pgtrain.checkpoints;
    run pgtrain.training_runs;
    title text;
    made bigint;
    version pgtrain.model_versions;
begin
    perform pgtrain_private.require_writable('publish_checkpoint');
    perform pgtrain_private.require_permission('create', 'models');
    kept := pgtrain_private.find_checkpoint(publish_checkpoint.checkpoint);
    if kept.id is null then
        raise exception using errcode = 'PT404', message = format('checkpoint %s does not exist or is not yours', coalesce(quote_literal(left(publish_checkpoint.checkpoint, 300)), 'null')),
            hint = 'pgtrain.fine_tuning_job_checkpoints lists those of a run by name.';
    end if;
    run := pgtrain_private.find_run(kept.run_id, 'update');
    title := coalesce(publish_checkpoint.name, pgtrain_private.checkpoint_name(run, kept.step));
    perform pgtrain_private.check_model_name(title);
    insert into pgtrain.models (owner_id, kind, name) values (run.owner_id, 'local', title) on conflict (owner_id, (name || '')) do nothing returning id into made;
    if made is null then
        raise exception using errcode = '23505', message = format('there is a model "%s" already', title), hint = 'Choose another name, or delete that one with pgtrain.delete_model.';
    end if;
    perform pgtrain_private.export_to_model(jsonb_build_object('run_id', run.id, 'checkpoint_id', kept.id), made, run.owner_id, 'merged', '{}');
    version.model_id := made;
    version := pgtrain_private.describe_version(version);
    select pgtrain_private.json_or_null(pgtrain_private.read_stored_file(f.file_id)) into version.architecture
      from pgtrain.model_files f where f.model_id = made and f.name = 'config.json';
    insert into pgtrain.model_versions (model_id, version, owner_id, family, format, architecture, context_length, parameter_count, vocabulary_size,
                                        has_chat_template, size_bytes, content_hash, notes, metadata)
    values (made, 1, run.owner_id, version.architecture->>'model_type', version.format, version.architecture,
            coalesce(pgtrain_private.number_or_null(version.architecture, 'max_position_embeddings'), pgtrain_private.number_or_null(version.architecture, 'n_positions')),
            coalesce((select v.parameter_count from pgtrain.model_versions v where v.content_hash || '' = run.base_model_hash limit 1), run.parameters),
            pgtrain_private.number_or_null(version.architecture, 'vocab_size'),
            exists (select from pgtrain.model_files f where f.model_id = made and f.name = 'chat_template.jinja'),
            version.size_bytes, version.content_hash, publish_checkpoint.notes, jsonb_build_object('run_id', run.id, 'step', kept.step, 'config', run.config));
    perform pgtrain_private.use_version(made, 1);
    perform pgtrain_private.write_audit('checkpoint_published', null, jsonb_build_object('model_id', made, 'run_id', run.id, 'step', kept.step));
    return made;
end $$;
comment on function pgtrain.publish_checkpoint(text, text, text) is
    'Makes a model of its own of a kept checkpoint, by its name: whole, with an adapter merged into its base. It stays when the checkpoint goes, can be a base model, and export_model_file gives its files. It bears the checkpoint''s name unless another is given. Returns the model''s id';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
