-- Edges of limits and billing: nights in which the clock is moved, months of 28 to 31 days, changes between kinds of period, sizes
-- as large as are counted, plans without a price by the day, runs that were handed over, counters that start again at one instant.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
select pgtrain.register_user('edge_anna', 'anna@edges.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('edge_ben', 'ben@edges.test', 'a long enough secret') as ben \gset
create function pg_temp.counter(who bigint, what text) returns table (limit_value bigint, used bigint, held bigint, is_ahead boolean) language sql as $$
    select l.limit_value, l.used_value, l.held_value, l.reset_at > now() from pgtrain.user_usage_limits l where l.user_id = who and l.resource_type::text = what $$;

-- ---------------------------------------------------------------- the clock
-- An hour is an hour in both nights; a day may have 23 or 25.
select m, t at time zone 'UTC' as t, pgtrain_private.next_reset('hourly', t, m, 'Europe/Berlin') - t as hour, pgtrain_private.next_reset('daily', t, m, 'Europe/Berlin') - t as day
  from unnest(enum_range(null::pgtrain.reset_mode)) m,
       unnest(array['2026-10-25 00:00+00', '2026-10-25 00:30+00', '2026-10-25 01:00+00', '2026-03-29 00:30+00', '2026-03-29 01:00+00']::timestamptz[]) t order by 1, 2;
-- Zones whose offset is not in whole hours.
select pgtrain_private.next_reset('hourly', '2026-06-01 00:10+00', 'calendar', 'Asia/Kolkata') at time zone 'UTC' as kolkata;
-- No period ends before it began, in whatever zone.
select count(*) > 1000 as tried, count(*) filter (where pgtrain_private.next_reset(p, t, m, z) <= t) as wrong
  from unnest(array['UTC', 'America/Havana', 'Africa/Cairo', 'Australia/Lord_Howe', 'Pacific/Apia', 'America/St_Johns']) z,
       unnest(enum_range('hourly'::pgtrain.reset_period, null)) p, unnest(enum_range(null::pgtrain.reset_mode)) m,
       generate_series(timestamptz '2026-01-01 00:30+00', '2026-12-31', interval '13 hours 7 minutes') t;
-- Leap day and ends of months.
select m, p, pgtrain_private.next_reset(p, '2028-02-29 12:00+00', m) at time zone 'UTC' as leap, pgtrain_private.next_reset(p, '2027-01-31 12:00+00', m) at time zone 'UTC' as january
  from unnest(enum_range(null::pgtrain.reset_mode)) m, unnest('{monthly,yearly}'::pgtrain.reset_period[]) p order by 1, 2;

-- Paid periods are counted from the day they began, whatever the session's time zone, and do not drift after a short month.
select pgtrain.set_plan('edge_month', 'Month', 'paid', 3000, 'EUR', 'monthly') as month \gset
select pgtrain.set_plan('edge_year', 'Year', 'paid', 30000, 'EUR', 'yearly') as year \gset
select pgtrain.set_plan('edge_week', 'Week', 'paid', 600, 'EUR', 'weekly') as week \gset
create function pg_temp.ends(plan bigint, anchor timestamptz, n integer) returns text language sql as $$
    with recursive e (t, n) as (select anchor, 0 union all select pgtrain_private.next_period_end(anchor, (select p from pgtrain.plans p where p.id = plan), e.t), e.n + 1 from e where e.n < $3)
    select string_agg(to_char(t at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), ' ' order by t) from e $$;
select pg_temp.ends(:month, '2027-01-31 20:00+00', 14) as month;
select pg_temp.ends(:month, '2027-01-29 20:00+00', 3) as month, pg_temp.ends(:month, '2028-01-30 20:00+00', 3) as leap;
select pg_temp.ends(:year, '2028-02-29 20:00+00', 5) as year;
select pg_temp.ends(:week, '2026-10-20 20:00+00', 3) as week;
set timezone = 'Asia/Tokyo';
select pg_temp.ends(:month, '2027-01-30 20:00+00', 3) as month;
reset timezone;
select count(*) as wrong from unnest(array[:month, :year, :week]) i, lateral (select p from pgtrain.plans p where p.id = i) p (p),
       generate_series(timestamptz '2026-01-01', '2030-01-01', interval '17 days 5 hours') t, lateral (select pgtrain_private.next_period_end('2026-01-31 20:00+00', p.p, t) as e) e
 where e.e is null or e.e <= t or e.e > t + (pgtrain_private.plan_period(p.p)) * 1.04;
-- In a subscription: begun on a 31st, paid ahead, and its plan changed to one with other periods.
select pgtrain.subscribe(:anna, 'edge_month') > 0 as made, pgtrain.record_payment(:anna, 'edge_1', 3000, 'EUR') > 0 as paid;
create function pg_temp.period() returns table (starts timestamp, ends timestamp, is_ending boolean, is_cancelled boolean, plan text, next text) language sql as $$
    select s.current_period_start at time zone 'UTC', s.current_period_end at time zone 'UTC', s.cancel_at_period_end, s.cancelled_at is not null, p.name, n.name
      from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id left join pgtrain.plans n on n.id = s.pending_plan_id
     where s.user_id = current_setting('edge.anna')::bigint and s.status in ('active', 'past_due') $$;
select set_config('edge.anna', :'anna', false) = :'anna' as set;
update pgtrain.user_subscriptions set current_period_start = '2127-01-31 20:00+00', current_period_end = '2127-02-28 20:00+00', period_anchor = '2126-12-31 20:00+00'
 where user_id = :anna and status = 'active';
select pgtrain.record_payment(:anna, 'edge_2', 3000, 'EUR') > 0 as paid;
select * from pg_temp.period();
-- A payment that failed before the period's end, then came: the period that is paid grows.
select pgtrain.payment_failed(:anna, 'edge_3', 3000, 'EUR') > 0 as failed, pgtrain.record_payment(:anna, 'edge_3', 3000, 'EUR') > 0 as paid;
select * from pg_temp.period();
-- What it was meant to cost is in the log beside what came.
select subject->>'amount' as amount, subject->>'price' as price from pgtrain.audit_log where title = 'record_payment' and subject->>'payment_intent_id' = 'edge_3';
select pgtrain.change_plan(:anna, 'edge_week', true) > 0 as changed, pgtrain.record_payment(:anna, 'edge_4', 600, 'EUR') > 0 as paid;
select * from pg_temp.period();
-- Cancelled while a payment is due, it ends with what was paid before.
begin;
select pgtrain.payment_failed(:anna) > 0 as failed, pgtrain.cancel_subscription(:anna) > 0 as cancelled;
select * from pg_temp.period();
update pgtrain.user_subscriptions set current_period_end = now() where user_id = :anna and status = 'past_due';
select pgtrain_private.advance_subscriptions() as moved;
select p.name, s.status from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id where s.user_id = :anna order by s.id;
rollback;
-- A plan for later takes a cancellation back; so does a larger one.
select pgtrain.cancel_subscription(:anna) > 0 as cancelled;
select is_ending, is_cancelled, next from pg_temp.period();
select pgtrain.change_plan(:anna, 'edge_month', false) > 0 as changed;
select is_ending, is_cancelled, next from pg_temp.period();
select pgtrain.cancel_subscription(:anna) > 0 as cancelled, pgtrain.change_plan(:anna, 'edge_month', true) > 0 as changed;
select is_ending, is_cancelled, plan, next from pg_temp.period();

-- ---------------------------------------------------------------- from one kind of period to another
-- A period that was over when the plan changed does not count in the new one; one under way does.
select pgtrain.set_plan('edge_daily', 'Daily', 'free', 0) > 0 as made, pgtrain.set_plan('edge_rolling', 'Rolling', 'free', 0) > 0 as made;
select pgtrain.set_plan_limit('edge_daily', 'api_calls', 1000, 'daily'), pgtrain.set_plan_limit('edge_rolling', 'api_calls', 1000, 'daily', 'rolling');
select pgtrain_private.move_usage(:ben, 'api_calls', 900);
update pgtrain.user_usage_limits set reset_at = now() - interval '3 days' where user_id = :ben and resource_type = 'api_calls';
select pgtrain.change_plan(:ben, 'edge_daily', true) > 0 as changed;
select * from pg_temp.counter(:ben, 'api_calls');
select pgtrain_private.move_usage(:ben, 'api_calls', 400);
select pgtrain.change_plan(:ben, 'edge_rolling', true) > 0 as changed;
select * from pg_temp.counter(:ben, 'api_calls');
select pgtrain_private.move_usage(:ben, 'api_calls', 1);
select * from pg_temp.counter(:ben, 'api_calls');
select pgtrain.set_usage_limit(:ben, 'api_calls', 500, 'weekly', 'calendar'), pgtrain.set_usage_limit(:ben, 'api_calls', 500, 'weekly', 'rolling');
select * from pg_temp.counter(:ben, 'api_calls');
-- Unlimited, then limited below what was used, and back.
select pgtrain.set_usage_limit(:ben, 'api_calls', -1), pgtrain_private.move_usage(:ben, 'api_calls', 5000), pgtrain.set_usage_limit(:ben, 'api_calls', 100);
select limit_value, used_value, remaining, is_unlimited from pgtrain.usage(:ben) where resource_type = 'api_calls';
select pgtrain_private.move_usage(:ben, 'api_calls', 1);
select pgtrain.set_usage_limit(:ben, 'api_calls', -1), pgtrain_private.move_usage(:ben, 'api_calls', 1);
select limit_value, used_value, remaining, is_unlimited from pgtrain.usage(:ben) where resource_type = 'api_calls';
-- What the plan does not name has a share to warn at all the same, once it is given a limit.
select resource_type, limit_value, warn_share from pgtrain.usage(:ben) where resource_type in ('training_jobs', 'gpu_seconds');
-- No runs for whom a plan does not name them, as of every resource.
delete from pgtrain.user_usage_limits where user_id = :ben and resource_type = 'concurrent_runs';
select pgtrain_private.concurrency_limit(:ben);

-- Two counters start again at the same instant, for whoever comes first, once.
select pgtrain.set_usage_limit(:ben, 'training_jobs', 10, 'monthly'), pgtrain.set_usage_limit(:ben, 'training_tokens', 1000, 'monthly');
select pgtrain_private.hold_usage(:ben, 'training_jobs', 1, -61), pgtrain_private.hold_usage(:ben, 'training_tokens', 100, -61), pgtrain_private.settle_usage(-61, 'training_jobs', 1),
       pgtrain_private.charge_usage(-61, 'training_tokens', 40);
update pgtrain.user_usage_limits set reset_at = (select max(reset_at) - interval '2 months' from pgtrain.user_usage_limits where user_id = :ben) where user_id = :ben and resource_type in ('training_jobs', 'training_tokens');
select pgtrain_private.hold_usage(:ben, 'training_jobs', 1, -62), pgtrain_private.hold_usage(:ben, 'training_tokens', 200, -62);
select resource_type, limit_value, used_value, held_value, charged_value, remaining from pgtrain.usage(:ben) where resource_type::text like 'training%';
select resource_type, count(*), sum(amount) from pgtrain.usage_entries where user_id = :ben and kind = 'reset' and resource_type::text like 'training%' group by 1 order by 1;

-- Whoever moves a counter says when: no trigger does.
update pgtrain.user_usage_limits set updated_at = '2026-01-01 UTC' where user_id = :ben and resource_type in ('training_jobs', 'training_tokens', 'api_calls');
select pgtrain_private.settle_usage(-62, 'training_jobs', 1), pgtrain_private.hold_usage(:ben, 'training_tokens', 1, -62), pgtrain_private.move_usage(:ben, 'api_calls', 1);
select resource_type, updated_at > now() - interval '1 minute' as is_kept from pgtrain.user_usage_limits where user_id = :ben and resource_type in ('training_jobs', 'training_tokens', 'api_calls') order by 1;

-- A savepoint takes a hold back, the counter's and the ledger's part of it.
begin;
savepoint s;
select pgtrain_private.hold_usage(:ben, 'training_jobs', 5, -63);
rollback to s;
select pgtrain_private.hold_usage(:ben, 'training_jobs', 9, -63);
rollback to s;
select pgtrain_private.hold_usage(:ben, 'training_jobs', 2, -63);
commit;
select * from pg_temp.counter(:ben, 'training_jobs');

-- ---------------------------------------------------------------- sizes
select pgtrain.set_usage_limit(:anna, 'training_tokens', -1);
select pgtrain_private.hold_usage(:anna, 'training_tokens', 4611686018427387904, -64);
\set VERBOSITY default
\set SHOW_CONTEXT never
select pgtrain_private.hold_usage(:anna, 'training_tokens', 4611686018427387904, -65);
select pgtrain.set_usage_limit(:anna, 'api_calls', 9223372036854775807), pgtrain_private.move_usage(:anna, 'api_calls', 9223372036854775807, null, true);
select pgtrain_private.move_usage(:anna, 'api_calls', 9223372036854775807);
\set VERBOSITY terse
select pgtrain_private.hold_usage(:anna, 'training_tokens', 4611686018427387905, -65);
select * from pg_temp.counter(:anna, 'training_tokens');

-- ---------------------------------------------------------------- gauges
-- Full again after it was empty, a user is told again; a counter tells once a period.
select pgtrain.set_usage_limit(:anna, 'storage_bytes', 100);
select pgtrain_private.move_usage(:anna, 'storage_bytes', n) from unnest(array[90, 5, -5, -80, 80, -90]) n;
select pgtrain.set_usage_limit(:anna, 'provider_tokens', 100, 'never');
select pgtrain_private.move_usage(:anna, 'provider_tokens', n) from unnest(array[90, -90, 90, -90]) n;
select subject->>'resource' as resource, count(*) from pgtrain.audit_log where title = 'usage_warning' and subject->>'user_id' = :'anna' and subject->>'resource' in ('storage_bytes', 'provider_tokens') group by 1 order by 1;

-- ---------------------------------------------------------------- who pays
-- A run that was handed over: what the first user was charged stays with him, the rest is on the second's account.
select pgtrain.set_usage_limit(:ben, 'training_tokens', 10000);
select pgtrain_private.hold_usage(:ben, 'training_tokens', 1000, -66), pgtrain_private.settle_usage(-66, 'training_tokens', 400), pgtrain_private.hold_usage(:anna, 'training_tokens', 600, -66);
select user_id = :anna as is_second, held, charged from pgtrain_private.run_usage(-66, 'training_tokens');
select pgtrain_private.settle_usage(-66, 'training_tokens', 700);
select user_id = :anna as is_second, kind, amount from pgtrain.usage_entries where run_id = -66 order by id;
select * from pgtrain_private.check_ledger();

-- By himself a user comes to no plan whose price is agreed upon elsewhere, or is paid once: neither costs anything by the day.
select pgtrain.set_plan('edge_agreed', 'Agreed', 'enterprise', 0, 'EUR', 'monthly') > 0 as made, pgtrain.set_plan('edge_once', 'Once', 'paid', 99900, 'EUR', 'never') > 0 as made,
       pgtrain.set_plan('edge_yen', 'Yen', 'paid', 2000, 'JPY', 'monthly') > 0 as made;
select session_token as anna_token from pgtrain.login('edge_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('edge_ben', 'a long enough secret') \gset
create role regress_edges;
select pgtrain.grant_application('regress_edges');
set role regress_edges;
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select pgtrain.change_plan(:ben, plan, at_once => false) from unnest(array['edge_agreed']) plan;
select pgtrain.change_plan(:ben, plan, at_once => false) from unnest(array['edge_once']) plan;
select pgtrain.change_plan(:ben, 'free', at_once => false) > 0 as is_free;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.change_plan(:anna, plan, at_once => false) from unnest(array['edge_agreed']) plan;
select pgtrain.change_plan(:anna, plan, at_once => false) from unnest(array['edge_once']) plan;
select pgtrain.change_plan(:anna, plan, at_once => false) from unnest(array['edge_yen']) plan;
select pgtrain.change_plan(:anna, 'edge_week') > 0 as is_smaller;
select pgtrain.logout() as was_there;
reset role;
-- Prices as large as are counted, and names of payments.
select pgtrain.set_plan('edge_dear', 'Dear', 'paid', 9223372036854775807, 'EUR', 'hourly') > 0 as made;
select pgtrain.change_plan(:anna, 'edge_dear') > 0 as changed;
select pgtrain.record_payment(:anna, 'edge_5', 9223372036854775807, 'EUR') > 0 as paid, pgtrain.refund_payment('edge_5', 9223372036854775806) > 0 as refunded, pgtrain.refund_payment('edge_5') > 0 as refunded;
select amount, refunded_amount, status from pgtrain.payment_history where payment_intent_id = 'edge_5';
select pgtrain.record_payment(:anna, '', 5, 'EUR');
select pgtrain.record_payment(:anna, repeat('x', 256), 5, 'EUR');
-- What a service tells in the wrong order, or twice, comes to the same.
\set VERBOSITY sqlstate
select pgtrain.record_payment(:ben, 'edge_6', 600, 'EUR', subscription_id => 'edge_sub', event_id => 'edge_ev1');
select pgtrain.refund_payment('edge_6', event_id => 'edge_ev3');
\set VERBOSITY terse
select pgtrain.subscribe(:ben, 'edge_week', subscription_id => 'edge_sub') > 0 as made, pgtrain.record_payment(:ben, 'edge_6', 600, 'EUR', subscription_id => 'edge_sub', event_id => 'edge_ev1') > 0 as paid;
select pgtrain.payment_failed(:ben, 'edge_6', 600, 'EUR') > 0 as done, pgtrain.record_payment(:ben, 'edge_6', 600, 'EUR', status => 'pending') > 0 as done,
       pgtrain.refund_payment('edge_6', 200, 'edge_ev3') = pgtrain.refund_payment('edge_6', 200, 'edge_ev3') as same, pgtrain.record_payment(:ben, 'edge_6', 600, 'EUR') > 0 as done;
select pgtrain.record_payment(:ben, 'edge_6', 600, 'USD');
select s.status, round(extract(epoch from s.current_period_end - now()) / 86400) as days, h.status, h.refunded_amount
  from pgtrain.user_subscriptions s join pgtrain.payment_history h on h.subscription_id = s.id where s.user_id = :ben;
-- Nor is there a free plan that costs something: everybody may take it.
select pgtrain.set_plan('edge_gift', 'Gift', 'free', 100);
select pgtrain.set_plan('edge_daily', price_amount => 100);

drop owned by regress_edges;
drop role regress_edges;
