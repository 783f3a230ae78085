-- Limits: plans and what they allow, each user's limits, and the ledger of use. Two kinds of limit: counters, which start again
-- with a period, and gauges, which say how much there is now (concurrent_runs, storage_bytes, instances, compute_nodes).
-- The ledger is append-only; for each user and resource the sum of its amounts is used_value at any moment, because both are
-- written by one statement (pgtrain_private.book_usage, hold_usage, move_gauge and submit_run).

create type pgtrain.resource_type as enum ('training_jobs', 'training_tokens', 'gpu_seconds', 'provider_tokens', 'api_calls',
    'concurrent_runs', 'instances', 'compute_nodes', 'storage_bytes');
comment on type pgtrain.resource_type is 'What is limited, in the order in which counters are locked; concurrent_runs, instances and compute_nodes are counted from the rows there are and have no ledger';
create type pgtrain.reset_period as enum ('never', 'hourly', 'daily', 'weekly', 'monthly', 'yearly');
comment on type pgtrain.reset_period is 'How often a counter starts again; never for gauges';
create type pgtrain.reset_mode as enum ('calendar', 'rolling');
comment on type pgtrain.reset_mode is 'calendar: periods of the calendar in the user''s time zone; rolling: a period begins with the first use';
create type pgtrain.plan_type as enum ('free', 'paid', 'enterprise');
comment on type pgtrain.plan_type is 'Kind of plan';
create type pgtrain.usage_kind as enum ('hold', 'charge', 'release', 'refund', 'reset');
comment on type pgtrain.usage_kind is 'hold reserves, charge is used for good, release gives a hold back, refund gives a charge back, reset starts a period';

create table pgtrain.plans (
    id bigint generated always as identity (start with 1000) primary key,
    name text not null unique check (name ~ '^[a-z][a-z0-9_]{1,62}$'),
    display_name text not null,
    type pgtrain.plan_type not null,
    description text not null default '',
    price_amount bigint not null default 0 check (price_amount >= 0),
    currency char(3) not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    billing_period pgtrain.reset_period not null default 'monthly',
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table pgtrain.plans is 'What users can subscribe to';
comment on column pgtrain.plans.id is 'Key';
comment on column pgtrain.plans.name is 'Unique name (plan_name)';
comment on column pgtrain.plans.display_name is 'Name to show';
comment on column pgtrain.plans.type is 'Kind (plan_type)';
comment on column pgtrain.plans.description is 'In words';
comment on column pgtrain.plans.price_amount is 'Price of a period in minor units of the currency';
comment on column pgtrain.plans.currency is 'ISO 4217 code';
comment on column pgtrain.plans.billing_period is 'Period of the price';
comment on column pgtrain.plans.is_active is 'Can be subscribed to';
comment on column pgtrain.plans.created_at is 'When made';
comment on column pgtrain.plans.updated_at is 'When last changed';

create table pgtrain.plan_limits (
    id bigint generated always as identity (start with 1000) primary key,
    plan_id bigint not null references pgtrain.plans on delete cascade,
    resource_type pgtrain.resource_type not null,
    limit_value bigint not null check (limit_value >= -1),
    reset_period pgtrain.reset_period not null,
    reset_mode pgtrain.reset_mode not null default 'calendar',
    warn_share double precision default 0.8 check (warn_share > 0 and warn_share <= 1),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (plan_id, resource_type)
);
comment on table pgtrain.plan_limits is 'How much a plan allows';
comment on column pgtrain.plan_limits.id is 'Key';
comment on column pgtrain.plan_limits.plan_id is 'Plan';
comment on column pgtrain.plan_limits.resource_type is 'Resource';
comment on column pgtrain.plan_limits.limit_value is 'How much in a period, -1 = unlimited';
comment on column pgtrain.plan_limits.reset_period is 'When the counter starts again';
comment on column pgtrain.plan_limits.reset_mode is 'When a period begins';
comment on column pgtrain.plan_limits.warn_share is 'Share of the limit at which its user is warned, null for never';
comment on column pgtrain.plan_limits.created_at is 'When made';
comment on column pgtrain.plan_limits.updated_at is 'When last changed';

-- No check constraints on these two: the server reads each anew for every statement, and a table that has any is not written without
-- a plan (src/pg/call/hot_table.hpp). The functions that write them check, and pgtrain_private.check_ledger() finds what is wrong.
create table pgtrain.user_usage_limits (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    resource_type pgtrain.resource_type not null,
    limit_value bigint not null,
    used_value bigint not null default 0,
    held_value bigint not null default 0,
    reset_period pgtrain.reset_period not null,
    reset_mode pgtrain.reset_mode not null default 'calendar',
    reset_at timestamptz,
    warn_share double precision default 0.8,
    warned_at timestamptz,
    is_custom boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, resource_type)
) with (fillfactor = 50);
comment on table pgtrain.user_usage_limits is 'What each user may use and has used (held and charged) in the period';
comment on column pgtrain.user_usage_limits.id is 'Key';
comment on column pgtrain.user_usage_limits.user_id is 'User';
comment on column pgtrain.user_usage_limits.resource_type is 'Resource';
comment on column pgtrain.user_usage_limits.limit_value is 'How much in a period, -1 = unlimited';
comment on column pgtrain.user_usage_limits.used_value is 'Sum of the ledger: held plus charged in this period';
comment on column pgtrain.user_usage_limits.held_value is 'The part of used_value that is only held by runs under way';
comment on column pgtrain.user_usage_limits.reset_period is 'When the counter starts again';
comment on column pgtrain.user_usage_limits.reset_mode is 'When a period begins';
comment on column pgtrain.user_usage_limits.reset_at is 'Next start, null for never, -infinity for a rolling period that begins with the next use';
comment on column pgtrain.user_usage_limits.warn_share is 'Share of the limit at which the user is warned, null for never';
comment on column pgtrain.user_usage_limits.warned_at is 'When he was warned in this period';
comment on column pgtrain.user_usage_limits.is_custom is 'Set for this user; a change of plan leaves it';
comment on column pgtrain.user_usage_limits.created_at is 'When made';
comment on column pgtrain.user_usage_limits.updated_at is 'When last changed';

