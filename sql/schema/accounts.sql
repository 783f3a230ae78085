-- Accounts: users, passwords, sessions, API keys. Proofs, invitations, outside identities and SSH keys: verifications.sql.
-- Nothing secret lies here in the clear: passwords as Argon2id strings, tokens and API keys as hashes.

create table pgtrain.users (
    id bigint generated always as identity primary key,
    username text not null check (username ~ '^[A-Za-z0-9][A-Za-z0-9._-]{1,63}$'),
    email text not null check (length(email) between 3 and 254 and email ~ '^[^@\s]+@[^@\s]+$'),
    name text,
    first_name text,
    last_name text,
    phone text,
    avatar_url text,
    is_active boolean not null default true,
    is_verified boolean not null default false,
    activated_at timestamptz,
    last_login_at timestamptz,
    failed_login_count integer not null default 0 check (failed_login_count >= 0),
    locked_until timestamptz,
    payment_customer_id text,
    trial_ends_at timestamptz,
    metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    db_role name unique,
    db_role_oid oid unique,
    check ((db_role is null) = (db_role_oid is null)),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index users_username_key on pgtrain.users (lower(username));
create unique index users_email_key on pgtrain.users (lower(email));
comment on table pgtrain.users is 'Accounts of people who use the platform';
comment on column pgtrain.users.id is 'Key';
comment on column pgtrain.users.username is 'Name to log in with, unique without regard to case';
comment on column pgtrain.users.email is 'Address to log in with, unique without regard to case';
comment on column pgtrain.users.name is 'Name to show';
comment on column pgtrain.users.first_name is 'First name';
comment on column pgtrain.users.last_name is 'Last name';
comment on column pgtrain.users.phone is 'Telephone number';
comment on column pgtrain.users.avatar_url is 'Picture';
comment on column pgtrain.users.is_active is 'False: cannot log in, sessions and rights are void at once';
comment on column pgtrain.users.is_verified is 'The e-mail address was proven';
comment on column pgtrain.users.activated_at is 'When the account was activated';
comment on column pgtrain.users.last_login_at is 'Last successful login';
comment on column pgtrain.users.failed_login_count is 'Failed logins since the last success';
comment on column pgtrain.users.locked_until is 'Logins are refused until then';
comment on column pgtrain.users.payment_customer_id is 'Customer at the payment service';
comment on column pgtrain.users.trial_ends_at is 'End of the trial';
comment on column pgtrain.users.metadata is 'Free attributes';
comment on column pgtrain.users.db_role is 'Database role that stands for this user without a token';
comment on column pgtrain.users.db_role_oid is 'Its number: a role that was renamed, or dropped and made again, no longer stands for the user';
comment on column pgtrain.users.created_at is 'When made';
comment on column pgtrain.users.updated_at is 'When last changed';

create table pgtrain.passwords (
    user_id bigint primary key references pgtrain.users on delete cascade,
    hash text not null check (hash like '$argon2id$%'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table pgtrain.passwords is 'Password of a user; absent for users who only log in through a connection';
comment on column pgtrain.passwords.user_id is 'User';
comment on column pgtrain.passwords.hash is 'Argon2id string with parameters and salt';
comment on column pgtrain.passwords.created_at is 'When made';
comment on column pgtrain.passwords.updated_at is 'When last changed';

create table pgtrain.sessions (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    token_hash bytea not null unique,
    refresh_token_hash bytea not null unique,
    refresh_family_hash bytea not null unique,
    expires_at timestamptz not null,
    refresh_expires_at timestamptz not null,
    absolute_expires_at timestamptz not null,
    last_accessed_at timestamptz not null default now(),
    ip_address inet,
    user_agent text,
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index sessions_user_id_idx on pgtrain.sessions (user_id);
comment on table pgtrain.sessions is 'Logins; the tokens are only known to the client';
comment on column pgtrain.sessions.id is 'Key';
comment on column pgtrain.sessions.user_id is 'User';
comment on column pgtrain.sessions.token_hash is 'Hash of the session token';
comment on column pgtrain.sessions.refresh_token_hash is 'Hash of the refresh token';
comment on column pgtrain.sessions.refresh_family_hash is 'Hash of the part that all refresh tokens of the session share, by which a used one is known again';
comment on column pgtrain.sessions.expires_at is 'End of the session token';
comment on column pgtrain.sessions.refresh_expires_at is 'End of the refresh token';
comment on column pgtrain.sessions.absolute_expires_at is 'End of the session however often it is refreshed';
comment on column pgtrain.sessions.last_accessed_at is 'Last use, to the minute';
comment on column pgtrain.sessions.ip_address is 'Address of the client that logged in, as its application said or the server saw it';
comment on column pgtrain.sessions.user_agent is 'What the client said it is';
comment on column pgtrain.sessions.is_active is 'False after logout or revocation';
comment on column pgtrain.sessions.created_at is 'When made';
comment on column pgtrain.sessions.updated_at is 'When last changed';

create table pgtrain.api_keys (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    name text not null check (length(name) between 1 and 100),
    hash bytea not null unique,
    prefix text not null,
    scopes text[] not null default '{}',
    last_used_at timestamptz,
    expires_at timestamptz,
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index api_keys_user_id_idx on pgtrain.api_keys (user_id);
comment on table pgtrain.api_keys is 'Long-lived keys of programs that act for a user';
comment on column pgtrain.api_keys.id is 'Key';
comment on column pgtrain.api_keys.user_id is 'User';
comment on column pgtrain.api_keys.name is 'Name to show';
comment on column pgtrain.api_keys.hash is 'Hash of the key; the random key needs no salt';
comment on column pgtrain.api_keys.prefix is 'First characters, to recognise it';
comment on column pgtrain.api_keys.scopes is 'What it is limited to, as action:entity (own rows) or action:entity:any; empty for the user''s rights but for acts on accounts';
comment on column pgtrain.api_keys.last_used_at is 'Last use, to the minute';
comment on column pgtrain.api_keys.expires_at is 'End, null for never';
comment on column pgtrain.api_keys.is_active is 'False after revocation';
comment on column pgtrain.api_keys.created_at is 'When made';
comment on column pgtrain.api_keys.updated_at is 'When last changed';

insert into pgtrain_private.hidden_columns values
    ('passwords', null), ('sessions', 'token_hash'), ('sessions', 'refresh_token_hash'), ('sessions', 'refresh_family_hash'),
    ('api_keys', 'hash');

select pgtrain_private.protect_table('users', 'id', 'users');
select pgtrain_private.protect_table('passwords', 'user_id', 'users');
select pgtrain_private.protect_table('sessions', 'user_id', 'users');
select pgtrain_private.protect_table('api_keys', 'user_id', 'users');
-- The columns of their own row that users may change with plain SQL are granted by grant_application.
create policy update_in_reach on pgtrain.users for update
    using (pgtrain_private.in_scope(id, (select pgtrain_private.owner_scope('update', 'users'))));

create trigger rights_changed after update of is_active, db_role, db_role_oid or delete on pgtrain.users
    for each statement execute function pgtrain_private.rights_changed();
create trigger rights_changed after update of is_active, expires_at or delete on pgtrain.sessions
    for each statement execute function pgtrain_private.rights_changed();
create trigger rights_changed_all after truncate on pgtrain.sessions
    for each statement execute function pgtrain_private.rights_changed();
create trigger rights_changed after update of is_active, expires_at, scopes or delete on pgtrain.api_keys
    for each statement execute function pgtrain_private.rights_changed();
create trigger rights_changed_all after truncate on pgtrain.api_keys
    for each statement execute function pgtrain_private.rights_changed();
