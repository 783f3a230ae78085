-- Limits, functions: holds and charges of runs, the plan of a user, own usage. Every change of a counter and its ledger entries is
-- one statement, so the sums agree at any moment; the row lock on the counter makes racing holds exact.
-- hold_usage, charge_usage and settle_usage are called by the training domain.
-- A session locks several counters in the order of the enum; storage_bytes comes last, when it commits.

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

create or replace function pgtrain_private.limits_time_zone() returns text
    language c stable as 'MODULE_PATHNAME', 'pgtrain_limits_time_zone';
comment on function pgtrain_private.limits_time_zone() is 'pgtrain.limits_time_zone';

create or replace function pgtrain_private.next_reset(period pgtrain.reset_period, after timestamptz default now(),
    mode pgtrain.reset_mode default 'calendar', time_zone text default 'UTC') returns timestamptz
    language sql stable set search_path = pg_catalog, pg_temp as $$
    -- An hour is an hour, also in the night in which the clock is set back; days and longer go by the clock on the wall.
    select case when p = 'hourly' then case mode when 'calendar' then date_trunc('hour', after, time_zone) else after end + span
                when mode = 'calendar' then (date_trunc(unit, after at time zone time_zone) + span) at time zone time_zone
                else (after at time zone time_zone + span) at time zone time_zone end
      from (values ('hourly'::pgtrain.reset_period, 'hour', interval '1 hour'), ('daily', 'day', interval '1 day'), ('weekly', 'week', interval '7 days'),
                   ('monthly', 'month', interval '1 month'), ('yearly', 'year', interval '1 year')) v (p, unit, span)
     where p = period;
$$;
comment on function pgtrain_private.next_reset(pgtrain.reset_period, timestamptz, pgtrain.reset_mode, text) is 'End of a period that has begun: of the one in the calendar, or of one that begins now; null for never';

create or replace function pgtrain_private.time_zone_of(user_id bigint) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return coalesce((select z.time_zone from pgtrain.user_time_zones z where z.user_id = time_zone_of.user_id), pgtrain_private.limits_time_zone());
end $$;
comment on function pgtrain_private.time_zone_of(bigint) is 'Time zone in which the days and months of a user''s limits begin';

create or replace function pgtrain_private.first_reset(user_id bigint, period pgtrain.reset_period, mode pgtrain.reset_mode, is_used boolean default false)
    returns timestamptz
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    -- What was used stays used, so a rolling period has begun then.
    return case when period = 'never' then null when mode = 'rolling' and not is_used then '-infinity'
                else pgtrain_private.next_reset(period, now(), mode, pgtrain_private.time_zone_of(user_id)) end;
end $$;
comment on function pgtrain_private.first_reset(bigint, pgtrain.reset_period, pgtrain.reset_mode, boolean) is
    'reset_at of a counter that has a kind of period from now on, of which something was used already or nothing';

-- Under the counter's lock this is exact, without it a look.
create or replace function pgtrain_private.room_in(counter pgtrain.user_usage_limits) returns bigint
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select case when counter.limit_value = -1 then 9223372036854775807 else counter.limit_value end
           - case when counter.reset_at <= now() then counter.held_value else counter.used_value end
$$;
comment on function pgtrain_private.room_in(pgtrain.user_usage_limits) is 'What is left of a counter; below 0 when its limit was lowered';

