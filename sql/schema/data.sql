-- Data: datasets and their samples, favourites, and the images of image trainings with their groups and crops.
-- Samples are append-only, so (dataset, sample_count, content_hash) names a frozen state for ever: content_hash is a chain over the
-- hashes of all samples in order. Runs refer to that state.

create type pgtrain.dataset_type as enum ('text', 'instruction', 'conversation', 'image', 'rag', 'lora', 'fine_tuning');
comment on type pgtrain.dataset_type is 'What the samples are for';
create type pgtrain.dataset_format as enum ('text', 'prompt_completion', 'messages', 'preference', 'image', 'mixed');
comment on type pgtrain.dataset_format is 'Shape of the samples';

create table pgtrain.datasets (
    id bigint generated always as identity primary key,
    owner_id bigint references pgtrain.users on delete cascade,
    name text not null check (length(name) between 1 and 200),
    description text,
    dataset_id text unique,
    type pgtrain.dataset_type not null default 'text',
    format pgtrain.dataset_format not null default 'text',
    is_format_fixed boolean not null default false,
    kinds pgtrain.dataset_format[] not null default '{}',
    source text,
    license text,
    file_path text,
    tags text[] not null default '{}',
    is_public boolean not null default false,
    is_active boolean not null default true,
    metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    sample_count bigint not null default 0 check (sample_count >= 0),
    loaded_samples bigint not null default 0 check (loaded_samples >= 0),
    size_bytes bigint not null default 0 check (size_bytes >= 0),
    longest_bytes bigint not null default 0 check (longest_bytes >= 0),
    content_hash bytea not null default '\x',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (owner_id is not null or is_public)
) with (fillfactor = 70);
create unique index datasets_owner_id_name_key on pgtrain.datasets (owner_id, (name || ''));  -- see guarded text in foundation.sql
create index datasets_public_idx on pgtrain.datasets (id) where is_public;
comment on table pgtrain.datasets is 'Datasets of users, and of the catalogue (owner null)';
comment on column pgtrain.datasets.id is 'Key';
comment on column pgtrain.datasets.owner_id is 'User it belongs to, null for the public catalogue';
comment on column pgtrain.datasets.name is 'Name, unique for its owner';
comment on column pgtrain.datasets.description is 'In words';
comment on column pgtrain.datasets.dataset_id is 'Name at the place it came from';
comment on column pgtrain.datasets.type is 'What it is for';
comment on column pgtrain.datasets.format is 'Shape of its samples, mixed where there are several';
comment on column pgtrain.datasets.is_format_fixed is 'True: the format was said when it was made, and samples of another are refused';
comment on column pgtrain.datasets.kinds is 'Shapes of the samples that are here';
comment on column pgtrain.datasets.source is 'Where it came from';
comment on column pgtrain.datasets.license is 'Licence';
comment on column pgtrain.datasets.file_path is 'File it was read from';
comment on column pgtrain.datasets.tags is 'Words to find it by';
comment on column pgtrain.datasets.is_public is 'Everybody may read it';
comment on column pgtrain.datasets.is_active is 'False: kept, but not offered';
comment on column pgtrain.datasets.metadata is 'Free attributes';
comment on column pgtrain.datasets.sample_count is 'Number of samples that are here';
comment on column pgtrain.datasets.loaded_samples is 'How many of the source''s samples were loaded; the same for what was made here';
comment on column pgtrain.datasets.size_bytes is 'Bytes of text of all samples; of messages and preferences of the whole JSON';
comment on column pgtrain.datasets.longest_bytes is 'The same of the longest sample';
comment on column pgtrain.datasets.content_hash is 'Chain hash over all samples in order; empty without samples';
comment on column pgtrain.datasets.created_at is 'When made';
comment on column pgtrain.datasets.updated_at is 'When last changed';

