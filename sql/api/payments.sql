-- Payments and plans, functions: what a payment service tells of money, and what an administrator sells. Subscriptions: billing.sql.

create or replace function pgtrain_private.write_payment(user_id bigint, payment_intent_id text, amount bigint, currency text, status pgtrain.payment_status,
    subscription bigint, payment_method text, metadata jsonb, out payment_id bigint, out is_news boolean)
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    former pgtrain.payment_history;
begin
    if payment_intent_id is null or amount is null or currency is null then
        raise exception using errcode = '22004', message = 'payment_intent_id, amount and currency are needed';
    elsif length(payment_intent_id) not between 1 and 255 then
        raise exception using errcode = '22023', message = format('payment_intent_id has %s characters', length(payment_intent_id)), hint = 'Give 1 to 255.';
    elsif amount < 0 or currency !~ '^[A-Z]{3}$' then
        raise exception using errcode = '22023', message = format('%s %s is no payment', amount, currency),
            hint = 'Give minor units (cents), not below 0, and the ISO 4217 code in capitals.';
    end if;
    insert into pgtrain.payment_history (user_id, subscription_id, payment_intent_id, amount, currency, status, payment_method, metadata)
    values (user_id, subscription, payment_intent_id, amount, currency, status, payment_method, coalesce(metadata, '{}'))
    on conflict do nothing returning id into payment_id;
    is_news := found;
    if is_news then
        return;
    end if;
    select * into strict former from pgtrain.payment_history p where p.payment_intent_id || '' = write_payment.payment_intent_id for update;
    if (former.user_id, former.amount, former.currency::text) <> (user_id, amount, currency) then
        raise exception using errcode = 'PT409', message = format('payment "%s" was recorded with another user or amount', payment_intent_id),
            detail = format('It is %s %s of user %s.', former.amount, former.currency, former.user_id);
    end if;
    payment_id := former.id;
    -- A payment that went through stays so, whatever older news comes late.
    if former.status in ('pending', 'failed', 'cancelled') and former.status <> status then
        update pgtrain.payment_history p
           set status = write_payment.status, subscription_id = coalesce(subscription, p.subscription_id), payment_method = coalesce(write_payment.payment_method, p.payment_method)
         where p.id = former.id;
        is_news := true;
    end if;
end $$;
comment on function pgtrain_private.write_payment(bigint, text, bigint, text, pgtrain.payment_status, bigint, text, jsonb) is
    'Records a payment by its name at the payment service, or news about it; is_news is false when nothing has changed';