-- Brings the counter of a user and resource into being from his plan, and starts a new period when one is due. Locks the row.
-- A resource that the plan does not name is not included: its limit is 0. Without a use, a rolling period is left to begin later.
create or replace function pgtrain_private.prepare_counter(user_id bigint, resource pgtrain.resource_type, is_use boolean default true)
    returns pgtrain.user_usage_limits
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
begin
    select * into counter from pgtrain.user_usage_limits l
     where l.user_id = prepare_counter.user_id and l.resource_type = resource for no key update;
    if not found then
        insert into pgtrain.user_usage_limits (user_id, resource_type, limit_value, reset_period, reset_mode, reset_at, warn_share)
        select prepare_counter.user_id, resource, coalesce(p.limit_value, 0), coalesce(p.reset_period, 'never'), coalesce(p.reset_mode, 'calendar'),
               pgtrain_private.first_reset(prepare_counter.user_id, coalesce(p.reset_period, 'never'), p.reset_mode),
               case when p.limit_value is null then 0.8 else p.warn_share end
          from (select 1) one
          left join (select pl.limit_value, pl.reset_period, pl.reset_mode, pl.warn_share
                       from pgtrain.user_subscriptions s join pgtrain.plan_limits pl on pl.plan_id = s.plan_id
                      where s.user_id = prepare_counter.user_id and s.status in ('active', 'trialing', 'past_due')
                        and pl.resource_type = resource) p on true
        on conflict on constraint user_usage_limits_user_id_resource_type_key do nothing;
        select * into strict counter from pgtrain.user_usage_limits l
         where l.user_id = prepare_counter.user_id and l.resource_type = resource for no key update;
    end if;
    if counter.reset_at <= now() and (is_use or counter.reset_at > '-infinity') then
        with started as (
            update pgtrain.user_usage_limits l
               set used_value = counter.held_value, warned_at = null, updated_at = now(),
                   reset_at = case when is_use or counter.reset_mode = 'calendar'
                                   then pgtrain_private.next_reset(counter.reset_period, now(), counter.reset_mode, pgtrain_private.time_zone_of(counter.user_id))
                                   else '-infinity' end
             where l.id = counter.id
            returning *),
        booked as (
            insert into pgtrain.usage_entries (user_id, resource_type, kind, amount)
            select counter.user_id, resource, 'reset', counter.held_value - counter.used_value where counter.held_value <> counter.used_value)
        select * into counter from started;
    end if;
    return counter;
end $$;
comment on function pgtrain_private.prepare_counter(bigint, pgtrain.resource_type, boolean) is 'Locks the counter of a user and resource; makes it from his plan or resets it when due';

