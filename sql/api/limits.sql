-- Limits, functions: holds and charges of runs, the plan of a user, own usage. Every change of a counter and its ledger entries is
-- one statement, so the sums agree at any moment; the row lock on the counter makes racing holds exact.
-- hold_usage and settle_usage are called by the training domain.

-- Without an exception block, which would cost a subtransaction for each hold.
create or replace function pgtrain_private.find_resource(resource text) returns pgtrain.resource_type
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if resource = any (enum_range(null::pgtrain.resource_type)::text[]) then
        return resource;
    end if;
    raise exception using errcode = '22023', message = format('resource "%s" is unknown', resource),
        detail = format('Resources: %s.', array_to_string(enum_range(null::pgtrain.resource_type), ', '));
end $$;
comment on function pgtrain_private.find_resource(text) is 'A resource by name, or an error naming those there are';

create or replace function pgtrain_private.next_reset(period pgtrain.reset_period, after timestamptz default now()) returns timestamptz
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select date_trunc(unit, after at time zone 'UTC') at time zone 'UTC' + span
      from (values ('daily'::pgtrain.reset_period, 'day', interval '1 day'), ('weekly', 'week', interval '7 days'),
                   ('monthly', 'month', interval '1 month'), ('yearly', 'year', interval '1 year')) v (p, unit, span)
     where p = period;
$$;
comment on function pgtrain_private.next_reset(pgtrain.reset_period, timestamptz) is 'Start of the next period (UTC), null for never';

-- Brings the counter of a user and resource into being from his plan, and starts a new period when one is due. Locks the row.
-- A resource that the plan does not name is not included: its limit is 0.
create or replace function pgtrain_private.prepare_counter(user_id bigint, resource pgtrain.resource_type) returns pgtrain.user_usage_limits
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
begin
    select * into counter from pgtrain.user_usage_limits l
     where l.user_id = prepare_counter.user_id and l.resource_type = resource for no key update;
    if not found then
        insert into pgtrain.user_usage_limits (user_id, resource_type, limit_value, reset_period, reset_at)
        select prepare_counter.user_id, resource, coalesce(p.limit_value, 0), coalesce(p.reset_period, 'never'), pgtrain_private.next_reset(p.reset_period)
          from (select 1) one
          left join (select pl.limit_value, pl.reset_period
                       from pgtrain.user_subscriptions s join pgtrain.plan_limits pl on pl.plan_id = s.plan_id
                      where s.user_id = prepare_counter.user_id and s.status in ('active', 'trialing', 'past_due')
                        and pl.resource_type = resource) p on true
        on conflict on constraint user_usage_limits_user_id_resource_type_key do nothing;
        select * into strict counter from pgtrain.user_usage_limits l
         where l.user_id = prepare_counter.user_id and l.resource_type = resource for no key update;
    end if;
    if counter.reset_at <= now() then
        with started as (
            update pgtrain.user_usage_limits l
               set used_value = counter.held_value, reset_at = pgtrain_private.next_reset(counter.reset_period)
             where l.id = counter.id
            returning *),
        booked as (
            insert into pgtrain.usage_entries (user_id, resource_type, kind, amount)
            select counter.user_id, resource, 'reset', counter.held_value - counter.used_value where counter.held_value <> counter.used_value)
        select * into counter from started;
    end if;
    return counter;
end $$;
comment on function pgtrain_private.prepare_counter(bigint, pgtrain.resource_type) is 'Locks the counter of a user and resource; makes it from his plan or resets it when due';

