-- Foundation: the two schemas, what every table needs (times, append-only guard, row-security predicates), and the two logs.
-- Everything here runs once. PUBLIC gets nothing anywhere; pgtrain.grant_application gives an application role its rights.

do $$
begin
    if current_setting('server_version_num')::integer < 150000 then
        raise exception using errcode = '0A000', message = 'pgtrain needs PostgreSQL 15 or later',
            detail = 'Its views keep the rights of their caller (security_invoker), which earlier servers lack.';
    end if;
    -- Models write UTF-8; a database of another encoding could not store what they say.
    if getdatabaseencoding() <> 'UTF8' then
        raise exception using errcode = '0A000', message = format('pgtrain needs a database of encoding UTF8, this one has %s', getdatabaseencoding()),
            hint = 'Create the database with ENCODING ''UTF8'' TEMPLATE template0.';
    end if;
end $$;

create schema pgtrain;
comment on schema pgtrain is 'Model training platform: public tables, views and functions';
create schema pgtrain_private;
comment on schema pgtrain_private is 'Internals of pgtrain: nothing here is for applications';
revoke all on schema pgtrain, pgtrain_private from public;

-- The table that is invalidated whenever rights or sessions change; see src/pg/rbac/generation.cpp.
create table pgtrain_private.rights_marker ();
comment on table pgtrain_private.rights_marker is 'Empty; its cache invalidation tells every session that rights or sessions changed';

-- Columns that no application role may read even from its own rows. grant_application leaves them out.
create table pgtrain_private.hidden_columns (
    table_name name not null,
    column_name name,
    unique (table_name, column_name)
);
comment on table pgtrain_private.hidden_columns is 'Columns (null: whole tables) of schema pgtrain that applications may not read';
comment on column pgtrain_private.hidden_columns.table_name is 'Table in schema pgtrain';
comment on column pgtrain_private.hidden_columns.column_name is 'Column of it, null for all';

-- Columns that applications may change with plain SQL in rows that their policies let them update.
create table pgtrain_private.writable_columns (
    table_name name not null,
    column_name name not null,
    primary key (table_name, column_name)
);
comment on table pgtrain_private.writable_columns is 'Columns of schema pgtrain that applications may update directly; everything else goes through functions';
comment on column pgtrain_private.writable_columns.table_name is 'Table in schema pgtrain';
comment on column pgtrain_private.writable_columns.column_name is 'Column of it';

create function pgtrain_private.touch_updated_at() returns trigger
    language c as 'MODULE_PATHNAME', 'pgtrain_touch_updated_at';
comment on function pgtrain_private.touch_updated_at() is 'Row trigger before update: sets updated_at to the time of the transaction';

create function pgtrain_private.refuse_change() returns trigger
    language c as 'MODULE_PATHNAME', 'pgtrain_refuse_change';
comment on function pgtrain_private.refuse_change() is 'Trigger of append-only tables: refuses update, delete and truncate for everyone';

create function pgtrain_private.rights_changed() returns trigger
    language c as 'MODULE_PATHNAME', 'pgtrain_rights_changed';
comment on function pgtrain_private.rights_changed() is 'Statement trigger: makes every session read identity and rights again';

-- Identity and row security. owner_scope is evaluated once a statement (in a sub-select); in_scope is the predicate of a row and
-- tells the planner that it can use an index on the owner (its support function).
create function pgtrain.current_user_id() returns bigint
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_current_user_id';
comment on function pgtrain.current_user_id() is 'The user whose verified token is in force, null for nobody';

create function pgtrain.has_permission(action text, entity text, access text default 'own') returns boolean
    language c stable strict parallel restricted as 'MODULE_PATHNAME', 'pgtrain_has_permission';
comment on function pgtrain.has_permission(text, text, text) is 'Whether the caller may do ACTION on ENTITY: on own rows (access own) or on rows of anybody (any)';

create function pgtrain_private.owner_scope(action text, entity text) returns bigint
    language c stable strict parallel restricted as 'MODULE_PATHNAME', 'pgtrain_owner_scope';