create table pgtrain.user_time_zones (
    user_id bigint primary key references pgtrain.users on delete cascade,
    time_zone text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table pgtrain.user_time_zones is 'Users whose days and months begin in another time zone than that of pgtrain.limits_time_zone';
comment on column pgtrain.user_time_zones.user_id is 'User';
comment on column pgtrain.user_time_zones.time_zone is 'Name of the time zone';
comment on column pgtrain.user_time_zones.created_at is 'When made';
comment on column pgtrain.user_time_zones.updated_at is 'When last changed';

create table pgtrain.usage_entries (
    id bigint generated always as identity primary key,
    user_id bigint not null,
    resource_type pgtrain.resource_type not null,
    kind pgtrain.usage_kind not null,
    amount bigint not null,
    run_id bigint,
    created_at timestamptz not null default now()
);
create index usage_entries_user_id_idx on pgtrain.usage_entries (user_id, resource_type);
create index usage_entries_run_id_idx on pgtrain.usage_entries (run_id) where run_id is not null;
comment on table pgtrain.usage_entries is 'Append-only ledger of use; the sum of amounts of a user and resource is his used_value';
comment on column pgtrain.usage_entries.id is 'Key';
comment on column pgtrain.usage_entries.user_id is 'User; no foreign key, the ledger outlives the account';
comment on column pgtrain.usage_entries.resource_type is 'Resource';
comment on column pgtrain.usage_entries.kind is 'What happened';
comment on column pgtrain.usage_entries.amount is 'Change of used_value';
comment on column pgtrain.usage_entries.run_id is 'Run it is about';
comment on column pgtrain.usage_entries.created_at is 'When';
create trigger refuse_change before update or delete or truncate on pgtrain.usage_entries
    for each statement execute function pgtrain_private.refuse_change();
alter table pgtrain.usage_entries enable always trigger refuse_change;

insert into pgtrain.plans (id, name, display_name, type, description, price_amount) overriding system value values
    (1, 'free', 'Free', 'free', 'To try it', 0),
    (2, 'premium', 'Premium', 'paid', 'For regular use', 2999),
    (3, 'enterprise', 'Enterprise', 'enterprise', 'Without limits where that is possible', 9999);
insert into pgtrain.plan_limits (id, plan_id, resource_type, limit_value, reset_period) overriding system value values
    (1, 1, 'training_jobs', 5, 'monthly'), (2, 2, 'training_jobs', 50, 'monthly'), (3, 3, 'training_jobs', -1, 'monthly'),
    (4, 1, 'training_tokens', 1000000000, 'monthly'), (5, 2, 'training_tokens', 20000000000, 'monthly'), (6, 3, 'training_tokens', -1, 'monthly'),
    (7, 1, 'api_calls', 1000, 'monthly'), (8, 2, 'api_calls', 10000, 'monthly'), (9, 3, 'api_calls', -1, 'monthly'),
    (10, 1, 'storage_bytes', 1073741824, 'never'), (11, 2, 'storage_bytes', 10737418240, 'never'), (12, 3, 'storage_bytes', 107374182400, 'never'),
    (13, 1, 'instances', 10, 'never'), (14, 2, 'instances', 50, 'never'), (15, 3, 'instances', -1, 'never'),
    (16, 1, 'compute_nodes', 3, 'never'), (17, 2, 'compute_nodes', 10, 'never'), (18, 3, 'compute_nodes', -1, 'never'),
    (19, 1, 'concurrent_runs', 2, 'never'), (20, 2, 'concurrent_runs', 10, 'never'), (21, 3, 'concurrent_runs', -1, 'never'),
    (22, 1, 'gpu_seconds', 36000, 'monthly'), (23, 2, 'gpu_seconds', 720000, 'monthly'), (24, 3, 'gpu_seconds', -1, 'monthly'),
    (25, 1, 'provider_tokens', 100000, 'monthly'), (26, 2, 'provider_tokens', 5000000, 'monthly'), (27, 3, 'provider_tokens', -1, 'monthly');
create trigger merge_seed before insert on pgtrain.plans for each row execute function pgtrain_private.merge_seed('id');
create trigger merge_seed before insert on pgtrain.plan_limits for each row execute function pgtrain_private.merge_seed('id');

select pgtrain_private.protect_table('plans', null, null);
select pgtrain_private.protect_table('plan_limits', null, null);
select pgtrain_private.protect_table('user_usage_limits', 'user_id', 'limits');
-- A trigger before each row would lock the counter in a step of its own; whoever moves one sets updated_at.
drop trigger touch_updated_at on pgtrain.user_usage_limits;
select pgtrain_private.protect_table('user_time_zones', 'user_id', 'limits');
select pgtrain_private.protect_table('usage_entries', 'user_id', 'limits');
