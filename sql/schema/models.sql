-- Models: what was trained or imported here (local), what administrators offer as templates (reference), and what is reached by an
-- interface elsewhere (external). What a local model was before is in model_versions; its bytes are the artifacts of its run, or
-- model_files when it was imported (model_files.sql).

create type pgtrain.model_kind as enum ('local', 'reference', 'external');
comment on type pgtrain.model_kind is 'Where a model runs';

create table pgtrain.models (
    id bigint generated always as identity primary key,
    owner_id bigint references pgtrain.users on delete cascade,
    kind pgtrain.model_kind not null,
    name text not null check (length(name) between 1 and 200),
    display_name text,
    description text,
    provider text,
    model_id text,
    model_type text,
    base_url text,
    run_id bigint,
    version integer not null default 1 check (version > 0),
    family text,
    format text,
    architecture jsonb,
    parameter_count bigint,
    vocabulary_size integer,
    has_chat_template boolean,
    size_bytes bigint check (size_bytes >= 0),
    content_hash bytea check (length(content_hash) = 32),
    base_model_id bigint,
    base_model_hash bytea check (length(base_model_hash) = 32),
    capabilities jsonb not null default '[]',
    parameters jsonb not null default '{}',
    context_length integer check (context_length > 0),
    max_tokens integer check (max_tokens > 0),
    temperature real check (temperature >= 0),
    top_p real check (top_p > 0 and top_p <= 1),
    stream boolean not null default false,
    system_prompt text,
    is_active boolean not null default true,
    is_public boolean not null default false,
    tags text[] not null default '{}',
    metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (owner_id is not null or is_public),
    unique (id, owner_id)
);
create unique index models_owner_id_name_key on pgtrain.models (owner_id, (name || ''));
create index models_public_idx on pgtrain.models (id) where is_public;
create index models_run_id_idx on pgtrain.models (run_id) where run_id is not null;
create index models_base_model_id_idx on pgtrain.models (base_model_id) where base_model_id is not null;
comment on table pgtrain.models is 'Models: trained or imported here, offered as templates, or reached elsewhere';
comment on column pgtrain.models.id is 'Key';
comment on column pgtrain.models.owner_id is 'User it belongs to, null for the platform''s';
comment on column pgtrain.models.kind is 'Where it runs';
comment on column pgtrain.models.name is 'Name, unique for its owner';
comment on column pgtrain.models.display_name is 'Name to show';
comment on column pgtrain.models.description is 'In words';
comment on column pgtrain.models.provider is 'Who runs it';
comment on column pgtrain.models.model_id is 'Its name there';
comment on column pgtrain.models.model_type is 'What it is good for, as coding or chat';
comment on column pgtrain.models.base_url is 'Address of its interface';
comment on column pgtrain.models.run_id is 'Run that made its present version, null for an imported one';
comment on column pgtrain.models.version is 'Present version of a local model, one of model_versions';
comment on column pgtrain.models.family is 'Kind of architecture, as llama, qwen2 or gpt2';
comment on column pgtrain.models.format is 'How its files are made: safetensors or gguf';
comment on column pgtrain.models.architecture is 'Its configuration, as config.json has it';
comment on column pgtrain.models.parameter_count is 'Numbers it consists of';
comment on column pgtrain.models.vocabulary_size is 'Tokens it knows';
comment on column pgtrain.models.has_chat_template is 'Whether it says how conversations are put to it';
comment on column pgtrain.models.size_bytes is 'Bytes of its files';
comment on column pgtrain.models.content_hash is 'Hash over names and hashes of its files, null where it has none that a run could start from';
comment on column pgtrain.models.base_model_id is 'Of an imported adapter the model that it lies over, else null (that of a trained one stands in its run); no foreign key: base_model_hash says what it was';
comment on column pgtrain.models.base_model_hash is 'Hash of that model''s files when the adapter was imported';
comment on column pgtrain.models.capabilities is 'What it can do';
comment on column pgtrain.models.parameters is 'Further parameters';
comment on column pgtrain.models.context_length is 'Tokens it sees at once';
comment on column pgtrain.models.max_tokens is 'Tokens of an answer';
comment on column pgtrain.models.temperature is 'Default temperature';
comment on column pgtrain.models.top_p is 'Default top-p';
comment on column pgtrain.models.stream is 'Answers are streamed';
comment on column pgtrain.models.system_prompt is 'What it is told first';
comment on column pgtrain.models.is_active is 'Offered for use';
comment on column pgtrain.models.is_public is 'Everybody may see it';
comment on column pgtrain.models.tags is 'Words to find it by';
comment on column pgtrain.models.metadata is 'Free attributes';
comment on column pgtrain.models.created_at is 'When made';
comment on column pgtrain.models.updated_at is 'When last changed';

select pgtrain_private.protect_table('models', 'owner_id', 'models');
create policy public_read on pgtrain.models for select
    using (is_public and (select pgtrain.has_permission('read', 'models')));
create policy update_in_reach on pgtrain.models for update
    using (pgtrain_private.in_scope(owner_id, (select pgtrain_private.owner_scope('update', 'models'))));

create view pgtrain.reference_models with (security_invoker, security_barrier) as
    select m.id, m.name, m.display_name, m.description, m.model_type, m.provider, m.model_id, m.base_url, m.temperature, m.top_p,
           m.max_tokens, m.stream, m.capabilities, m.parameters, m.context_length, m.system_prompt, m.is_active,
           exists (select from pgtrain.favorites f
                    where f.user_id = (select pgtrain.current_user_id()) and f.entity = 'models' and f.entity_id = m.id) as is_favorite,
           m.tags, m.metadata, m.created_at, m.updated_at
      from pgtrain.models m
     where m.kind = 'reference';
comment on view pgtrain.reference_models is 'Templates that administrators offer';