comment on function pgtrain_private.owner_scope(text, text) is 'Whose rows the caller may reach: a user id, -1 for everybody''s, null for none';

create function pgtrain_private.scope_low_support(internal) returns internal
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'pgtrain_scope_low_support';
comment on function pgtrain_private.scope_low_support(internal) is 'Planner support of scope_low: what it will probably be';

create function pgtrain_private.scope_low(scope bigint) returns bigint
    language c immutable strict parallel safe leakproof support pgtrain_private.scope_low_support as 'MODULE_PATHNAME', 'pgtrain_scope_low';
comment on function pgtrain_private.scope_low(bigint) is 'Lowest owner within a scope, for index conditions';

create function pgtrain_private.scope_high_support(internal) returns internal
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'pgtrain_scope_high_support';
comment on function pgtrain_private.scope_high_support(internal) is 'Planner support of scope_high: what it will probably be';

create function pgtrain_private.scope_high(scope bigint) returns bigint
    language c immutable strict parallel safe leakproof support pgtrain_private.scope_high_support as 'MODULE_PATHNAME', 'pgtrain_scope_high';
comment on function pgtrain_private.scope_high(bigint) is 'Highest owner within a scope, for index conditions';

create function pgtrain_private.in_scope_support(internal) returns internal
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'pgtrain_in_scope_support';
comment on function pgtrain_private.in_scope_support(internal) is 'Planner support of in_scope: index conditions, selectivity and cost';

create function pgtrain_private.in_scope(owner_id bigint, scope bigint) returns boolean
    language c immutable strict parallel safe leakproof support pgtrain_private.in_scope_support
    as 'MODULE_PATHNAME', 'pgtrain_in_scope';
comment on function pgtrain_private.in_scope(bigint, bigint) is 'Row predicate of all policies: whether an owner lies within a scope of owner_scope';

create function pgtrain_private.may_access(owner bigint, action text, entity text) returns boolean
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_may_access';
comment on function pgtrain_private.may_access(bigint, text, text) is 'Whether the caller may do ACTION on ENTITY of this owner; for checks of single things';

-- The migration log of the install and update scripts.
create type pgtrain.migration_status as enum ('completed', 'failed');
comment on type pgtrain.migration_status is 'Outcome of an install or update script';

create table pgtrain.migration_log (
    id bigint generated always as identity primary key,
    migration_name text not null,
    executed_at timestamptz not null default clock_timestamp(),
    status pgtrain.migration_status not null
);
comment on table pgtrain.migration_log is 'Install and update scripts of the extension that ran in this database';
comment on column pgtrain.migration_log.id is 'Key';
comment on column pgtrain.migration_log.migration_name is 'Script, as FROM--TO or the installed version';
comment on column pgtrain.migration_log.executed_at is 'When it ran';
comment on column pgtrain.migration_log.status is 'How it ended';
insert into pgtrain.migration_log (migration_name, status) values ('0.1.0', 'completed');

-- Who did what. The actor is no foreign key: the log outlives the account.
create table pgtrain_private.urgent_acts ();
comment on table pgtrain_private.urgent_acts is 'Empty: a transaction that locks it must not be kept waiting (be_urgent)';