create or replace function pgtrain_private.refuse_usage(counter pgtrain.user_usage_limits, amount bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    raise exception using errcode = 'PT402', message = format('limit of %s exceeded', counter.resource_type),
        detail = format('Used %s of %s, %s more wanted.', counter.used_value,
                        case when counter.limit_value = -1 then '9223372036854775807, which is as far as is counted' else counter.limit_value::text end, amount)
                 || case when counter.reset_at > '-infinity' then format(' The counter starts again at %s.', counter.reset_at) else '' end,
        hint = case when pgtrain_private.is_gauge(counter.resource_type)
                    then 'Remove what is not needed, or take a larger plan; pgtrain.usage() shows all limits.'
                    else 'Wait for runs to end, for the next period, or take a larger plan; pgtrain.usage() shows all limits.' end;
end $$;
comment on function pgtrain_private.refuse_usage(pgtrain.user_usage_limits, bigint) is 'Raises PT402 for a counter that has no room for an amount';

-- Once a period, by whoever finds the share reached: he holds the counter's lock until he commits.
create or replace function pgtrain_private.warn_usage(user_id bigint, resource pgtrain.resource_type) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
begin
    update pgtrain.user_usage_limits l set warned_at = now(), updated_at = now()
     where l.user_id = warn_usage.user_id and l.resource_type = resource and l.warned_at is null
       and l.limit_value > 0 and l.used_value >= l.limit_value * l.warn_share
    returning * into counter;
    if found then
        perform pgtrain_private.write_audit('usage_warning', format('%s of %s %s are used', counter.used_value, counter.limit_value, resource),
            jsonb_build_object('user_id', counter.user_id, 'resource', resource, 'used_value', counter.used_value, 'limit_value', counter.limit_value,
                               'reset_at', nullif(counter.reset_at, '-infinity')));
        perform pg_notify('pgtrain_limits', counter.user_id || '/' || resource || '/warning');
    end if;
end $$;
comment on function pgtrain_private.warn_usage(bigint, pgtrain.resource_type) is 'Tells listeners of pgtrain_limits (payload: USER/RESOURCE/warning) and the audit log that a user has come near his limit';

-- In C (src/pg/functions/limits.cpp): the entry, and one try to move the counter, which is left to use_anew when the counter is
-- missing, due to start again, or full.
create or replace function pgtrain_private.hold_usage(user_id bigint, resource text, amount bigint, run_id bigint) returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_hold_usage';
comment on function pgtrain_private.hold_usage(bigint, text, bigint, bigint) is 'Reserves an amount for a run, or raises PT402 when that would pass the limit';

create or replace function pgtrain_private.take_usage(user_id bigint, resource text, amount bigint, run_id bigint default null) returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_take_usage';
comment on function pgtrain_private.take_usage(bigint, text, bigint, bigint) is 'Charges an amount at once, or raises PT402 when that would pass the limit';

create or replace function pgtrain_private.use_anew(user_id bigint, resource pgtrain.resource_type, amount bigint, is_held boolean) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits := pgtrain_private.prepare_counter(user_id, resource);
begin
    if pgtrain_private.room_in(counter) < amount then
        perform pgtrain_private.refuse_usage(counter, amount);
    end if;
    update pgtrain.user_usage_limits l set used_value = l.used_value + amount, held_value = l.held_value + case when is_held then amount else 0 end,
           updated_at = now() where l.id = counter.id;
    perform pgtrain_private.warn_usage(counter.user_id, resource);
end $$;
comment on function pgtrain_private.use_anew(bigint, pgtrain.resource_type, bigint, boolean) is 'Moves a counter for what is entered already, after it was made or reset';

-- What is charged at once or given back at once, without a hold: gauges, and counters of things that take no time.
create or replace function pgtrain_private.move_usage(user_id bigint, resource pgtrain.resource_type, amount bigint, run_id bigint default null,
                                                      is_forced boolean default false) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    is_near boolean;
begin
    if amount = 0 then
        return;
    end if;
    for attempt in 1..2 loop
        with moved as (
            update pgtrain.user_usage_limits l
               set used_value = l.used_value + amount, updated_at = now(),
                   -- A gauge that has gone down may be told of again.
                   warned_at = case when amount < 0 and l.used_value + amount < l.limit_value * l.warn_share and pgtrain_private.is_gauge(resource)
                                    then null else l.warned_at end
             where l.user_id = move_usage.user_id and l.resource_type = resource and (l.reset_at is null or l.reset_at > now())
               and (is_forced or amount < 0
                    or case when l.limit_value = -1 then 9223372036854775807 else l.limit_value end - l.used_value >= amount)
            returning l.warned_at is null and l.limit_value > 0 and l.used_value >= l.limit_value * l.warn_share as is_near),
        booked as (
            insert into pgtrain.usage_entries (user_id, resource_type, kind, amount, run_id)
            select move_usage.user_id, resource, case when amount > 0 then 'charge' else 'refund' end::pgtrain.usage_kind, amount, move_usage.run_id from moved)
        select moved.is_near into is_near from moved;
        if found then
            if is_near then
                perform pgtrain_private.warn_usage(move_usage.user_id, resource);
            end if;
            return;
        elsif not exists (select from pgtrain.users u where u.id = move_usage.user_id) then
            -- The account is being deleted, and its counters with it.
            return;
        end if;
        counter := pgtrain_private.prepare_counter(move_usage.user_id, resource);
        exit when not is_forced and amount > pgtrain_private.room_in(counter);
    end loop;
    perform pgtrain_private.refuse_usage(counter, amount);
end $$;
comment on function pgtrain_private.move_usage(bigint, pgtrain.resource_type, bigint, bigint, boolean) is
    'Charges (above 0) or gives back (below 0) an amount at once; raises PT402 when that would pass the limit and is not forced';

-- What a run has held and charged so far.
create or replace function pgtrain_private.run_usage(run_id bigint, resource pgtrain.resource_type, out user_id bigint, out held bigint, out charged bigint)
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    -- Not in SQL language: that would be planned again at each call, which costs more than the rest of ending a run.
    -- A run that was handed over has entries of two users: who held last goes on with it, and pays for what was not charged before.
    select u.id, s.held, s.charged into run_usage.user_id, run_usage.held, run_usage.charged
      from (select (max(array[e.id, e.user_id]))[2] as user_id,
                   coalesce(sum(e.amount) filter (where e.kind in ('hold', 'release')), 0)::bigint as held,
                   coalesce(sum(e.amount) filter (where e.kind in ('charge', 'refund')), 0)::bigint as charged
              from pgtrain.usage_entries e
             where e.run_id = run_usage.run_id and e.resource_type = resource) s
      left join pgtrain.users u on u.id = s.user_id;
end $$;
comment on function pgtrain_private.run_usage(bigint, pgtrain.resource_type) is 'Outstanding hold and charges of a run, and whose account they are on, null when that user is gone';

-- The one place besides hold_usage that moves a counter: releases and charges in one statement with their entries.
create or replace function pgtrain_private.book_usage(user_id bigint, resource pgtrain.resource_type, run_id bigint, released bigint, charged bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    with moved as (
        update pgtrain.user_usage_limits l
           set used_value = l.used_value - released + charged, held_value = l.held_value - released, updated_at = now()
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

-- What has been used stays, and so does the running period, unless the plan has another kind of period.
create or replace function pgtrain_private.apply_plan(user_id bigint, plan_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- Against set_plan_limit: it waits for this, or this for it.
    perform from pgtrain.plans p where p.id = apply_plan.plan_id for share;
    -- A period that is over ends first, or what was used in it would count in one of another kind.
    perform pgtrain_private.prepare_counter(l.user_id, l.resource_type, false) from pgtrain.user_usage_limits l
      where l.user_id = apply_plan.user_id and l.reset_at <= now() and l.reset_at > '-infinity' order by l.resource_type;
    insert into pgtrain.user_usage_limits as l (user_id, resource_type, limit_value, reset_period, reset_mode, reset_at, warn_share)
    select apply_plan.user_id, r.resource_type, coalesce(pl.limit_value, 0), coalesce(pl.reset_period, 'never'), coalesce(pl.reset_mode, 'calendar'),
           pgtrain_private.first_reset(apply_plan.user_id, coalesce(pl.reset_period, 'never'), pl.reset_mode),
           case when pl.id is null then 0.8 else pl.warn_share end
      from unnest(enum_range(null::pgtrain.resource_type)) r (resource_type)
      left join pgtrain.plan_limits pl on pl.plan_id = apply_plan.plan_id and pl.resource_type = r.resource_type
     where pl.id is not null
        or exists (select from pgtrain.user_usage_limits h where h.user_id = apply_plan.user_id and h.resource_type = r.resource_type)
     order by r.resource_type
    on conflict on constraint user_usage_limits_user_id_resource_type_key do update
       set limit_value = excluded.limit_value, reset_period = excluded.reset_period, reset_mode = excluded.reset_mode, updated_at = now(),
           reset_at = case when (l.reset_period, l.reset_mode) = (excluded.reset_period, excluded.reset_mode) then l.reset_at
                           else pgtrain_private.first_reset(l.user_id, excluded.reset_period, excluded.reset_mode, l.used_value > l.held_value) end,
           warn_share = excluded.warn_share,
           warned_at = case when (l.limit_value, l.warn_share) is not distinct from (excluded.limit_value, excluded.warn_share) then l.warned_at end
     where not l.is_custom;
end $$;
comment on function pgtrain_private.apply_plan(bigint, bigint) is 'Sets the limits of a plan for a user, 0 for what it does not name; what was set for him alone stays, what he has used stays';

create or replace function pgtrain_private.require_limits_right(what text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable(what);
    if pgtrain_private.require_permission('update', 'limits') <> 'any' then
        raise exception using errcode = '42501', message = 'permission denied to set limits';
    end if;
end $$;
comment on function pgtrain_private.require_limits_right(text) is 'Refuses everybody who may not set the limits of anybody';

create or replace function pgtrain_private.find_period(period text) returns pgtrain.reset_period
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if not coalesce(period = any (enum_range(null::pgtrain.reset_period)::text[]), true) then
        raise exception using errcode = '22023', message = format('period "%s" is unknown', period),
            detail = format('Periods: %s.', array_to_string(enum_range(null::pgtrain.reset_period), ', '));
    end if;
    return period;
end $$;
comment on function pgtrain_private.find_period(text) is 'A period by name, null for null, or an error naming those there are';

create or replace function pgtrain_private.find_mode(mode text) returns pgtrain.reset_mode
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if not coalesce(mode = any (enum_range(null::pgtrain.reset_mode)::text[]), true) then
        raise exception using errcode = '22023', message = format('mode "%s" is unknown', mode), detail = 'Modes: calendar, rolling.';
    end if;
    return mode;
end $$;
comment on function pgtrain_private.find_mode(text) is 'A mode of a period by name, null for null, or an error naming those there are';

create or replace function pgtrain_private.check_limit_value(limit_value bigint) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if limit_value is null or limit_value < -1 then
        raise exception using errcode = '22023', message = format('limit %s is not acceptable', coalesce(limit_value::text, 'null')),
            hint = 'Use -1 for unlimited, or 0 and more.';
    end if;
end $$;
comment on function pgtrain_private.check_limit_value(bigint) is 'Refuses what is no limit';

create or replace function pgtrain_private.is_gauge(resource pgtrain.resource_type) returns boolean
    language sql immutable
    return resource in ('concurrent_runs'::pgtrain.resource_type, 'instances', 'compute_nodes', 'storage_bytes');
comment on function pgtrain_private.is_gauge(pgtrain.resource_type) is 'Whether it says how much there is now, instead of how much was used in a period';

create or replace function pgtrain_private.check_limit_kind(resource pgtrain.resource_type, period pgtrain.reset_period, warn_share double precision) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if not (warn_share > 0 and warn_share <= 1) then
        raise exception using errcode = '22023', message = format('warn_share %s is not above 0 and at most 1', warn_share);
    elsif period <> 'never' and pgtrain_private.is_gauge(resource) then
        raise exception using errcode = '22023', message = format('%s cannot start again', resource),
            detail = 'It says how much there is now, not how much was used in a period.';
    end if;
end $$;
comment on function pgtrain_private.check_limit_kind(pgtrain.resource_type, pgtrain.reset_period, double precision) is 'Refuses a period for a gauge, and a share that is none';

create or replace function pgtrain.set_usage_limit(user_id bigint, resource text, limit_value bigint, reset_period text default null,
                                                   reset_mode text default null, warn_share double precision default null) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    wanted pgtrain.resource_type;
    period pgtrain.reset_period;
    mode pgtrain.reset_mode;
begin
    perform pgtrain_private.require_limits_right('set_usage_limit');
    perform pgtrain_private.check_limit_value(limit_value);
    if not exists (select from pgtrain.users u where u.id = set_usage_limit.user_id) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', set_usage_limit.user_id);
    end if;
    period := pgtrain_private.find_period(reset_period);
    mode := pgtrain_private.find_mode(reset_mode);
    wanted := pgtrain_private.find_resource(resource);
    perform pgtrain_private.check_limit_kind(wanted, period, warn_share);
    counter := pgtrain_private.prepare_counter(set_usage_limit.user_id, wanted, false);
    period := coalesce(period, counter.reset_period);
    mode := coalesce(mode, counter.reset_mode);
    update pgtrain.user_usage_limits l
       set limit_value = set_usage_limit.limit_value, reset_period = period, reset_mode = mode, is_custom = true, warned_at = null, updated_at = now(),
           warn_share = coalesce(set_usage_limit.warn_share, counter.warn_share),
           reset_at = case when (period, mode) = (counter.reset_period, counter.reset_mode) then counter.reset_at
                           else pgtrain_private.first_reset(counter.user_id, period, mode, counter.used_value > counter.held_value) end
     where l.id = counter.id;
    perform pgtrain_private.write_audit('usage_limit_set', null,
        jsonb_build_object('user_id', user_id, 'resource', resource, 'limit_value', limit_value));
end $$;
comment on function pgtrain.set_usage_limit(bigint, text, bigint, text, text, double precision) is 'Sets one limit of one user, -1 for unlimited; a change of plan leaves it';

create or replace function pgtrain.follow_plan(user_id bigint, resource text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    plan bigint;
begin
    perform pgtrain_private.require_limits_right('follow_plan');
    if not exists (select from pgtrain.users u where u.id = follow_plan.user_id) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', follow_plan.user_id);
    end if;
    counter := pgtrain_private.prepare_counter(follow_plan.user_id, pgtrain_private.find_resource(resource), false);
    update pgtrain.user_usage_limits l set is_custom = false, updated_at = now() where l.id = counter.id;
    select s.plan_id into plan from pgtrain.user_subscriptions s where s.user_id = follow_plan.user_id and s.status in ('active', 'trialing', 'past_due');
    perform pgtrain_private.apply_plan(follow_plan.user_id, plan);
    perform pgtrain_private.write_audit('usage_limit_set', 'that of the plan', jsonb_build_object('user_id', user_id, 'resource', resource));
end $$;
comment on function pgtrain.follow_plan(bigint, text) is 'Takes back what set_usage_limit has set: the limit is that of the user''s plan again';

create or replace function pgtrain.set_limit_time_zone(user_id bigint, time_zone text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_limits_right('set_limit_time_zone');
    if not exists (select from pgtrain.users u where u.id = set_limit_time_zone.user_id) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', set_limit_time_zone.user_id);
    end if;
    if time_zone is null then
        delete from pgtrain.user_time_zones z where z.user_id = set_limit_time_zone.user_id;
    elsif not exists (select from pg_timezone_names n where n.name = set_limit_time_zone.time_zone) then
        raise exception using errcode = '22023', message = format('time zone "%s" is unknown', time_zone), hint = 'pg_timezone_names lists them.';
    else
        insert into pgtrain.user_time_zones (user_id, time_zone) values (set_limit_time_zone.user_id, set_limit_time_zone.time_zone)
        on conflict on constraint user_time_zones_pkey do update set time_zone = excluded.time_zone;
    end if;
    perform pgtrain_private.write_audit('limit_time_zone_set', null, jsonb_build_object('user_id', user_id, 'time_zone', time_zone));
end $$;
comment on function pgtrain.set_limit_time_zone(bigint, text) is 'Time zone in which days and months of a user''s limits begin, null for pgtrain.limits_time_zone; periods under way keep their end';

-- ---------------------------------------------------------------- what users ask

create or replace function pgtrain.usage(user_id bigint default null)
    returns table (resource_type pgtrain.resource_type, limit_value bigint, used_value bigint, charged_value bigint, held_value bigint,
                   remaining bigint, is_unlimited boolean, is_gauge boolean, reset_period pgtrain.reset_period, reset_mode pgtrain.reset_mode,
                   reset_at timestamptz, warn_share double precision, is_warned boolean, is_custom boolean)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    target bigint := coalesce(usage.user_id, pgtrain.current_user_id());
begin
    if usage.user_id is not null and not coalesce(pgtrain_private.may_access(target, 'read', 'limits'), false)
       and not pgtrain_private.is_server_administrator() then
        raise exception using errcode = 'PT404', message = format('user %s does not exist or you may not see his limits', target);
    end if;
    return query
    select l.resource_type, l.limit_value, n.used, n.used - l.held_value, l.held_value,
           case when l.limit_value >= 0 then greatest(l.limit_value - n.used, 0) end, l.limit_value = -1,
           pgtrain_private.is_gauge(l.resource_type),
           l.reset_period, l.reset_mode,
           case when not n.is_over then l.reset_at
                when l.reset_mode = 'calendar' then pgtrain_private.next_reset(l.reset_period, now(), 'calendar', pgtrain_private.time_zone_of(l.user_id)) end,
           l.warn_share, l.warned_at is not null and not n.is_over, l.is_custom
      from pgtrain.user_usage_limits l
     cross join lateral (
           select coalesce(l.reset_at <= now(), false) as is_over,
                  case when l.resource_type = 'concurrent_runs' then (select count(*) from pgtrain.run_attempts a where a.owner_id = l.user_id and a.ended_at is null)
                       when l.resource_type = 'instances' then (select count(*) from pgtrain.instances i where i.owner_id = l.user_id)
                       when l.resource_type = 'compute_nodes' then (select count(*) from pgtrain.compute_nodes c where c.owner_id = l.user_id)
                       when l.reset_at <= now() then l.held_value else l.used_value end as used) n
     where l.user_id = target
     order by l.resource_type;
end $$;
comment on function pgtrain.usage(bigint) is 'What a user (the caller by default) may use, has used, holds, what is left, and when the counter starts again (null: never, or with the next use)';

create or replace function pgtrain.check_limit(resource text, amount bigint default 1) returns boolean
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain_private.require_user();
    wanted pgtrain.resource_type := pgtrain_private.find_resource(resource);
begin
    if amount is null or amount < 0 then
        raise exception using errcode = '22023', message = format('amount %s is not acceptable', coalesce(amount::text, 'null'));
    end if;
    return coalesce((select u.is_unlimited or u.remaining >= amount from pgtrain.usage(me) u where u.resource_type = wanted),
                    (select pl.limit_value = -1 or pl.limit_value >= amount
                       from pgtrain.user_subscriptions s join pgtrain.plan_limits pl on pl.plan_id = s.plan_id
                      where s.user_id = me and s.status in ('active', 'trialing', 'past_due') and pl.resource_type = wanted), false);
end $$;
comment on function pgtrain.check_limit(text, bigint) is 'Whether the caller has so much of a resource left at this moment; reserves nothing';

create or replace function pgtrain.count_usage(resource text, amount bigint default 1) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain_private.require_user();
    wanted pgtrain.resource_type := pgtrain_private.find_resource(resource);
begin
    perform pgtrain_private.require_writable('count_usage');
    if wanted not in ('api_calls', 'provider_tokens') then
        raise exception using errcode = '22023', message = format('%s is counted by the server itself', wanted), hint = 'Count api_calls or provider_tokens.';
    elsif amount is null or amount < 1 or amount > 1000000000000 then
        raise exception using errcode = '22023', message = format('amount %s is not between 1 and 1000000000000', coalesce(amount::text, 'null'));
    end if;
    perform pgtrain_private.take_usage(me, resource, amount);
    return (select case when l.limit_value >= 0 then l.limit_value - l.used_value end from pgtrain.user_usage_limits l
             where l.user_id = me and l.resource_type = wanted);
end $$;
comment on function pgtrain.count_usage(text, bigint) is 'Counts api_calls or provider_tokens of the caller, or raises PT402; returns what is left, null for unlimited';

create or replace view pgtrain.my_usage with (security_invoker) as
    select u.resource_type, u.limit_value, u.used_value, u.held_value, u.remaining, u.is_unlimited, u.reset_period, u.reset_at from pgtrain.usage() u;
comment on view pgtrain.my_usage is 'The caller''s limits, what he has used and holds in this period, and what is left';

-- ---------------------------------------------------------------- the books

create or replace function pgtrain_private.check_ledger(out user_id bigint, out resource_type pgtrain.resource_type, out used_value bigint,
    out ledger_used numeric, out held_value bigint, out ledger_held numeric) returns setof record
    language sql stable set search_path = pg_catalog, pg_temp as $$
    -- One statement, so one snapshot. Entries without a counter are those of users who are gone.
    select l.user_id, l.resource_type, l.used_value, coalesce(e.used, 0), l.held_value, coalesce(e.held, 0)
      from pgtrain.user_usage_limits l
      left join (select u.user_id, u.resource_type, sum(u.amount) as used, sum(u.amount) filter (where u.kind in ('hold', 'release')) as held
                   from pgtrain.usage_entries u group by 1, 2) e on e.user_id = l.user_id and e.resource_type = l.resource_type
     where l.used_value <> coalesce(e.used, 0) or l.held_value <> coalesce(e.held, 0) or l.used_value < l.held_value or l.held_value < 0
    union all
    select e.user_id, e.resource_type, null, sum(e.amount), null, sum(e.amount) filter (where e.kind in ('hold', 'release'))
      from pgtrain.usage_entries e
     where exists (select from pgtrain.users u where u.id = e.user_id)
       and not exists (select from pgtrain.user_usage_limits l where l.user_id = e.user_id and l.resource_type = e.resource_type)
     group by 1, 2
$$;
comment on function pgtrain_private.check_ledger() is 'Every user and resource whose counter is not the sum of the ledger; no row is as it must be';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