create or replace function pgtrain.record_payment(user_id bigint, payment_intent_id text, amount bigint, currency text, status text default 'completed',
    subscription_id text default null, payment_method text default null, metadata jsonb default '{}', event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    paid pgtrain.user_subscriptions;
    written record;
    event record;
begin
    perform pgtrain_private.require_billing_right('record_payment', user_id, false);
    if (status in ('pending', 'completed', 'cancelled')) is not true then
        raise exception using errcode = '22023', message = format('status "%s" is not acceptable', status),
            detail = 'Status: pending, completed, cancelled.', hint = 'For one that failed call pgtrain.payment_failed.';
    end if;
    event := pgtrain_private.begin_billing_event(event_id, user_id, 'record_payment', jsonb_build_object(
        'payment_intent_id', payment_intent_id, 'amount', amount, 'currency', currency, 'status', status, 'subscription_id', subscription_id));
    if not event.is_new then
        return event.result;
    end if;
    perform pgtrain_private.lock_billing(user_id);
    -- The one it names; else what waits for a payment, else the live one.
    select s.* into paid from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id
     where s.user_id = record_payment.user_id
       and (s.subscription_id = record_payment.subscription_id
            or record_payment.subscription_id is null and s.status in ('pending', 'trialing', 'active', 'past_due') and p.type <> 'free')
     order by s.status = 'pending' desc limit 1 for update of s;
    if paid.id is null and record_payment.subscription_id is not null then
        raise exception using errcode = 'PT404', message = format('user %s has no subscription "%s"', user_id, record_payment.subscription_id);
    end if;
    written := pgtrain_private.write_payment(user_id, payment_intent_id, amount, currency, status::pgtrain.payment_status, paid.id, payment_method, metadata);
    if written.is_news and status = 'completed' and paid.id is not null then
        -- A late payment of a subscription that was ended brings it back only where no other has taken its place.
        if paid.status not in ('cancelled', 'expired')
           or not exists (select from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id
                           where s.user_id = record_payment.user_id and s.status in ('trialing', 'active', 'past_due') and p.type <> 'free') then
            perform pgtrain_private.extend_subscription(paid);
        end if;
    end if;
    return pgtrain_private.end_billing_event(event_id, user_id, 'record_payment', paid.id, written.payment_id,
        jsonb_build_object('payment_intent_id', payment_intent_id, 'amount', amount, 'currency', currency, 'payment_status', status,
                           'price', (select p.price_amount || ' ' || p.currency from pgtrain.plans p where p.id = paid.plan_id)));
end $$;
comment on function pgtrain.record_payment(bigint, text, bigint, text, text, text, text, jsonb, text) is
    'Records a payment; one that is completed begins the pending subscription of the user or a further period of the live one. Returns the payment';

create or replace function pgtrain.payment_failed(user_id bigint, payment_intent_id text default null, amount bigint default null, currency text default null,
                                                  reason text default null, event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    live pgtrain.user_subscriptions;
    written record;
    event record;
    is_news boolean := true;
begin
    perform pgtrain_private.require_billing_right('payment_failed', user_id, false);
    event := pgtrain_private.begin_billing_event(event_id, user_id, 'payment_failed', jsonb_build_object(
        'payment_intent_id', payment_intent_id, 'amount', amount, 'currency', currency));
    if not event.is_new then
        return event.result;
    end if;
    perform pgtrain_private.lock_billing(user_id);
    live := pgtrain_private.live_subscription(user_id);
    if payment_intent_id is not null then
        written := pgtrain_private.write_payment(user_id, payment_intent_id, amount, currency, 'failed', live.id, null,
                                                 case when reason is null then '{}' else jsonb_build_object('reason', reason) end);
        is_news := written.is_news;
    end if;
    if is_news then
        -- What is paid or tried already is not taken: the grace follows it.
        update pgtrain.user_subscriptions s set status = 'past_due', grace_until = greatest(s.current_period_end, now()) + pgtrain_private.payment_grace() * interval '24 hours'
         where s.id = live.id and s.status in ('active', 'trialing') and s.current_period_end is not null;
    end if;
    return pgtrain_private.end_billing_event(event_id, user_id, 'payment_failed', live.id, live.id,
        jsonb_build_object('payment_intent_id', payment_intent_id, 'reason', reason));
end $$;
comment on function pgtrain.payment_failed(bigint, text, bigint, text, text, text) is
    'The payment of a subscription failed: it is past due, and expires pgtrain.payment_grace days after what was paid before unless record_payment comes';

create or replace function pgtrain.refund_payment(payment_intent_id text, amount bigint default null, event_id text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    payment pgtrain.payment_history;
    event record;
    given bigint;
begin
    perform pgtrain_private.require_billing_right('refund_payment', null, false);
    select * into payment from pgtrain.payment_history p where p.payment_intent_id || '' = refund_payment.payment_intent_id;
    if not found then
        raise exception using errcode = 'PT404', message = format('payment "%s" does not exist', coalesce(payment_intent_id, 'null'));
    end if;
    event := pgtrain_private.begin_billing_event(event_id, payment.user_id, 'refund_payment', jsonb_build_object('payment_intent_id', payment_intent_id, 'amount', amount));
    if not event.is_new then
        return event.result;
    end if;
    select * into payment from pgtrain.payment_history p where p.id = payment.id for update;
    given := coalesce(amount, payment.amount - payment.refunded_amount);
    if payment.status not in ('completed', 'partially_refunded') then
        raise exception using errcode = 'PT409', message = format('payment "%s" cannot be refunded: it is %s', payment_intent_id, payment.status);
    elsif given < 1 or given > payment.amount - payment.refunded_amount then
        raise exception using errcode = '22023', message = format('%s cannot be given back', given),
            detail = format('Of %s %s, %s were given back before.', payment.amount, payment.currency, payment.refunded_amount);
    end if;
    update pgtrain.payment_history p
       set refunded_amount = p.refunded_amount + given,
           status = case when p.refunded_amount + given = p.amount then 'refunded' else 'partially_refunded' end::pgtrain.payment_status
     where p.id = payment.id;
    return pgtrain_private.end_billing_event(event_id, payment.user_id, 'refund_payment', payment.subscription_id, payment.id,
        jsonb_build_object('payment_intent_id', payment_intent_id, 'amount', given, 'currency', payment.currency));
end $$;
comment on function pgtrain.refund_payment(text, bigint, text) is 'Records that a payment was given back, in part or (amount null) the rest of it; the subscription goes on until it is cancelled. Returns the payment';

-- ---------------------------------------------------------------- plans

create or replace function pgtrain.set_plan(name text, display_name text default null, type text default null, price_amount bigint default null,
    currency text default null, billing_period text default null, description text default null, is_active boolean default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    made bigint;
    period pgtrain.reset_period;
begin
    perform pgtrain_private.require_limits_right('set_plan');
    if (name ~ '^[a-z][a-z0-9_]{1,62}$') is not true then
        raise exception using errcode = '22023', message = format('plan name "%s" is not acceptable', name),
            hint = 'Use 2 to 63 small letters, digits and underscores, beginning with a letter.';
    elsif not coalesce(type = any (enum_range(null::pgtrain.plan_type)::text[]), true) then
        raise exception using errcode = '22023', message = format('plan type "%s" is unknown', type), detail = 'Types: free, paid, enterprise.';
    elsif price_amount < 0 or currency !~ '^[A-Z]{3}$' then
        raise exception using errcode = '22023', message = format('price %s is not acceptable', concat_ws(' ', price_amount, currency)),
            hint = 'Give minor units (cents), not below 0, and the ISO 4217 code in capitals.';
    elsif name = 'free' and (type <> 'free' or price_amount > 0 or is_active = false) then
        raise exception using errcode = '22023', message = 'the plan free stays free', detail = 'It is what new users and those whose subscription ended have.';
    end if;
    period := pgtrain_private.find_period(billing_period);
    insert into pgtrain.plans as p (name, display_name, type, price_amount, currency, billing_period, description, is_active)
    values (name, coalesce(display_name, initcap(name)), coalesce(type, 'paid')::pgtrain.plan_type, coalesce(price_amount, 0), coalesce(currency, 'USD'),
            coalesce(period, 'monthly'), coalesce(description, ''), coalesce(is_active, true))
    on conflict on constraint plans_name_key do update
       set display_name = coalesce(set_plan.display_name, p.display_name), type = coalesce(set_plan.type::pgtrain.plan_type, p.type),
           price_amount = coalesce(set_plan.price_amount, p.price_amount), currency = coalesce(set_plan.currency, p.currency),
           billing_period = coalesce(period, p.billing_period), description = coalesce(set_plan.description, p.description),
           is_active = coalesce(set_plan.is_active, p.is_active)
    returning id into made;
    if exists (select from pgtrain.plans p where p.id = made and p.type = 'free' and p.price_amount > 0) then
        raise exception using errcode = '22023', message = format('the free plan "%s" cannot have a price', name),
            detail = 'Everybody may take a free plan by himself.', hint = 'Give type paid or enterprise.';
    end if;
    perform pgtrain_private.write_audit('plan_set', null, jsonb_build_object('plan', name));
    return made;
end $$;
comment on function pgtrain.set_plan(text, text, text, bigint, text, text, text, boolean) is 'Makes or changes a plan; what is left out stays. is_active false: those who have it keep it, nobody else can take it. Returns its id';

create or replace function pgtrain.set_plan_limit(plan text, resource text, limit_value bigint, reset_period text default null,
                                                  reset_mode text default null, warn_share double precision default null) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    target pgtrain.plans;
    wanted pgtrain.resource_type;
    subscriber bigint;
begin
    perform pgtrain_private.require_limits_right('set_plan_limit');
    perform pgtrain_private.check_limit_value(limit_value);
    target := pgtrain_private.find_plan(plan);
    wanted := pgtrain_private.find_resource(resource);
    perform pgtrain_private.check_limit_kind(wanted, pgtrain_private.find_period(reset_period), warn_share);
    -- Nobody takes the plan meanwhile (apply_plan waits), so nobody is left with what it allowed before.
    perform from pgtrain.plans p where p.id = target.id for no key update;
    insert into pgtrain.plan_limits as l (plan_id, resource_type, limit_value, reset_period, reset_mode, warn_share)
    values (target.id, wanted, limit_value, coalesce(pgtrain_private.find_period(reset_period), case when pgtrain_private.is_gauge(wanted) then 'never' else 'monthly' end::pgtrain.reset_period),
            coalesce(pgtrain_private.find_mode(reset_mode), 'calendar'), coalesce(warn_share, 0.8))
    on conflict on constraint plan_limits_plan_id_resource_type_key do update
       set limit_value = excluded.limit_value, reset_period = coalesce(pgtrain_private.find_period(set_plan_limit.reset_period), l.reset_period),
           reset_mode = coalesce(pgtrain_private.find_mode(set_plan_limit.reset_mode), l.reset_mode), warn_share = coalesce(set_plan_limit.warn_share, l.warn_share);
    for subscriber in
        select s.user_id from pgtrain.user_subscriptions s where s.plan_id = target.id and s.status in ('trialing', 'active', 'past_due') order by s.user_id
    loop
        perform pgtrain_private.apply_plan(subscriber, target.id);
    end loop;
    perform pgtrain_private.write_audit('plan_limit_set', null, jsonb_build_object('plan', plan, 'resource', resource, 'limit_value', limit_value));
end $$;
comment on function pgtrain.set_plan_limit(text, text, bigint, text, text, double precision) is 'Sets what a plan allows, also for those who have it; limits set for one user alone stay';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
