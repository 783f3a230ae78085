-- Secrets of users: named values that only C++ code of the server opens. Sealed under owner and name, so that bytes moved to another
-- row do not open.

create table pgtrain.secrets (
    id bigint generated always as identity primary key,
    owner_id bigint not null references pgtrain.users on delete cascade,
    name text not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$'),
    sealed bytea not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (owner_id, name)
);
comment on table pgtrain.secrets is 'Sealed values of users, such as keys of outside services; no SQL returns one';
comment on column pgtrain.secrets.id is 'Key';
comment on column pgtrain.secrets.owner_id is 'Whose it is';
comment on column pgtrain.secrets.name is 'Name, unique among those of the owner';
comment on column pgtrain.secrets.sealed is 'The sealed value';
comment on column pgtrain.secrets.created_at is 'When first stored';
comment on column pgtrain.secrets.updated_at is 'When last stored, or sealed anew by rotation';

insert into pgtrain_private.hidden_columns values ('secrets', 'sealed');
select pgtrain_private.protect_table('secrets', 'owner_id', 'secrets');
select pgtrain_private.register_sealed('secrets', 'sealed', '{owner_id,name}', 'owner_id', 'name');
-- The seeds of second factors; the other proofs are hashes.
select pgtrain_private.register_sealed('verifications', 'secret', '{owner_id,id}', 'owner_id', 'type', $$type = 'totp'$$);
