-- Billing: subscriptions, payments, and the events of payment services that were taken in. A user has at most one live subscription;
-- its plan gives him his limits. An event's row is written in the transaction that acts on it, so a second delivery finds it.

create type pgtrain.subscription_status as enum ('pending', 'trialing', 'active', 'past_due', 'cancelled', 'expired');
comment on type pgtrain.subscription_status is 'Life of a subscription';
create type pgtrain.payment_status as enum ('pending', 'completed', 'failed', 'partially_refunded', 'refunded', 'cancelled');
comment on type pgtrain.payment_status is 'Life of a payment';

create table pgtrain.user_subscriptions (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    subscription_id text not null,
    plan_id bigint not null references pgtrain.plans,
    status pgtrain.subscription_status not null,
    current_period_start timestamptz not null default now(),
    current_period_end timestamptz,
    period_anchor timestamptz not null default now(),
    trial_start timestamptz,
    trial_end timestamptz,
    cancel_at_period_end boolean not null default false,
    cancelled_at timestamptz,
    pending_plan_id bigint references pgtrain.plans,
    grace_until timestamptz,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index user_subscriptions_subscription_id_key on pgtrain.user_subscriptions ((subscription_id || ''));
create unique index user_subscriptions_live_key on pgtrain.user_subscriptions (user_id) where status in ('active', 'trialing', 'past_due');
create index user_subscriptions_user_id_idx on pgtrain.user_subscriptions (user_id);
create index user_subscriptions_plan_id_idx on pgtrain.user_subscriptions (plan_id);
create index user_subscriptions_pending_plan_id_idx on pgtrain.user_subscriptions (pending_plan_id) where pending_plan_id is not null;
-- What the scheduler looks at; the free plan has no end and is not in it.
create index user_subscriptions_due_idx on pgtrain.user_subscriptions (coalesce(grace_until, current_period_end))
    where status in ('pending', 'trialing', 'active', 'past_due') and coalesce(grace_until, current_period_end) is not null;
comment on table pgtrain.user_subscriptions is 'Subscriptions of users; at most one is live';
comment on column pgtrain.user_subscriptions.id is 'Key';
comment on column pgtrain.user_subscriptions.user_id is 'User';
comment on column pgtrain.user_subscriptions.subscription_id is 'Name at the payment service';
comment on column pgtrain.user_subscriptions.plan_id is 'Plan (plan_name, plan_type)';
comment on column pgtrain.user_subscriptions.status is 'Where it stands';
comment on column pgtrain.user_subscriptions.current_period_start is 'Start of the paid period';
comment on column pgtrain.user_subscriptions.current_period_end is 'End of the paid period, null for no end';
comment on column pgtrain.user_subscriptions.period_anchor is 'From when its periods are counted: from a 31st they end on the last of short months, and on the 31st of long ones';
comment on column pgtrain.user_subscriptions.trial_start is 'Start of the trial';
comment on column pgtrain.user_subscriptions.trial_end is 'End of the trial';
comment on column pgtrain.user_subscriptions.cancel_at_period_end is 'Ends with the period';
comment on column pgtrain.user_subscriptions.cancelled_at is 'When it was cancelled';
comment on column pgtrain.user_subscriptions.pending_plan_id is 'Plan to change to when the period ends';
comment on column pgtrain.user_subscriptions.grace_until is 'Until when a payment that failed is waited for';
comment on column pgtrain.user_subscriptions.metadata is 'Free attributes';
comment on column pgtrain.user_subscriptions.created_at is 'When made';
comment on column pgtrain.user_subscriptions.updated_at is 'When last changed';

create table pgtrain.payment_history (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete restrict,
    subscription_id bigint references pgtrain.user_subscriptions on delete set null,
    payment_intent_id text not null,
    amount bigint not null check (amount >= 0),
    refunded_amount bigint not null default 0 check (refunded_amount between 0 and amount),
    currency char(3) not null check (currency ~ '^[A-Z]{3}$'),
    status pgtrain.payment_status not null,
    payment_method text,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index payment_history_user_id_idx on pgtrain.payment_history (user_id);
create unique index payment_history_payment_intent_id_key on pgtrain.payment_history ((payment_intent_id || ''));
create index payment_history_subscription_id_idx on pgtrain.payment_history (subscription_id);
comment on table pgtrain.payment_history is 'Payments; a user who has paid is deactivated, not deleted';
comment on column pgtrain.payment_history.id is 'Key';
comment on column pgtrain.payment_history.user_id is 'User';
comment on column pgtrain.payment_history.subscription_id is 'Subscription it pays for';
comment on column pgtrain.payment_history.payment_intent_id is 'Name at the payment service; unique, so a replay is harmless';
comment on column pgtrain.payment_history.amount is 'Minor units of the currency';
comment on column pgtrain.payment_history.refunded_amount is 'The part of it that was given back';
comment on column pgtrain.payment_history.currency is 'ISO 4217 code';
comment on column pgtrain.payment_history.status is 'Where it stands';
comment on column pgtrain.payment_history.payment_method is 'How it was paid';
comment on column pgtrain.payment_history.metadata is 'Free attributes';
comment on column pgtrain.payment_history.created_at is 'When made';
comment on column pgtrain.payment_history.updated_at is 'When last changed';

create table pgtrain.billing_events (
    event_id text primary key check (length(event_id) between 1 and 255),
    user_id bigint not null,
    act text not null,
    arguments jsonb not null default '{}',
    result bigint,
    created_at timestamptz not null default clock_timestamp()
);
create index billing_events_user_id_idx on pgtrain.billing_events (user_id);
insert into pgtrain_private.hidden_columns values ('billing_events', 'event_id');
comment on table pgtrain.billing_events is 'Events of payment services that were acted on; a second delivery finds its row and changes nothing';
comment on column pgtrain.billing_events.event_id is 'Name of the event at the payment service';
comment on column pgtrain.billing_events.user_id is 'User; no foreign key, the record outlives the account';
comment on column pgtrain.billing_events.act is 'Function that was called';
comment on column pgtrain.billing_events.arguments is 'What it was called with; the same event with others is refused';
comment on column pgtrain.billing_events.result is 'What it returned, which a second delivery is given too';
comment on column pgtrain.billing_events.created_at is 'When';

select pgtrain_private.protect_table('user_subscriptions', 'user_id', 'billing');
select pgtrain_private.protect_table('payment_history', 'user_id', 'billing');
select pgtrain_private.protect_table('billing_events', 'user_id', 'billing');
