-- Verifications: proofs of addresses and second factors, invitations, identities at outside providers, SSH keys.
-- Nothing secret lies here in the clear: codes and tokens as hashes, seeds of one-time codes sealed.

create type pgtrain.verification_type as enum ('email', 'phone', 'password_reset', 'totp');
comment on type pgtrain.verification_type is 'What a verification proves or unlocks';

-- At most one of a kind is under way and one is proven for each user. A key on target and type alone would let one user void
-- another's proof by naming his address.
create table pgtrain.verifications (
    id bigint generated always as identity primary key,
    owner_id bigint not null references pgtrain.users on delete cascade,
    type pgtrain.verification_type not null,
    target text not null,
    secret bytea not null,
    algorithm text not null default 'SHA1',
    digits integer not null default 6 check (digits between 4 and 10),
    period_seconds integer not null default 30 check (period_seconds > 0),
    char_set text not null default '0123456789' check (length(char_set) >= 2),
    last_step bigint not null default -1,
    expires_at timestamptz,
    confirmed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index verifications_owner_id_idx on pgtrain.verifications (owner_id);
create unique index verifications_pending_key on pgtrain.verifications (owner_id, type) where confirmed_at is null;
create unique index verifications_confirmed_key on pgtrain.verifications (owner_id, type) where confirmed_at is not null;
create index verifications_reset_idx on pgtrain.verifications (secret) where type = 'password_reset';
comment on table pgtrain.verifications is 'Proofs under way (e-mail, telephone, password reset), proven telephones and second factors';
comment on column pgtrain.verifications.id is 'Key';
comment on column pgtrain.verifications.owner_id is 'User it belongs to';
comment on column pgtrain.verifications.type is 'Kind of proof';
comment on column pgtrain.verifications.target is 'Address, number or user it is about';
comment on column pgtrain.verifications.secret is 'Hash of a code or token (empty until it was sent), sealed seed of a second factor; never readable';
comment on column pgtrain.verifications.algorithm is 'Hash of the one-time code';
comment on column pgtrain.verifications.digits is 'Length of a code';
comment on column pgtrain.verifications.period_seconds is 'Time for which a one-time code stands';
comment on column pgtrain.verifications.char_set is 'Characters of a code';
comment on column pgtrain.verifications.last_step is 'Step of the last one-time code that was accepted; it and earlier ones are refused';
comment on column pgtrain.verifications.expires_at is 'End, null for never';
comment on column pgtrain.verifications.confirmed_at is 'When it was proven, null while it is under way';
comment on column pgtrain.verifications.created_at is 'When made';
comment on column pgtrain.verifications.updated_at is 'When last changed';

-- A row a wrong code, not a counter: nobody who leaves his transaction open keeps others waiting.
create table pgtrain_private.wrong_codes (
    verification_id bigint not null references pgtrain.verifications on delete cascade,
    created_at timestamptz not null default clock_timestamp()
);
create index wrong_codes_verification_id_idx on pgtrain_private.wrong_codes (verification_id);
comment on table pgtrain_private.wrong_codes is 'Wrong codes that were given for a verification; too many void its code';
comment on column pgtrain_private.wrong_codes.verification_id is 'Verification';
comment on column pgtrain_private.wrong_codes.created_at is 'When';

create table pgtrain.recovery_codes (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    code_hash bytea not null,
    used_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, code_hash)
);
comment on table pgtrain.recovery_codes is 'Codes that stand for the second factor once each, for who has lost it';
comment on column pgtrain.recovery_codes.id is 'Key';
comment on column pgtrain.recovery_codes.user_id is 'User';
comment on column pgtrain.recovery_codes.code_hash is 'Hash of the code';
comment on column pgtrain.recovery_codes.used_at is 'When it was used, null for not yet';
comment on column pgtrain.recovery_codes.created_at is 'When made';
comment on column pgtrain.recovery_codes.updated_at is 'When last changed';

