-- Billing, functions: subscriptions; payments and plans are in payments.sql. What a payment service's webhook calls takes the event's id and does its work
-- once, however often it comes. The platform trusts who may update the billing of anybody: it does not ask the service again.
-- Every act locks the user's row first, so that acts for one user come one after the other; then his subscriptions, then counters.
-- Over 400 lines because each act is one function that can be read from its check of rights to its audit line.

create or replace function pgtrain_private.payment_grace() returns integer
    language c stable as 'MODULE_PATHNAME', 'pgtrain_payment_grace';
comment on function pgtrain_private.payment_grace() is 'pgtrain.payment_grace, in days';

-- ---------------------------------------------------------------- who and what

create or replace function pgtrain_private.require_billing_right(what text, user_id bigint, is_own_enough boolean) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable(what);
    if pgtrain_private.require_permission('update', 'billing') <> 'any'
       and not coalesce(is_own_enough and require_billing_right.user_id = pgtrain.current_user_id(), false) then
        raise exception using errcode = '42501', message = format('permission denied to call %s for this', what),
            detail = 'A user may take a free plan, a smaller plan at the end of his period, and cancel; all else needs the permission to update the billing of anybody.';
    end if;
end $$;
comment on function pgtrain_private.require_billing_right(text, bigint, boolean) is 'Refuses who may not update the billing of anybody, nor his own where that is enough';

create or replace function pgtrain_private.find_plan(plan text) returns pgtrain.plans
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    found_plan pgtrain.plans;
begin
    select * into found_plan from pgtrain.plans p where p.name = find_plan.plan;
    if not found then
        raise exception using errcode = 'PT404', message = format('plan "%s" does not exist', plan),
            detail = format('Plans: %s.', (select string_agg(p.name, ', ' order by p.id) from pgtrain.plans p));
    end if;
    return found_plan;
end $$;
comment on function pgtrain_private.find_plan(text) is 'A plan by name, or an error naming those there are';

create or replace function pgtrain_private.plan_period(plan pgtrain.plans) returns interval
    language sql immutable set search_path = pg_catalog, pg_temp as $$
    select case plan.billing_period when 'hourly' then interval '1 hour' when 'daily' then interval '1 day' when 'weekly' then interval '7 days'
                                    when 'monthly' then interval '1 month' when 'yearly' then interval '1 year' end
$$;
comment on function pgtrain_private.plan_period(pgtrain.plans) is 'Length of a paid period of a plan, null for one without end';

-- Counted from the anchor each time, because a month after a 28th is a 28th. In UTC, whatever the time zone of the session.
create or replace function pgtrain_private.next_period_end(anchor timestamptz, plan pgtrain.plans, after timestamptz) returns timestamptz
    language sql immutable set search_path = pg_catalog, pg_temp as $$
    with span as (
        select s as length, (12 * extract(year from s) + extract(month from s))::integer as months, anchor at time zone 'UTC' as begun, after at time zone 'UTC' as passed
          from pgtrain_private.plan_period(plan) s),
    about as (
        select case when months > 0 then div((12 * (extract(year from passed) - extract(year from begun)) + extract(month from passed) - extract(month from begun)), months)
                    else floor(extract(epoch from passed - begun) / extract(epoch from length)) end::integer as n
          from span)
    select min(e) from span, about, generate_series(n - 1, n + 1) m, lateral (select (begun + m * length) at time zone 'UTC') x (e) where e > after
$$;
comment on function pgtrain_private.next_period_end(timestamptz, pgtrain.plans, timestamptz) is 'The first end of a paid period after a time, of periods that are counted from the anchor; null for a plan without end';

create or replace function pgtrain_private.daily_price(plan pgtrain.plans) returns double precision
    language sql immutable set search_path = pg_catalog, pg_temp as $$
    select coalesce(plan.price_amount * 86400.0 / extract(epoch from pgtrain_private.plan_period(plan)), 0)