create table pgtrain.dataset_samples (
    dataset_id bigint not null references pgtrain.datasets on delete cascade,
    ordinal bigint not null check (ordinal > 0),
    owner_id bigint,
    content jsonb not null check (jsonb_typeof(content) = 'object'),
    content_hash bytea not null,
    created_at timestamptz not null default now(),
    primary key (dataset_id, ordinal)
);
comment on table pgtrain.dataset_samples is 'Samples of a dataset; never changed, only removed together with their dataset';
comment on column pgtrain.dataset_samples.dataset_id is 'Dataset';
comment on column pgtrain.dataset_samples.ordinal is 'Place in it, from 1 without gaps';
comment on column pgtrain.dataset_samples.owner_id is 'Owner of the dataset, null for the catalogue';
comment on column pgtrain.dataset_samples.content is '{"text"}, {"prompt", "completion"}, {"messages"} or {"chosen", "rejected"}, with what else was given';
comment on column pgtrain.dataset_samples.content_hash is 'SHA-256 of the content''s text form';
comment on column pgtrain.dataset_samples.created_at is 'When added';
create function pgtrain_private.refuse_sample_change() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- A removed dataset takes its samples with it: then the parent row is gone already.
    if tg_op = 'DELETE' and not exists (select from pgtrain.datasets d where d.id = old.dataset_id) then
        return old;
    end if;
    -- A dataset that is handed over takes them along.
    if tg_op = 'UPDATE' and new.owner_id is not distinct from (select d.owner_id from pgtrain.datasets d where d.id = new.dataset_id)
       and (new.dataset_id, new.ordinal, new.content, new.content_hash, new.created_at)
           = (old.dataset_id, old.ordinal, old.content, old.content_hash, old.created_at) then
        return new;
    end if;
    raise exception using errcode = 'PT405', message = 'samples of a dataset are never changed or removed one by one',
        hint = 'Make a new dataset, or delete the whole dataset.';
end $$;
comment on function pgtrain_private.refuse_sample_change() is 'Row trigger: samples only go, or get another owner, together with their dataset';
create trigger refuse_change before update or delete on pgtrain.dataset_samples
    for each row execute function pgtrain_private.refuse_sample_change();
create trigger refuse_truncate before truncate on pgtrain.dataset_samples
    for each statement execute function pgtrain_private.refuse_change();
alter table pgtrain.dataset_samples enable always trigger refuse_change;
alter table pgtrain.dataset_samples enable always trigger refuse_truncate;

create table pgtrain.favorites (
    user_id bigint not null references pgtrain.users on delete cascade,
    entity text not null check (entity in ('datasets', 'models', 'minions', 'profiles')),
    entity_id bigint not null,
    created_at timestamptz not null default now(),
    primary key (user_id, entity, entity_id)
);
comment on table pgtrain.favorites is 'What each user has marked (is_favorite)';
comment on column pgtrain.favorites.user_id is 'User';
comment on column pgtrain.favorites.entity is 'Kind of thing';
comment on column pgtrain.favorites.entity_id is 'Key of the thing';
comment on column pgtrain.favorites.created_at is 'When marked';