create table pgtrain.audit_log (
    id bigint generated always as identity primary key,
    title text not null,
    description text,
    actor_id bigint,
    api_key_id bigint,
    db_role name not null default session_user,
    host text,
    ip inet,
    subject jsonb not null default '{}',
    created_at timestamptz not null default clock_timestamp()
);
create index audit_log_actor_id_idx on pgtrain.audit_log (coalesce(actor_id, 0), id);
comment on table pgtrain.audit_log is 'Append-only record of acts that matter: who did what to what, when and from where';
comment on column pgtrain.audit_log.id is 'Key';
comment on column pgtrain.audit_log.title is 'The act, as one short name';
comment on column pgtrain.audit_log.description is 'The act in words';
comment on column pgtrain.audit_log.actor_id is 'User who did it, null for nobody or the server';
comment on column pgtrain.audit_log.api_key_id is 'Key of his that he did it with, null for none';
comment on column pgtrain.audit_log.db_role is 'Database role of the session';
comment on column pgtrain.audit_log.host is 'Host the act concerns or whose connection it came over, null for a local one';
comment on column pgtrain.audit_log.ip is 'Address of the user as the application told at his login, else of the connection';
comment on column pgtrain.audit_log.subject is 'What it was done to';
comment on column pgtrain.audit_log.created_at is 'When';
create trigger refuse_change before update or delete or truncate on pgtrain.audit_log
    for each statement execute function pgtrain_private.refuse_change();
alter table pgtrain.audit_log enable always trigger refuse_change;
-- Guarded text. A comparison of text is leak-proof for the server, so a caller's own condition on an indexed column may be looked up
-- before the policy is asked, and what EXPLAIN ANALYZE or pg_stat_xact count of the rows then passed over would spell out others' names.
-- So text is indexed as `name || ''` (no leak-proof expression) unless one policy bounds the owner column that the index begins with;
-- test/sql/rights.sql finds indexes that do not.
create function pgtrain_private.protect_table(table_name name, owner_column name, entity text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- owner_column null: no row belongs to anybody, everyone may read (catalogues). Needs no updated_at column to exist.
    if exists (select from pg_attribute where attrelid = format('pgtrain.%I', table_name)::regclass and attname = 'updated_at') then
        execute format('create trigger touch_updated_at before update on pgtrain.%I for each row execute function pgtrain_private.touch_updated_at()', table_name);
    end if;
    perform pg_extension_config_dump(format('pgtrain.%I', table_name)::regclass, '');
    perform pg_extension_config_dump(pg_get_serial_sequence(format('pgtrain.%I', table_name), attname)::regclass, '')
       from pg_attribute
      where attrelid = format('pgtrain.%I', table_name)::regclass and attidentity <> '' and not attisdropped;
    if owner_column is null then
        return;
    end if;
    execute format('alter table pgtrain.%I enable row level security', table_name);
    execute format('alter table pgtrain.%I force row level security', table_name);
    execute format('create policy read_in_reach on pgtrain.%I for select using (pgtrain_private.in_scope(%I, (select pgtrain_private.owner_scope(''read'', %L))))',
                   table_name, owner_column, entity);
end $$;
comment on function pgtrain_private.protect_table(name, name, text) is 'For install and update scripts: updated_at trigger, forced row security with the read policy, dump of the rows';

create function pgtrain_private.merge_seed() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    key_clause text;
    set_clause text;
    touched bigint;
begin
    -- A restored dump brings the rows that the install script has seeded already: the dump's version wins. TG_ARGV = key columns.
    select string_agg(format('t.%1$I = ($1).%1$I', k), ' and ') into key_clause from unnest(tg_argv) k;
    select string_agg(format('%1$I = ($1).%1$I', a.attname), ', ') into set_clause
      from pg_attribute a
     where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and a.attgenerated = ''
       and a.attname <> all (tg_argv);
    execute format('update %s t set %s where %s', tg_relid::regclass, set_clause, key_clause) using new;
    get diagnostics touched = row_count;
    if touched > 0 then
        return null;
    end if;
    return new;
end $$;
comment on function pgtrain_private.merge_seed() is 'Row trigger before insert on seeded tables: an existing row of the same key is updated instead';

select pgtrain_private.protect_table('audit_log', null, null);
alter table pgtrain.audit_log enable row level security;
alter table pgtrain.audit_log force row level security;
create policy read_in_reach on pgtrain.audit_log for select
    using (pgtrain_private.in_scope(coalesce(actor_id, 0), (select pgtrain_private.owner_scope('read', 'audit'))));
comment on policy read_in_reach on pgtrain.audit_log is 'Users see what they did; who may read anybody''s log sees all of it, also what nobody did';