$$;
comment on function pgtrain_private.daily_price(pgtrain.plans) is 'Price of a plan per day, to compare plans of unlike periods';

create or replace function pgtrain_private.lock_billing(user_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform from pgtrain.users u where u.id = lock_billing.user_id for no key update;
    if not found then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', coalesce(lock_billing.user_id::text, 'null'));
    end if;
end $$;
comment on function pgtrain_private.lock_billing(bigint) is 'Lets one act of billing at a time go on for a user';

create or replace function pgtrain_private.live_subscription(user_id bigint) returns pgtrain.user_subscriptions
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    live pgtrain.user_subscriptions;
begin
    select * into live from pgtrain.user_subscriptions s
     where s.user_id = live_subscription.user_id and s.status in ('trialing', 'active', 'past_due') for update;
    return live;
end $$;
comment on function pgtrain_private.live_subscription(bigint) is 'Locks the subscription that gives a user his limits';

create or replace function pgtrain_private.begin_billing_event(event_id text, user_id bigint, act text, arguments jsonb, out is_new boolean, out result bigint)
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    former pgtrain.billing_events;
begin
    is_new := true;
    if event_id is null then
        return;
    end if;
    if length(event_id) not between 1 and 255 then
        raise exception using errcode = '22023', message = format('event_id has %s characters', length(event_id)), hint = 'Give 1 to 255.';
    end if;
    -- Waits for another session with the same event, and then finds what it did.
    insert into pgtrain.billing_events (event_id, user_id, act, arguments)
    values (begin_billing_event.event_id, begin_billing_event.user_id, begin_billing_event.act, begin_billing_event.arguments)
    on conflict do nothing;
    if found then
        return;
    end if;
    select * into strict former from pgtrain.billing_events e where e.event_id = begin_billing_event.event_id;
    if (former.user_id, former.act, former.arguments) is distinct from
       (begin_billing_event.user_id, begin_billing_event.act, begin_billing_event.arguments) then
        raise exception using errcode = 'PT409', message = format('event "%s" was taken in with another meaning', event_id),
            detail = format('It was %s of user %s with %s.', former.act, former.user_id, former.arguments);
    end if;
    is_new := false;
    result := former.result;
end $$;
comment on function pgtrain_private.begin_billing_event(text, bigint, text, jsonb) is 'Takes an event in, or tells that it was before and what came of it';

create or replace function pgtrain_private.end_billing_event(event_id text, user_id bigint, act text, subscription bigint, result bigint, about jsonb) returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    told record;
begin
    if event_id is not null then
        update pgtrain.billing_events e set result = end_billing_event.result where e.event_id = end_billing_event.event_id;
    end if;
    select s.status, p.name into told from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id where s.id = subscription;
    perform pgtrain_private.write_audit(act, null, jsonb_strip_nulls(about || jsonb_build_object(
        'user_id', user_id, 'subscription', subscription, 'status', told.status, 'plan', told.name, 'event_id', event_id)));
    perform pg_notify('pgtrain_billing', format('%s/%s/%s', user_id, coalesce(subscription::text, ''), coalesce(told.status::text, '')));
    return result;
end $$;
comment on function pgtrain_private.end_billing_event(text, bigint, text, bigint, bigint, jsonb) is
    'Keeps what came of an event, writes the audit line and tells listeners of pgtrain_billing (payload: USER/SUBSCRIPTION/STATUS)';

-- ---------------------------------------------------------------- from one subscription to the next

create or replace function pgtrain_private.start_subscription(user_id bigint, plan pgtrain.plans, status pgtrain.subscription_status,
    subscription_id text, trial_days integer default 0) returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    made bigint;
    trial_end timestamptz := case when trial_days > 0 then now() + trial_days * interval '24 hours' end;
begin
    insert into pgtrain.user_subscriptions (user_id, subscription_id, plan_id, status, current_period_end, period_anchor, trial_start, trial_end)
    values (start_subscription.user_id,
            coalesce(start_subscription.subscription_id, format('sub_%s_%s', user_id, (extract(epoch from clock_timestamp()) * 1000000)::bigint)),
            plan.id, start_subscription.status,
            -- Of a pending one: until when its payment is waited for.
            case start_subscription.status when 'pending' then now() + 30 * interval '24 hours'
                 else coalesce(trial_end, pgtrain_private.next_period_end(now(), plan, now())) end,
            coalesce(trial_end, now()),
            case when trial_end is not null then now() end, trial_end)
    on conflict ((subscription_id || '')) do nothing
    returning id into made;
    if made is null then
        raise exception using errcode = '23505', message = format('there is a subscription "%s" already', start_subscription.subscription_id);
    end if;
    if start_subscription.status <> 'pending' then
        perform pgtrain_private.apply_plan(start_subscription.user_id, plan.id);
    end if;
    return made;
end $$;
comment on function pgtrain_private.start_subscription(bigint, pgtrain.plans, pgtrain.subscription_status, text, integer) is 'Writes a new subscription and, unless it is pending, sets its limits';

create or replace function pgtrain_private.end_subscription(id bigint, status pgtrain.subscription_status) returns void
    language sql set search_path = pg_catalog, pg_temp as $$
    update pgtrain.user_subscriptions s
       set status = end_subscription.status, cancelled_at = now(), pending_plan_id = null, grace_until = null
     where s.id = end_subscription.id
$$;
comment on function pgtrain_private.end_subscription(bigint, pgtrain.subscription_status) is 'Ends a subscription as cancelled or expired';

-- Without end and without a price, whatever its period and price are for those who subscribe to it.
create or replace function pgtrain_private.start_default_plan(user_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    plan pgtrain.plans;
begin
    select * into plan from pgtrain.plans p where p.name = current_setting('pgtrain.default_plan');
    if not found then
        raise exception using errcode = '22023', message = format('plan "%s" does not exist', current_setting('pgtrain.default_plan')),
            hint = 'Set pgtrain.default_plan to a name of pgtrain.plans.';
    end if;
    plan.billing_period := 'never';
    perform pgtrain_private.start_subscription(start_default_plan.user_id, plan, 'active', null);
end $$;
comment on function pgtrain_private.start_default_plan(bigint) is 'Subscribes a user to the plan of pgtrain.default_plan: a new one, or one whose subscription has ended';

create or replace function pgtrain_private.end_and_fall_back(subscription pgtrain.user_subscriptions, status pgtrain.subscription_status) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.end_subscription(subscription.id, end_and_fall_back.status);
    if subscription.status <> 'pending' then
        perform pgtrain_private.start_default_plan(subscription.user_id);
    end if;
end $$;
comment on function pgtrain_private.end_and_fall_back(pgtrain.user_subscriptions, pgtrain.subscription_status) is 'Ends a subscription; if it was the live one, its user has the plan free from now on';

-- A paid period more. One that is over begins anew now, unless the period that follows it is still running.
create or replace function pgtrain_private.extend_subscription(subscription pgtrain.user_subscriptions, until timestamptz default null) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    plan pgtrain.plans;
    live pgtrain.user_subscriptions;
    begins timestamptz := now();
    anchor timestamptz := now();
    follows timestamptz;
begin
    select * into strict plan from pgtrain.plans p where p.id = subscription.plan_id;
    if subscription.status in ('pending', 'cancelled', 'expired') then
        live := pgtrain_private.live_subscription(subscription.user_id);
        if live.id is not null then
            perform pgtrain_private.end_subscription(live.id, 'cancelled');
        end if;
    elsif subscription.status = 'trialing' then
        anchor := greatest(subscription.trial_end, now());
    else
        follows := pgtrain_private.next_period_end(subscription.period_anchor, plan, subscription.current_period_end);
        if follows > now() then
            -- Paid before its end, a period grows longer; paid after it, the next one has begun then.
            begins := case when subscription.current_period_end > now() then subscription.current_period_start else subscription.current_period_end end;
            anchor := subscription.period_anchor;
        end if;
    end if;
    update pgtrain.user_subscriptions s
       set status = 'active', grace_until = null, cancelled_at = case when s.cancel_at_period_end then s.cancelled_at end, current_period_start = begins,
           current_period_end = coalesce(extend_subscription.until, case when follows > now() then follows end,
                                         pgtrain_private.next_period_end(anchor, plan, anchor)),
           period_anchor = coalesce(extend_subscription.until, anchor)
     where s.id = subscription.id;
    if subscription.status in ('pending', 'cancelled', 'expired') then
        perform pgtrain_private.apply_plan(subscription.user_id, plan.id);
    end if;
end $$;
comment on function pgtrain_private.extend_subscription(pgtrain.user_subscriptions, timestamptz) is 'Makes a subscription active for a period more; in place of the live one when it was not live';

-- ---------------------------------------------------------------- subscribing

create or replace function pgtrain.subscribe(user_id bigint, plan text, trial_days integer default 0, subscription_id text default null,
                                             event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    wanted pgtrain.plans;
    live pgtrain.user_subscriptions;
    live_type pgtrain.plan_type;
    event record;
    made bigint;
begin
    wanted := pgtrain_private.find_plan(plan);
    perform pgtrain_private.require_billing_right('subscribe', user_id, wanted.type = 'free' and trial_days = 0);
    if trial_days is null or trial_days not between 0 and 366 then
        raise exception using errcode = '22023', message = format('trial_days %s is not between 0 and 366', coalesce(trial_days::text, 'null'));
    end if;
    event := pgtrain_private.begin_billing_event(event_id, user_id, 'subscribe', jsonb_build_object('plan', plan, 'trial_days', trial_days, 'subscription_id', subscription_id));
    if not event.is_new then
        return event.result;
    end if;
    perform pgtrain_private.lock_billing(user_id);
    if not wanted.is_active then
        raise exception using errcode = 'PT409', message = format('plan "%s" cannot be subscribed to any more', plan);
    end if;
    live := pgtrain_private.live_subscription(user_id);
    select p.type into live_type from pgtrain.plans p where p.id = live.plan_id;
    if live.plan_id = wanted.id then
        return pgtrain_private.end_billing_event(event_id, user_id, 'subscribe', live.id, live.id, '{}');
    elsif live_type <> 'free' then
        raise exception using errcode = 'PT409', message = format('user %s has a subscription already', user_id),
            detail = format('It is %s.', live.status), hint = 'Use pgtrain.change_plan, or pgtrain.cancel_subscription first.';
    elsif trial_days > 0 and exists (select from pgtrain.user_subscriptions s where s.user_id = subscribe.user_id and s.trial_start is not null) then
        raise exception using errcode = 'PT409', message = format('user %s has had his trial', user_id), hint = 'Subscribe him without trial_days.';
    end if;
    -- Of several that wait for a payment, the last counts.
    update pgtrain.user_subscriptions s set status = 'cancelled', cancelled_at = now() where s.user_id = subscribe.user_id and s.status = 'pending';
    if wanted.type = 'free' or trial_days > 0 then
        if live.id is not null then
            perform pgtrain_private.end_subscription(live.id, 'cancelled');
        end if;
        made := pgtrain_private.start_subscription(user_id, wanted, case when trial_days > 0 then 'trialing' else 'active' end::pgtrain.subscription_status,
                                                   subscription_id, trial_days);
        update pgtrain.users u set trial_ends_at = now() + trial_days * interval '24 hours' where u.id = subscribe.user_id and trial_days > 0;
    else
        made := pgtrain_private.start_subscription(user_id, wanted, 'pending', subscription_id);
    end if;
    return pgtrain_private.end_billing_event(event_id, user_id, 'subscribe', made, made, '{}');
end $$;
comment on function pgtrain.subscribe(bigint, text, integer, text, text) is
    'Subscribes a user: to a free plan or for a trial at once, to a paid plan as pending until record_payment. Returns the subscription';

create or replace function pgtrain.change_plan(user_id bigint, plan text, at_once boolean default null, event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    wanted pgtrain.plans;
    present pgtrain.plans;
    live pgtrain.user_subscriptions;
    event record;
    is_larger boolean;
begin
    wanted := pgtrain_private.find_plan(plan);
    -- What his own right reaches shows only when his present plan is known.
    perform pgtrain_private.require_billing_right('change_plan', user_id, true);
    event := pgtrain_private.begin_billing_event(event_id, user_id, 'change_plan', jsonb_build_object('plan', plan, 'at_once', at_once));
    if not event.is_new then
        return event.result;
    end if;
    perform pgtrain_private.lock_billing(user_id);
    live := pgtrain_private.live_subscription(user_id);
    if live.id is null then
        raise exception using errcode = 'PT409', message = format('user %s has no subscription to change', user_id), hint = 'Use pgtrain.subscribe.';
    end if;
    select * into strict present from pgtrain.plans p where p.id = live.plan_id;
    if wanted.currency <> present.currency and at_once is null and wanted.price_amount > 0 and present.price_amount > 0 then
        raise exception using errcode = '22004', message = format('plans "%s" and "%s" have prices in %s and %s', present.name, plan, present.currency, wanted.currency),
            hint = 'Say at_once: true for a larger plan, false for a smaller one.';
    end if;
    is_larger := coalesce(at_once, pgtrain_private.daily_price(wanted) >= pgtrain_private.daily_price(present));
    if wanted.id <> present.id then
        -- By himself he comes to what is free, or at the end of what he has paid for to what costs less: not to a plan whose price is
        -- agreed upon elsewhere or paid once, which has none by the day.
        perform pgtrain_private.require_billing_right('change_plan', user_id,
            not is_larger and (wanted.type = 'free' or live.current_period_end is not null and wanted.currency = present.currency
                               and pgtrain_private.daily_price(wanted) between 0.000001 and pgtrain_private.daily_price(present)));
        if not wanted.is_active then
            raise exception using errcode = 'PT409', message = format('plan "%s" cannot be subscribed to any more', plan);
        end if;
    end if;
    if wanted.id = present.id then
        update pgtrain.user_subscriptions s set pending_plan_id = null where s.id = live.id;
    elsif is_larger and wanted.type = 'free' then
        perform pgtrain_private.end_subscription(live.id, 'cancelled');
        live.id := pgtrain_private.start_subscription(user_id, wanted, 'active', null);
    elsif is_larger or live.current_period_end is null then
        update pgtrain.user_subscriptions s
           set plan_id = wanted.id, pending_plan_id = null, cancel_at_period_end = false, cancelled_at = null,
               current_period_start = case when s.current_period_end is null then now() else s.current_period_start end,
               current_period_end = coalesce(s.current_period_end, pgtrain_private.next_period_end(now(), wanted, now())),
               period_anchor = case when s.current_period_end is null then now() when wanted.billing_period <> present.billing_period then s.current_period_end
                                    else s.period_anchor end
         where s.id = live.id;
        perform pgtrain_private.apply_plan(user_id, wanted.id);
    else
        -- Who chooses what comes next has taken a cancellation back.
        update pgtrain.user_subscriptions s set pending_plan_id = wanted.id, cancel_at_period_end = false, cancelled_at = null where s.id = live.id;
    end if;
    return pgtrain_private.end_billing_event(event_id, user_id, 'change_plan', live.id, live.id, jsonb_build_object('wanted', plan));
end $$;
comment on function pgtrain.change_plan(bigint, text, boolean, text) is
    'Changes the plan of a live subscription: a larger one at once, a smaller one when the paid period ends. What was used stays used';

create or replace function pgtrain.cancel_subscription(user_id bigint, at_once boolean default false, event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    ending pgtrain.user_subscriptions;
    event record;
begin
    perform pgtrain_private.require_billing_right('cancel_subscription', user_id, true);
    event := pgtrain_private.begin_billing_event(event_id, user_id, 'cancel_subscription', jsonb_build_object('at_once', at_once));
    if not event.is_new then
        return event.result;
    end if;
    perform pgtrain_private.lock_billing(user_id);
    -- What is paid or tried first, else what waits for its payment.
    select s.* into ending from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id
     where s.user_id = cancel_subscription.user_id and s.status in ('pending', 'trialing', 'active', 'past_due') and p.type <> 'free'
     order by s.status = 'pending' limit 1 for update of s;
    if not found then
        raise exception using errcode = 'PT409', message = format('user %s has no subscription to cancel', user_id),
            detail = 'The plan free is what remains when one is cancelled.';
    end if;
    if at_once or ending.status = 'pending' or ending.current_period_end is null or ending.current_period_end <= now() then
        perform pgtrain_private.end_and_fall_back(ending, 'cancelled');
    else
        update pgtrain.user_subscriptions s set cancel_at_period_end = true, pending_plan_id = null, grace_until = null, cancelled_at = coalesce(s.cancelled_at, now())
         where s.id = ending.id;
    end if;
    return pgtrain_private.end_billing_event(event_id, user_id, 'cancel_subscription', ending.id, ending.id, '{}');
end $$;
comment on function pgtrain.cancel_subscription(bigint, boolean, text) is 'Ends a subscription with its paid period or trial, or at once; the user has the plan free then';

create or replace function pgtrain.keep_subscription(user_id bigint, event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    live pgtrain.user_subscriptions;
    event record;
begin
    perform pgtrain_private.require_billing_right('keep_subscription', user_id, true);
    event := pgtrain_private.begin_billing_event(event_id, user_id, 'keep_subscription', '{}');
    if not event.is_new then
        return event.result;
    end if;
    perform pgtrain_private.lock_billing(user_id);
    live := pgtrain_private.live_subscription(user_id);
    update pgtrain.user_subscriptions s set cancel_at_period_end = false, cancelled_at = null, pending_plan_id = null where s.id = live.id;
    return pgtrain_private.end_billing_event(event_id, user_id, 'keep_subscription', live.id, live.id, '{}');
end $$;
comment on function pgtrain.keep_subscription(bigint, text) is 'Takes back a cancellation or a change of plan that waits for the end of the period';

create or replace function pgtrain.renew_subscription(user_id bigint, until timestamptz default null, event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    live pgtrain.user_subscriptions;
    event record;
begin
    perform pgtrain_private.require_billing_right('renew_subscription', user_id, false);
    if until <= now() or until = 'infinity' then
        raise exception using errcode = '22023', message = format('a period cannot end at %s', until);
    end if;
    event := pgtrain_private.begin_billing_event(event_id, user_id, 'renew_subscription', jsonb_build_object('until', until));
    if not event.is_new then
        return event.result;
    end if;
    perform pgtrain_private.lock_billing(user_id);
    live := pgtrain_private.live_subscription(user_id);
    if live.id is null or live.current_period_end is null then
        raise exception using errcode = 'PT409', message = format('user %s has no subscription that ends', user_id);
    end if;
    perform pgtrain_private.extend_subscription(live, until);
    return pgtrain_private.end_billing_event(event_id, user_id, 'renew_subscription', live.id, live.id, '{}');
end $$;
comment on function pgtrain.renew_subscription(bigint, timestamptz, text) is 'Makes the live subscription active for a period more, or until a time, without a payment recorded here';

-- ---------------------------------------------------------------- the scheduler's chore

create or replace function pgtrain_private.advance_subscription(subscription bigint) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    due pgtrain.user_subscriptions;
    plan pgtrain.plans;
    next_plan pgtrain.plans;
begin
    -- Who has a billing act under way is left for the next look.
    perform from pgtrain.users u join pgtrain.user_subscriptions s on s.user_id = u.id where s.id = advance_subscription.subscription
        for no key update of u skip locked;
    if not found then
        return false;
    end if;
    select * into due from pgtrain.user_subscriptions s
     where s.id = advance_subscription.subscription and s.status in ('pending', 'trialing', 'active', 'past_due')
       and coalesce(s.grace_until, s.current_period_end) <= now() for update;
    if not found then
        return false;
    end if;
    select * into strict plan from pgtrain.plans p where p.id = due.plan_id;
    select * into next_plan from pgtrain.plans p where p.id = due.pending_plan_id;
    if due.cancel_at_period_end or (due.status = 'active' and next_plan.type = 'free') then
        perform pgtrain_private.end_and_fall_back(due, 'cancelled');
    elsif due.status in ('pending', 'trialing', 'past_due') then
        perform pgtrain_private.end_and_fall_back(due, 'expired');
    else
        if next_plan.id is not null then
            due.period_anchor := case when next_plan.billing_period = plan.billing_period then due.period_anchor else due.current_period_end end;
            update pgtrain.user_subscriptions s set plan_id = next_plan.id, pending_plan_id = null, period_anchor = due.period_anchor where s.id = due.id;
            perform pgtrain_private.apply_plan(due.user_id, next_plan.id);
            plan := next_plan;
            due.plan_id := next_plan.id;
        end if;
        if plan.price_amount = 0 then
            perform pgtrain_private.extend_subscription(due);
        else
            -- Its payment is due now.
            update pgtrain.user_subscriptions s
               set status = 'past_due', grace_until = s.current_period_end + pgtrain_private.payment_grace() * interval '24 hours' where s.id = due.id;
        end if;
    end if;
    perform pgtrain_private.end_billing_event(null, due.user_id, 'subscription_advanced', due.id, due.id, jsonb_build_object('from', due.status));
    return true;
end $$;
comment on function pgtrain_private.advance_subscription(bigint) is 'Moves one subscription whose period, trial or grace has ended';

create or replace function pgtrain_private.advance_subscriptions() returns integer
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    due bigint;
    moved integer := 0;
begin
    for due in
        select s.id from pgtrain.user_subscriptions s
         where s.status in ('pending', 'trialing', 'active', 'past_due') and coalesce(s.grace_until, s.current_period_end) <= now()
         order by coalesce(s.grace_until, s.current_period_end) limit 500
    loop
        begin
            moved := moved + pgtrain_private.advance_subscription(due)::integer;
        exception when lock_not_available then
            -- Its user holds a lock in an open transaction; the others shall not wait for him.
            raise log 'pgtrain: subscription % is moved on when a lock of its user is free', due;
        end;
    end loop;
    return moved;
end $$;
comment on function pgtrain_private.advance_subscriptions() is 'Moves the subscriptions whose period, trial or grace has ended: renewed, past due, expired or cancelled; returns how many';

create or replace view pgtrain.my_subscription with (security_invoker) as
    select s.id, s.subscription_id, p.name as plan, p.type, s.status, s.current_period_start, s.current_period_end, s.trial_end,
           s.cancel_at_period_end, n.name as next_plan, s.grace_until
      from pgtrain.user_subscriptions s
      join pgtrain.plans p on p.id = s.plan_id
      left join pgtrain.plans n on n.id = s.pending_plan_id
     where s.user_id = (select pgtrain.current_user_id()) and s.status in ('pending', 'trialing', 'active', 'past_due');
comment on view pgtrain.my_subscription is 'What the caller is subscribed to, and what waits for its payment';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
