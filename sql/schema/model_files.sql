-- What local models consist of: the files of imported ones, and the versions that each model has had. A version is a run's artifacts,
-- or, where run_id is null, the model's own files. Runs are frozen on the hash of a version, not on its number.

create table pgtrain.model_files (
    id bigint generated always as identity primary key,
    model_id bigint not null references pgtrain.models on delete cascade,
    owner_id bigint,
    name text not null,
    file_id bigint not null references pgtrain_private.stored_files on delete cascade,
    bytes bigint not null,
    sha256 text not null,
    created_at timestamptz not null default clock_timestamp()
);
create unique index model_files_model_id_name_key on pgtrain.model_files (model_id, (name || ''));
create index model_files_file_id_idx on pgtrain.model_files (file_id);
create index model_files_owner_id_idx on pgtrain.model_files (owner_id);
comment on table pgtrain.model_files is 'Files of imported models, never changed; those of trained ones are the artifacts of their run';
comment on column pgtrain.model_files.id is 'Key';
comment on column pgtrain.model_files.model_id is 'Model';
comment on column pgtrain.model_files.owner_id is 'Owner of the model, null for the platform';
comment on column pgtrain.model_files.name is 'File name';
comment on column pgtrain.model_files.file_id is 'Stored file';
comment on column pgtrain.model_files.bytes is 'Size';
comment on column pgtrain.model_files.sha256 is 'Hash in hexadecimal';
comment on column pgtrain.model_files.created_at is 'When';

create table pgtrain.model_versions (
    id bigint generated always as identity primary key,
    model_id bigint not null references pgtrain.models on delete cascade,
    version integer not null,
    owner_id bigint,
    run_id bigint,
    family text,
    format text,
    architecture jsonb,
    context_length integer,
    parameter_count bigint,
    vocabulary_size integer,
    has_chat_template boolean,
    size_bytes bigint,
    content_hash bytea,
    notes text,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default clock_timestamp(),
    unique (model_id, version)
);
create index model_versions_owner_id_idx on pgtrain.model_versions (owner_id);
create index model_versions_run_id_idx on pgtrain.model_versions (run_id) where run_id is not null;
create index model_versions_content_hash_idx on pgtrain.model_versions ((content_hash || ''));
comment on table pgtrain.model_versions is 'What each local model is and was; its present version is named by models.version';
comment on column pgtrain.model_versions.id is 'Key';
comment on column pgtrain.model_versions.model_id is 'Model';
comment on column pgtrain.model_versions.version is 'Number within the model, from 1';
comment on column pgtrain.model_versions.owner_id is 'Owner of the model, null for the platform';
comment on column pgtrain.model_versions.run_id is 'Run whose artifacts it is, null for the files of an import; no foreign key: without its run it is a memory';
comment on column pgtrain.model_versions.family is 'Kind of architecture';
comment on column pgtrain.model_versions.format is 'How its files are made: safetensors or gguf';
comment on column pgtrain.model_versions.architecture is 'Its configuration, as config.json has it';
comment on column pgtrain.model_versions.context_length is 'Tokens it sees at once';
comment on column pgtrain.model_versions.parameter_count is 'Numbers it consists of';
comment on column pgtrain.model_versions.vocabulary_size is 'Tokens it knows';
comment on column pgtrain.model_versions.has_chat_template is 'Whether it says how conversations are put to it';
comment on column pgtrain.model_versions.size_bytes is 'Bytes of its files';
comment on column pgtrain.model_versions.content_hash is 'Hash over names and hashes of its files, null where a run cannot start from them';
comment on column pgtrain.model_versions.notes is 'What its publisher said of it';
comment on column pgtrain.model_versions.metadata is 'What was known of it when it was made: losses and configuration of its run, or the warnings of its import';
comment on column pgtrain.model_versions.created_at is 'When made';

select pgtrain_private.protect_table('model_files', 'owner_id', 'models');
select pgtrain_private.protect_table('model_versions', 'owner_id', 'models');

-- Who may see a model sees what it consists of.
create policy public_read on pgtrain.model_files for select
    using (exists (select from pgtrain.models m where m.id = model_files.model_id and m.is_public)
           and (select pgtrain.has_permission('read', 'models')));
create policy public_read on pgtrain.model_versions for select
    using (exists (select from pgtrain.models m where m.id = model_versions.model_id and m.is_public)
           and (select pgtrain.has_permission('read', 'models')));
create policy shared_read on pgtrain.model_files for select
    using (model_id = any (array(select g.model_id from pgtrain.managed_models g
                                  where g.user_id = (select pgtrain.current_user_id()) and (g.expires_at is null or g.expires_at > clock_timestamp())))
           and (select pgtrain.has_permission('read', 'models')));
create policy shared_read on pgtrain.model_versions for select
    using (model_id = any (array(select g.model_id from pgtrain.managed_models g
                                  where g.user_id = (select pgtrain.current_user_id()) and (g.expires_at is null or g.expires_at > clock_timestamp())))
           and (select pgtrain.has_permission('read', 'models')));
