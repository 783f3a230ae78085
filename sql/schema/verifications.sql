-- Verifications: proofs of addresses and second factors, invitations, identities at outside providers, SSH keys.
-- Nothing secret lies here in the clear: codes and tokens as hashes, seeds of one-time codes sealed.

create type pgtrain.verification_type as enum ('email', 'phone', 'password_reset', 'totp', 'login');
comment on type pgtrain.verification_type is 'What a verification proves or unlocks';

create table pgtrain.verifications (
    id bigint generated always as identity primary key,
    owner_id bigint references pgtrain.users on delete cascade,
    type pgtrain.verification_type not null,
    target text not null,
    secret bytea not null,
    algorithm text not null default 'SHA1',
    digits integer not null default 6 check (digits between 4 and 10),
    period_seconds integer not null default 30 check (period_seconds > 0),
    char_set text not null default '0123456789' check (length(char_set) >= 2),
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (target, type)
);
create index verifications_owner_id_idx on pgtrain.verifications (owner_id);
comment on table pgtrain.verifications is 'Proofs under way (e-mail, telephone, reset) and second factors';
comment on column pgtrain.verifications.id is 'Key';
comment on column pgtrain.verifications.owner_id is 'User it belongs to';
comment on column pgtrain.verifications.type is 'Kind of proof';
comment on column pgtrain.verifications.target is 'Address, number or user it is about';
comment on column pgtrain.verifications.secret is 'Sealed secret; never readable';
comment on column pgtrain.verifications.algorithm is 'Hash of the one-time code';
comment on column pgtrain.verifications.digits is 'Length of a code';
comment on column pgtrain.verifications.period_seconds is 'Time a code is valid';
comment on column pgtrain.verifications.char_set is 'Characters of a code';
comment on column pgtrain.verifications.expires_at is 'End, null for never';
comment on column pgtrain.verifications.created_at is 'When made';
comment on column pgtrain.verifications.updated_at is 'When last changed';

create table pgtrain.connections (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    provider_name text not null,
    provider_id text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (provider_name, provider_id)
);
create index connections_user_id_idx on pgtrain.connections (user_id);
comment on table pgtrain.connections is 'Identities at outside login providers';
comment on column pgtrain.connections.id is 'Key';
comment on column pgtrain.connections.user_id is 'User';
comment on column pgtrain.connections.provider_name is 'Provider';
comment on column pgtrain.connections.provider_id is 'Identity there';
comment on column pgtrain.connections.created_at is 'When made';
comment on column pgtrain.connections.updated_at is 'When last changed';

create table pgtrain.invites (
    id bigint generated always as identity primary key,
    code_hash bytea not null unique,
    owner_id bigint references pgtrain.users on delete set null,
    email text,
    role_name text,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index invites_owner_id_idx on pgtrain.invites (owner_id);
comment on table pgtrain.invites is 'Invitations, used up by one registration';
comment on column pgtrain.invites.id is 'Key';
comment on column pgtrain.invites.code_hash is 'Hash of the code';
comment on column pgtrain.invites.owner_id is 'Who invited';
comment on column pgtrain.invites.email is 'Only for this address, if given';
comment on column pgtrain.invites.role_name is 'Role the new user gets besides user';
comment on column pgtrain.invites.expires_at is 'End, null for never';
comment on column pgtrain.invites.created_at is 'When made';
comment on column pgtrain.invites.updated_at is 'When last changed';

create table pgtrain.ssh_keys (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    name text not null check (length(name) between 1 and 100),
    key text not null check (length(key) between 1 and 16384),
    key_type text not null,
    fingerprint text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, fingerprint)
);
comment on table pgtrain.ssh_keys is 'Public keys that users put on their instances';
comment on column pgtrain.ssh_keys.id is 'Key';
comment on column pgtrain.ssh_keys.user_id is 'User';
comment on column pgtrain.ssh_keys.name is 'Name to show';
comment on column pgtrain.ssh_keys.key is 'Public key in authorized_keys form';
comment on column pgtrain.ssh_keys.key_type is 'Algorithm';
comment on column pgtrain.ssh_keys.fingerprint is 'SHA256 fingerprint';
comment on column pgtrain.ssh_keys.created_at is 'When made';
comment on column pgtrain.ssh_keys.updated_at is 'When last changed';

insert into pgtrain_private.hidden_columns values ('verifications', 'secret'), ('invites', 'code_hash');

select pgtrain_private.protect_table('verifications', 'owner_id', 'users');
select pgtrain_private.protect_table('connections', 'user_id', 'users');
select pgtrain_private.protect_table('invites', 'owner_id', 'users');
select pgtrain_private.protect_table('ssh_keys', 'user_id', 'users');
