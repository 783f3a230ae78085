-- Limits: plans, holds and charges; the ledger's sums are the counters; nothing rewrites the ledger.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
select p.name, p.type, p.price_amount, p.currency, p.billing_period, string_agg(l.resource_type || '=' || l.limit_value || ' ' || l.reset_period, ', ' order by l.resource_type)
  from pgtrain.plans p join pgtrain.plan_limits l on l.plan_id = p.id group by p.id order by p.id;

select pgtrain.register_user('lim_anna', 'anna@limits.test', 'a long enough secret') as anna \gset
select s.status, p.name, s.current_period_end is null as endless from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id where user_id = :anna;

create function pg_temp.state() returns table (resource text, limit_value bigint, used bigint, held bigint, sums_agree boolean) language sql as $$
    select l.resource_type, l.limit_value, l.used_value, l.held_value,
           l.used_value = coalesce((select sum(amount) from pgtrain.usage_entries e where (e.user_id, e.resource_type) = (l.user_id, l.resource_type)), 0)
           and l.held_value = coalesce((select sum(amount) from pgtrain.usage_entries e where (e.user_id, e.resource_type) = (l.user_id, l.resource_type) and kind in ('hold', 'release')), 0)
      from pgtrain.user_usage_limits l where l.user_id = current_setting('lim.anna')::bigint and l.resource_type::text like 'training%' order by l.resource_type $$;
select set_config('lim.anna', :'anna', false) = :'anna' as set;

-- Five jobs, not six; a refusal leaves nothing.
select count(pgtrain_private.hold_usage(:anna, 'training_jobs', 1, -n)) from generate_series(1, 5) n;
select * from pg_temp.state() order by resource;
select pgtrain_private.hold_usage(:anna, 'training_jobs', 1, -6);
\set VERBOSITY default
select pgtrain_private.hold_usage(:anna, 'instances', 11, -6);
\set VERBOSITY terse
select * from pg_temp.state() order by resource;
select pgtrain_private.hold_usage(:anna, 'training_hours', 1, -6);
select pgtrain_private.hold_usage(:anna, 'training_jobs', -1, -6);
select pgtrain_private.hold_usage(:anna, 'training_jobs', null, -6);

-- Charged, released, settled; repeating changes nothing; a rolled-back hold leaves nothing.
select pgtrain_private.settle_usage(-1, 'training_jobs', 1);
select pgtrain_private.settle_usage(-1, 'training_jobs', 1);
select pgtrain_private.settle_usage(-2, 'training_jobs', 0);
select pgtrain_private.settle_usage(-2, 'training_jobs', 0);
select * from pg_temp.state() order by resource;
begin;
select pgtrain_private.hold_usage(:anna, 'training_jobs', 1, -7);
rollback;
select pgtrain_private.hold_usage(:anna, 'training_tokens', 1000, -3);
select pgtrain_private.charge_usage(-3, 'training_tokens', 300);
select * from pg_temp.state() where resource = 'training_tokens';
select pgtrain_private.charge_usage(-3, 'training_tokens', 100);
select pgtrain_private.settle_usage(-3, 'training_tokens', 450);
select * from pg_temp.state() order by resource;
select kind, amount from pgtrain.usage_entries where run_id = -3 and resource_type = 'training_tokens' order by id;
-- More used than held is charged all the same; less than charged is given back.
select pgtrain_private.hold_usage(:anna, 'training_tokens', 10, -4);
select pgtrain_private.charge_usage(-4, 'training_tokens', 25);
select pgtrain_private.settle_usage(-4, 'training_tokens', 20);
select kind, amount from pgtrain.usage_entries where run_id = -4 and resource_type = 'training_tokens' order by id;
select * from pg_temp.state() order by resource;
-- A run that nobody knows costs nothing.
select pgtrain_private.settle_usage(-99, 'training_tokens', 20), pgtrain_private.charge_usage(-99, 'training_tokens', 1);

-- The period ends: what was charged is forgotten, what is held is carried on.
update pgtrain.user_usage_limits set reset_at = now() - interval '1 day' where user_id = :anna and resource_type = 'training_jobs';
select pgtrain_private.hold_usage(:anna, 'training_jobs', 1, -8);
select *, (select reset_at > now() from pgtrain.user_usage_limits where user_id = :anna and resource_type = 'training_jobs') as is_ahead from pg_temp.state() order by resource;
select kind, amount from pgtrain.usage_entries where user_id = :anna and kind = 'reset';
-- Runs of the former period end in the new one.
select pgtrain_private.settle_usage(-n, r::text, s.charged) from generate_series(1, 8) n, unnest(enum_range(null::pgtrain.resource_type)) r, pgtrain_private.run_usage(-n, r) s where s.held <> 0 \g /dev/null
select * from pg_temp.state() order by resource;

-- Unlimited, custom and zero.
select pgtrain.set_usage_limit(:anna, 'training_jobs', -1);
select pgtrain_private.hold_usage(:anna, 'training_jobs', 1000000, -9);
select pgtrain_private.apply_plan(:anna, 1);
select * from pg_temp.state() order by resource;
select pgtrain.set_usage_limit(:anna, 'training_tokens', 0, 'never');
select pgtrain_private.hold_usage(:anna, 'training_tokens', 1, -9);
select pgtrain.set_usage_limit(:anna, 'training_tokens', -2);
select pgtrain.set_usage_limit(-1, 'training_tokens', 2);
select pgtrain.set_usage_limit(:anna, 'tea', 2);
select pgtrain.set_usage_limit(:anna, 'training_tokens', 1, 'fortnightly');