create table pgtrain.training_images (
    id bigint generated always as identity primary key,
    owner_id bigint not null references pgtrain.users on delete cascade,
    training_id bigint not null,
    name text not null check (length(name) between 1 and 255),
    type text not null check (type in ('image/png', 'image/jpeg')),
    text text,
    url text,
    content bytea,
    content_hash bytea,
    width integer check (width > 0),
    height integer check (height > 0),
    is_resized boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index training_images_training_id_name_key on pgtrain.training_images (training_id, (name || ''));
create index training_images_owner_id_idx on pgtrain.training_images (owner_id);
comment on table pgtrain.training_images is 'Images of a training';
comment on column pgtrain.training_images.id is 'Key';
comment on column pgtrain.training_images.owner_id is 'Owner of the training';
comment on column pgtrain.training_images.training_id is 'Training';
comment on column pgtrain.training_images.name is 'File name';
comment on column pgtrain.training_images.type is 'Media type';
comment on column pgtrain.training_images.text is 'Tags or caption';
comment on column pgtrain.training_images.url is 'Where it can be fetched, if outside';
comment on column pgtrain.training_images.content is 'The image itself';
comment on column pgtrain.training_images.content_hash is 'SHA-256 of the image';
comment on column pgtrain.training_images.width is 'Pixels';
comment on column pgtrain.training_images.height is 'Pixels';
comment on column pgtrain.training_images.is_resized is 'A reduced copy exists that fits the present text and crop';
comment on column pgtrain.training_images.created_at is 'When made';
comment on column pgtrain.training_images.updated_at is 'When last changed';

create table pgtrain.image_groups (
    id bigint generated always as identity primary key,
    owner_id bigint not null references pgtrain.users on delete cascade,
    training_id bigint not null,
    name text not null default 'New image set' check (length(name) between 1 and 100),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index image_groups_owner_id_idx on pgtrain.image_groups (owner_id);
create index image_groups_training_id_idx on pgtrain.image_groups (training_id);
comment on table pgtrain.image_groups is 'Sets of images of a training, cropped and described anew';
comment on column pgtrain.image_groups.id is 'Key';
comment on column pgtrain.image_groups.owner_id is 'Owner of the training';
comment on column pgtrain.image_groups.training_id is 'Training';
comment on column pgtrain.image_groups.name is 'Name';
comment on column pgtrain.image_groups.created_at is 'When made';
comment on column pgtrain.image_groups.updated_at is 'When last changed';

create table pgtrain.image_sizes (
    image_id bigint not null references pgtrain.training_images on delete cascade,
    image_group_id bigint not null references pgtrain.image_groups on delete cascade,
    owner_id bigint not null references pgtrain.users on delete cascade,
    x double precision not null default 0 check (x between 0 and 100),
    y double precision not null default 0 check (y between 0 and 100),
    width double precision not null default 100 check (width > 0 and width <= 100),
    height double precision not null default 100 check (height > 0 and height <= 100),
    text text,
    is_resized boolean not null default false,
    url text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (image_id, image_group_id),
    check (x + width <= 100 and y + height <= 100)
);
create index image_sizes_image_group_id_idx on pgtrain.image_sizes (image_group_id);
create index image_sizes_owner_id_idx on pgtrain.image_sizes (owner_id);
comment on table pgtrain.image_sizes is 'Membership of an image in a group: crop in percent of the original, and text';
comment on column pgtrain.image_sizes.image_id is 'Image';
comment on column pgtrain.image_sizes.image_group_id is 'Group';
comment on column pgtrain.image_sizes.owner_id is 'Owner of the training';
comment on column pgtrain.image_sizes.x is 'Left edge in percent';
comment on column pgtrain.image_sizes.y is 'Upper edge in percent';
comment on column pgtrain.image_sizes.width is 'Width in percent';
comment on column pgtrain.image_sizes.height is 'Height in percent';
comment on column pgtrain.image_sizes.text is 'Tags or caption within the group';
comment on column pgtrain.image_sizes.is_resized is 'A reduced copy exists that fits the present text and crop';
comment on column pgtrain.image_sizes.url is 'Where the reduced copy can be fetched';
comment on column pgtrain.image_sizes.created_at is 'When made';
comment on column pgtrain.image_sizes.updated_at is 'When last changed';

select pgtrain_private.protect_table('datasets', 'owner_id', 'datasets');
select pgtrain_private.protect_table('dataset_samples', 'owner_id', 'datasets');
select pgtrain_private.protect_table('favorites', 'user_id', 'users');
select pgtrain_private.protect_table('training_images', 'owner_id', 'training');
select pgtrain_private.protect_table('image_groups', 'owner_id', 'training');
select pgtrain_private.protect_table('image_sizes', 'owner_id', 'training');
create index favorites_entity_idx on pgtrain.favorites (entity, entity_id);

-- Public datasets are read by everybody who may read datasets at all. (Policies are tried in reverse order of their names: the
-- cheap one comes first.)
create policy public_read on pgtrain.datasets for select
    using (is_public and (select pgtrain.has_permission('read', 'datasets')));
create policy public_read on pgtrain.dataset_samples for select
    using (exists (select from pgtrain.datasets d where d.id = dataset_samples.dataset_id and d.is_public)
           and (select pgtrain.has_permission('read', 'datasets')));
create policy update_in_reach on pgtrain.datasets for update
    using (pgtrain_private.in_scope(owner_id, (select pgtrain_private.owner_scope('update', 'datasets'))));

create view pgtrain.user_training_datasets with (security_invoker, security_barrier) as
    select d.id, d.owner_id as user_id, d.name, d.description, d.type as dataset_type, d.file_path, d.sample_count, d.metadata,
           d.is_active, d.created_at, d.updated_at
      from pgtrain.datasets d
     where d.owner_id is not null;
comment on view pgtrain.user_training_datasets is 'Datasets that belong to a user';