create table pgtrain.connections (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    provider_name text not null,
    provider_id text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index connections_provider_name_provider_id_key on pgtrain.connections ((provider_name || ''), (provider_id || ''));
create index connections_user_id_idx on pgtrain.connections (user_id);
comment on table pgtrain.connections is 'Identities at outside login providers';
comment on column pgtrain.connections.id is 'Key';
comment on column pgtrain.connections.user_id is 'User';
comment on column pgtrain.connections.provider_name is 'Provider';
comment on column pgtrain.connections.provider_id is 'Identity there';
comment on column pgtrain.connections.created_at is 'When made';
comment on column pgtrain.connections.updated_at is 'When last changed';

create table pgtrain.connection_roles (
    id bigint generated always as identity primary key,
    provider_name text not null,
    db_role name not null,
    db_role_oid oid not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (provider_name, db_role)
);
comment on table pgtrain.connection_roles is 'Database roles that may say who somebody is at an outside login provider';
comment on column pgtrain.connection_roles.id is 'Key';
comment on column pgtrain.connection_roles.provider_name is 'Provider';
comment on column pgtrain.connection_roles.db_role is 'Database role that logs in to the server, not one that is taken by SET ROLE';
comment on column pgtrain.connection_roles.db_role_oid is 'Its number: a role that was dropped and made again is not trusted';
comment on column pgtrain.connection_roles.created_at is 'When made';
comment on column pgtrain.connection_roles.updated_at is 'When last changed';

create table pgtrain.invites (
    id bigint generated always as identity primary key,
    code_hash bytea not null unique,
    owner_id bigint references pgtrain.users on delete cascade,
    email text,
    role_name text,
    sent_at timestamptz,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index invites_owner_id_idx on pgtrain.invites (owner_id);
comment on table pgtrain.invites is 'Invitations, used up by one registration';
comment on column pgtrain.invites.id is 'Key';
comment on column pgtrain.invites.code_hash is 'Hash of the code';
comment on column pgtrain.invites.owner_id is 'Who invited, null for the server; void when he may no longer';
comment on column pgtrain.invites.email is 'Only for this address, if given';
comment on column pgtrain.invites.role_name is 'Role the new user gets besides user';
comment on column pgtrain.invites.sent_at is 'When the code was made for a message to the address, which told it to nobody else: whoever has it owns the address';
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

-- A user who has paid is not deleted but made nameless.
alter table pgtrain.users add column deleted_at timestamptz;
comment on column pgtrain.users.deleted_at is 'When the user was deleted; only his payments are kept';

insert into pgtrain_private.hidden_columns values ('verifications', 'secret'), ('recovery_codes', 'code_hash'), ('invites', 'code_hash');

select pgtrain_private.protect_table('verifications', 'owner_id', 'users');
select pgtrain_private.protect_table('recovery_codes', 'user_id', 'users');
select pgtrain_private.protect_table('connections', 'user_id', 'users');
select pgtrain_private.protect_table('connection_roles', null, null);
select pgtrain_private.protect_table('invites', 'owner_id', 'invites');
select pgtrain_private.protect_table('ssh_keys', 'user_id', 'users');
alter table pgtrain.connection_roles enable row level security;
alter table pgtrain.connection_roles force row level security;
create policy read_in_reach on pgtrain.connection_roles for select
    using (pgtrain_private.in_scope(0, (select pgtrain_private.owner_scope('read', 'admin'))));
comment on policy read_in_reach on pgtrain.connection_roles is 'Who may read administration';

create function pgtrain_private.void_resets() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_table_name = 'passwords' then
        delete from pgtrain.verifications v where v.owner_id = new.user_id and v.type = 'password_reset';
    else
        delete from pgtrain.verifications v where v.owner_id = new.id and v.type = 'password_reset';
    end if;
    return null;
end $$;
comment on function pgtrain_private.void_resets() is 'Row trigger: with another password or address, a reset that was sent before is void';
create trigger void_resets after insert or update of hash on pgtrain.passwords
    for each row execute function pgtrain_private.void_resets();
create trigger void_resets after update of email on pgtrain.users
    for each row when (old.email is distinct from new.email) execute function pgtrain_private.void_resets();