-- Periods.
select p, pgtrain_private.next_reset(p, '2024-12-30 23:59:59+00') at time zone 'UTC' from unnest(enum_range(null::pgtrain.reset_period)) p;

-- The ledger is append-only for everyone, whatever the session says.
update pgtrain.usage_entries set amount = 0;
delete from pgtrain.usage_entries;
truncate pgtrain.usage_entries;
set session_replication_role = replica;
delete from pgtrain.usage_entries;
update pgtrain.audit_log set title = 'x';
truncate pgtrain.usage_entries;
reset session_replication_role;
-- What is entered past the functions is found.
begin;
insert into pgtrain.usage_entries (user_id, resource_type, kind, amount) values (:anna, 'training_jobs', 'release', 5);
select resource_type, used_value - ledger_used as used_off, held_value - ledger_held as held_off from pgtrain_private.check_ledger() where user_id = :anna;
rollback;
-- Rolling periods begin with the first use; days and months begin in the user's time zone.
select m, p, pgtrain_private.next_reset(p, '2024-12-30 23:59:59+00', m, 'Pacific/Auckland') at time zone 'UTC' from unnest(enum_range(null::pgtrain.reset_period)) p, unnest(enum_range(null::pgtrain.reset_mode)) m order by m, p;
select pgtrain.set_usage_limit(:anna, 'api_calls', 10, 'daily', 'rolling', 0.5);
select reset_at from pgtrain.user_usage_limits where user_id = :anna and resource_type = 'api_calls';
begin;
select pgtrain_private.move_usage(:anna, 'api_calls', 4);
select u.used_value, u.remaining, u.reset_at - now() as lasts, u.is_warned, u.is_gauge from pgtrain.usage(:anna) u where resource_type = 'api_calls';
-- Warned at the half, once.
select pgtrain_private.move_usage(:anna, 'api_calls', 1), pgtrain_private.move_usage(:anna, 'api_calls', 1);
select description, subject->>'resource' as resource from pgtrain.audit_log where title = 'usage_warning' and subject->>'user_id' = :'anna' and subject->>'resource' = 'api_calls';
select pgtrain_private.move_usage(:anna, 'api_calls', -2);
update pgtrain.user_usage_limits set reset_at = now() where user_id = :anna and resource_type = 'api_calls';
select u.used_value, u.remaining, u.reset_at, u.is_warned from pgtrain.usage(:anna) u where resource_type = 'api_calls';
select pgtrain_private.move_usage(:anna, 'api_calls', 10);
savepoint full_;
select pgtrain_private.move_usage(:anna, 'api_calls', 1);
rollback to full_;
select pgtrain_private.move_usage(:anna, 'api_calls', 5, null, true);
select * from pgtrain_private.check_ledger();
commit;
select pgtrain.set_limit_time_zone(:anna, 'Moon/Tycho');
select pgtrain.set_limit_time_zone(:anna, 'Pacific/Auckland'), pgtrain.set_usage_limit(:anna, 'api_calls', 10, 'weekly', 'calendar');
select extract(hour from reset_at at time zone 'Pacific/Auckland') as hour, extract(isodow from reset_at at time zone 'Pacific/Auckland') as day from pgtrain.user_usage_limits where user_id = :anna and resource_type = 'api_calls';
select pgtrain.set_usage_limit(:anna, 'instances', 1, 'daily');
select pgtrain.set_usage_limit(:anna, 'instances', 1, reset_mode => 'sometimes');
select pgtrain.set_usage_limit(:anna, 'instances', 1, warn_share => 0);

-- What a user sees of it.
create role regress_limits;
select pgtrain.grant_application('regress_limits');
select session_token from pgtrain.login('lim_anna', 'a long enough secret') \gset
set role regress_limits;
select count(*) from pgtrain.my_usage;
begin;
select pgtrain.authenticate(:'session_token') = :anna as is_anna;
select resource_type, limit_value, used_value, held_value, remaining, is_unlimited, reset_period, reset_at > now() as is_ahead from pgtrain.my_usage order by resource_type;
rollback;
-- What an application asks and counts for a user; nothing of another's.
begin;
select pgtrain.authenticate(:'session_token') = :anna as is_anna;
select pgtrain.check_limit('instances', 10), pgtrain.check_limit('instances', 11), pgtrain.check_limit('provider_tokens'), pgtrain.check_limit('training_jobs', 5);
select pgtrain.count_usage('provider_tokens', 99999) as remaining;
savepoint s;
select pgtrain.count_usage('provider_tokens', 2);
rollback to s;
select pgtrain.count_usage('storage_bytes', 2);
rollback to s;
select pgtrain.count_usage('provider_tokens', -2);
rollback to s;
select pgtrain.check_limit('tea');
rollback to s;
select pgtrain.set_usage_limit(:anna, 'api_calls', -1);
rollback to s;
select pgtrain.set_limit_time_zone(:anna, 'UTC');
rollback to s;
select pgtrain.follow_plan(:anna, 'api_calls');
rollback to s;
select count(*) from pgtrain.usage(-1);
rollback to s;
update pgtrain.user_usage_limits set limit_value = -1;
rollback to s;
update pgtrain.plan_limits set limit_value = -1;
rollback;
select pgtrain.count_usage('api_calls');
reset role;
drop owned by regress_limits;
drop role regress_limits;