create or replace function pgtrain_private.hold_usage(user_id bigint, resource text, amount bigint, run_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    wanted pgtrain.resource_type := pgtrain_private.find_resource(resource);
begin
    if amount is null or amount < 0 or amount > 4611686018427387904 then
        raise exception using errcode = '22023', message = format('cannot hold %s of %s', coalesce(amount::text, 'null'), resource);
    end if;
    for attempt in 1..2 loop
        with moved as (
            update pgtrain.user_usage_limits l set used_value = l.used_value + amount, held_value = l.held_value + amount
             where l.user_id = hold_usage.user_id and l.resource_type = wanted and (l.reset_at is null or l.reset_at > now())
               and (l.limit_value = -1 or l.used_value + amount <= l.limit_value)
            returning l.user_id)
        insert into pgtrain.usage_entries (user_id, resource_type, kind, amount, run_id)
        select moved.user_id, wanted, 'hold', amount, hold_usage.run_id from moved;
        if found then
            return;
        end if;
        counter := pgtrain_private.prepare_counter(hold_usage.user_id, wanted);
        exit when counter.limit_value <> -1 and counter.used_value + amount > counter.limit_value;
    end loop;
    raise exception using errcode = 'PT402', message = format('limit of %s exceeded', resource),
        detail = format('Used %s of %s, %s more wanted.', counter.used_value, counter.limit_value, amount)
                 || coalesce(format(' The counter starts again at %s.', counter.reset_at), ''),
        hint = 'Wait for runs to end, for the next period, or take a larger plan; pgtrain.my_usage shows all counters.';
end $$;
comment on function pgtrain_private.hold_usage(bigint, text, bigint, bigint) is 'Reserves an amount for a run, or raises PT402 when that would pass the limit';

-- What a run has held and charged so far.
create or replace function pgtrain_private.run_usage(run_id bigint, resource pgtrain.resource_type, out user_id bigint, out held bigint, out charged bigint)
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    -- Not in SQL language: that would be planned again at each call, which costs more than the rest of ending a run.
    select max(e.user_id),
           coalesce(sum(e.amount) filter (where e.kind in ('hold', 'release')), 0)::bigint,
           coalesce(sum(e.amount) filter (where e.kind in ('charge', 'refund')), 0)::bigint
      into run_usage.user_id, run_usage.held, run_usage.charged
      from pgtrain.usage_entries e
     where e.run_id = run_usage.run_id and e.resource_type = resource and exists (select from pgtrain.users u where u.id = e.user_id);
end $$;
comment on function pgtrain_private.run_usage(bigint, pgtrain.resource_type) is 'Outstanding hold and charges of a run; nothing when its user is gone';

-- The one place besides hold_usage that moves a counter: releases and charges in one statement with their entries.
create or replace function pgtrain_private.book_usage(user_id bigint, resource pgtrain.resource_type, run_id bigint, released bigint, charged bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    with moved as (
        update pgtrain.user_usage_limits l
           set used_value = l.used_value - released + charged, held_value = l.held_value - released
         where l.user_id = book_usage.user_id and l.resource_type = resource
        returning l.user_id)
    insert into pgtrain.usage_entries (user_id, resource_type, kind, amount, run_id)
    select moved.user_id, resource, v.kind, v.amount, book_usage.run_id
      from moved,
           (values ('release'::pgtrain.usage_kind, -released), (case when charged >= 0 then 'charge'::pgtrain.usage_kind else 'refund' end, charged)) v (kind, amount)
     where v.amount <> 0;
end $$;
comment on function pgtrain_private.book_usage(bigint, pgtrain.resource_type, bigint, bigint, bigint) is 'Moves a counter and writes its ledger entries in one statement';

create or replace function pgtrain_private.charge_usage(run_id bigint, resource text, amount bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    wanted pgtrain.resource_type := pgtrain_private.find_resource(resource);
    state record;
begin
    select * into state from pgtrain_private.run_usage(charge_usage.run_id, wanted);
    if state.user_id is null or amount = 0 then
        return;
    end if;
    perform pgtrain_private.prepare_counter(state.user_id, wanted);
    select * into state from pgtrain_private.run_usage(charge_usage.run_id, wanted);
    perform pgtrain_private.book_usage(state.user_id, wanted, charge_usage.run_id, least(state.held, greatest(amount, 0)), amount);
end $$;
comment on function pgtrain_private.charge_usage(bigint, text, bigint) is 'Charges an amount of a run while it goes on, out of its hold as far as that reaches';

create or replace function pgtrain_private.settle_usage(run_id bigint, resource text, used bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    wanted pgtrain.resource_type := pgtrain_private.find_resource(resource);
    state record;
begin
    select * into state from pgtrain_private.run_usage(settle_usage.run_id, wanted);
    if state.user_id is null then
        return;
    end if;
    perform pgtrain_private.prepare_counter(state.user_id, wanted);
    -- Read again: the counter's lock is held now, so nobody else moves this run's usage.
    select * into state from pgtrain_private.run_usage(settle_usage.run_id, wanted);
    if state.held <> 0 or state.charged <> used then
        perform pgtrain_private.book_usage(state.user_id, wanted, settle_usage.run_id, state.held, used - state.charged);
    end if;
end $$;
comment on function pgtrain_private.settle_usage(bigint, text, bigint) is 'Ends the account of a run: USED is charged in all, what was held beyond is released. Repeating it changes nothing';

create or replace function pgtrain_private.release_usage(run_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    one record;
    state record;
begin
    -- In the order of the enum, so that two sessions lock counters in the same order.
    for one in select distinct e.resource_type as resource, e.user_id from pgtrain.usage_entries e join pgtrain.users u on u.id = e.user_id
                where e.run_id = release_usage.run_id order by 1 loop
        perform pgtrain_private.prepare_counter(one.user_id, one.resource);
        select * into state from pgtrain_private.run_usage(release_usage.run_id, one.resource);
        if state.held <> 0 then
            perform pgtrain_private.book_usage(one.user_id, one.resource, release_usage.run_id, state.held, 0);
        end if;
    end loop;
end $$;
comment on function pgtrain_private.release_usage(bigint) is 'Gives back everything that a run still holds';

create or replace function pgtrain_private.apply_plan(user_id bigint, plan_id bigint) returns void
    language sql set search_path = pg_catalog, pg_temp as $$
    insert into pgtrain.user_usage_limits as l (user_id, resource_type, limit_value, reset_period, reset_at)
    select apply_plan.user_id, pl.resource_type, pl.limit_value, pl.reset_period, pgtrain_private.next_reset(pl.reset_period)
      from pgtrain.plan_limits pl where pl.plan_id = apply_plan.plan_id order by pl.resource_type
    on conflict on constraint user_usage_limits_user_id_resource_type_key do update
       set limit_value = excluded.limit_value, reset_period = excluded.reset_period, reset_at = excluded.reset_at
     where not l.is_custom;
$$;
comment on function pgtrain_private.apply_plan(bigint, bigint) is 'Sets the limits of a plan for a user; what was set for him alone stays, what he has used stays';

create or replace function pgtrain_private.start_default_plan(user_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    free_id bigint;
begin
    select p.id into free_id from pgtrain.plans p where p.name = current_setting('pgtrain.default_plan');
    if free_id is null then
        raise exception using errcode = '22023', message = format('plan "%s" does not exist', current_setting('pgtrain.default_plan')),
            hint = 'Set pgtrain.default_plan to a name of pgtrain.plans.';
    end if;
    insert into pgtrain.user_subscriptions (user_id, subscription_id, plan_id, status)
    values (start_default_plan.user_id, format('sub_%s_%s', user_id, extract(epoch from clock_timestamp())), free_id, 'active');
    perform pgtrain_private.apply_plan(start_default_plan.user_id, free_id);
end $$;
comment on function pgtrain_private.start_default_plan(bigint) is 'Subscribes a new user to the plan free';

create or replace function pgtrain.set_usage_limit(user_id bigint, resource text, limit_value bigint, reset_period text default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    period pgtrain.reset_period;
begin
    perform pgtrain_private.require_writable('set_usage_limit');
    if pgtrain_private.require_permission('update', 'limits') <> 'any' then
        raise exception using errcode = '42501', message = 'permission denied to set limits';
    end if;
    if limit_value is null or limit_value < -1 then
        raise exception using errcode = '22023', message = format('limit %s is not acceptable', limit_value), hint = 'Use -1 for unlimited, or 0 and more.';
    end if;
    if not exists (select from pgtrain.users u where u.id = set_usage_limit.user_id) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', set_usage_limit.user_id);
    end if;
    if not coalesce(reset_period = any (enum_range(null::pgtrain.reset_period)::text[]), true) then
        raise exception using errcode = '22023', message = format('period "%s" is unknown', reset_period),
            detail = format('Periods: %s.', array_to_string(enum_range(null::pgtrain.reset_period), ', '));
    end if;
    counter := pgtrain_private.prepare_counter(set_usage_limit.user_id, pgtrain_private.find_resource(resource));
    period := coalesce(reset_period::pgtrain.reset_period, counter.reset_period);
    update pgtrain.user_usage_limits l
       set limit_value = set_usage_limit.limit_value, reset_period = period, is_custom = true,
           reset_at = case when period = counter.reset_period then counter.reset_at else pgtrain_private.next_reset(period) end
     where l.id = counter.id;
    perform pgtrain_private.write_audit('usage_limit_set', null,
        jsonb_build_object('user_id', user_id, 'resource', resource, 'limit_value', limit_value));
end $$;
comment on function pgtrain.set_usage_limit(bigint, text, bigint, text) is 'Sets one limit of one user, -1 for unlimited; a change of plan leaves it';

create or replace view pgtrain.my_usage with (security_invoker) as
    select l.resource_type,
           l.limit_value,
           case when l.reset_at <= now() then l.held_value else l.used_value end as used_value,
           l.held_value,
           case when l.limit_value = -1 then null
                else greatest(l.limit_value - case when l.reset_at <= now() then l.held_value else l.used_value end, 0) end as remaining,
           l.limit_value = -1 as is_unlimited,
           l.reset_period,
           case when l.reset_at <= now() then pgtrain_private.next_reset(l.reset_period) else l.reset_at end as reset_at
      from pgtrain.user_usage_limits l
     where l.user_id = (select pgtrain.current_user_id());
comment on view pgtrain.my_usage is 'The caller''s limits, what he has used and holds in this period, and what is left';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
