-- Billing: who may do what, plans and limits of each state, events that come twice, the ends of periods, refunds.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
create role regress_billing;
select pgtrain.grant_application('regress_billing');
select pgtrain.register_user('bil_anna', 'anna@billing.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('bil_ben', 'ben@billing.test', 'a long enough secret') as ben \gset
select pgtrain.register_user('bil_gate', 'gate@billing.test', 'a long enough secret') as gate \gset
select pgtrain.create_role('bil_webhook') > 0 as made;
select pgtrain.grant_permission('bil_webhook', 'update', 'billing', 'any'), pgtrain.grant_permission('bil_webhook', 'read', 'billing', 'any');
select pgtrain.grant_role(:gate, 'bil_webhook');
select session_token as anna_token from pgtrain.login('bil_anna', 'a long enough secret') \gset
select session_token as gate_token from pgtrain.login('bil_gate', 'a long enough secret') \gset
select set_config('bil.anna', :'anna', false) = :'anna' as set;
create function pg_temp.state() returns table (plan text, status text, starts_in_days float, ends_in_days float, is_ending boolean, next_plan text, grace_days float, jobs bigint, used bigint, is_custom boolean)
language sql as $$
    select p.name, s.status::text, round(extract(epoch from s.current_period_start - now()) / 86400), round(extract(epoch from s.current_period_end - now()) / 86400),
           s.cancel_at_period_end, n.name, round(extract(epoch from s.grace_until - now()) / 86400), l.limit_value, l.used_value, l.is_custom
      from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id left join pgtrain.plans n on n.id = s.pending_plan_id
      join pgtrain.user_usage_limits l on l.user_id = s.user_id and l.resource_type = 'training_jobs'
     where s.user_id = current_setting('bil.anna')::bigint and s.status not in ('cancelled', 'expired') order by s.id $$;
-- A period of so many days, moved into the past: as if time had passed.
create function pg_temp.pass(days integer) returns void language sql as $$
    update pgtrain.user_subscriptions s set current_period_start = s.current_period_start - days * interval '24 hours', current_period_end = s.current_period_end - days * interval '24 hours',
           trial_end = s.trial_end - days * interval '24 hours', grace_until = s.grace_until - days * interval '24 hours'
     where s.user_id = current_setting('bil.anna')::bigint and s.status in ('pending', 'trialing', 'active', 'past_due') $$;
-- Plans by the week, so that no month's length shows.
select pgtrain.set_plan('bil_small', 'Small', 'paid', 1000, 'EUR', 'weekly') > 0 as made, pgtrain.set_plan('bil_large', 'Large', 'paid', 9000, 'EUR', 'weekly') > 0 as made;
select pgtrain.set_plan_limit('bil_small', 'training_jobs', 20), pgtrain.set_plan_limit('bil_large', 'training_jobs', 100), pgtrain.set_plan_limit('bil_large', 'api_calls', -1, 'daily', 'rolling', 0.5);
select l.resource_type, l.limit_value, l.reset_period, l.reset_mode, l.warn_share from pgtrain.plan_limits l join pgtrain.plans p on p.id = l.plan_id where p.name like 'bil%' order by p.name, 1;
select pgtrain.set_plan('free', price_amount => 5);
select pgtrain.set_plan('Bad Name');
select pgtrain.set_plan('bil_bad', type => 'gift');
select pgtrain.set_plan('bil_bad', price_amount => -1);
select pgtrain.set_plan_limit('bil_none', 'training_jobs', 1);
select pgtrain.set_plan_limit('bil_small', 'storage_bytes', 1, 'daily');

-- What a user may do himself: take nothing that costs, nothing for another.
set role regress_billing;
select pgtrain.subscribe(:anna, 'bil_small');
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.subscribe(:anna, 'free') > 0 as same;
savepoint s;
select pgtrain.subscribe(:anna, 'bil_small');
rollback to s;
select pgtrain.subscribe(:ben, 'free');
rollback to s;
select pgtrain.subscribe(:anna, 'bil_small', trial_days => 5);
rollback to s;
select pgtrain.change_plan(:anna, 'bil_large');
rollback to s;
select pgtrain.change_plan(:anna, 'bil_large', at_once => false);
rollback to s;
select pgtrain.record_payment(:anna, 'pi_x', 1000, 'EUR');
rollback to s;
select pgtrain.renew_subscription(:anna);
rollback to s;
select pgtrain.payment_failed(:anna);
rollback to s;
select pgtrain.refund_payment('pi_x');
rollback to s;
\set VERBOSITY sqlstate
select pgtrain.cancel_subscription(:anna);
rollback to s;
\set VERBOSITY terse
select pgtrain.cancel_subscription(:ben);
rollback to s;
select pgtrain.set_plan('bil_gift', price_amount => 0);
rollback to s;
select pgtrain.set_plan_limit('free', 'training_jobs', -1);
rollback to s;
insert into pgtrain.user_subscriptions (user_id, subscription_id, plan_id, status) values (:anna, 'x', 3, 'active');
rollback to s;
update pgtrain.user_subscriptions set plan_id = 3;
rollback to s;
update pgtrain.plan_limits set limit_value = -1;
rollback to s;
select plan, type, status, current_period_end from pgtrain.my_subscription;
rollback;
reset role;

-- The webhook: pending until paid, and everything twice.
set role regress_billing;
select pgtrain.authenticate(:'gate_token', session => true) = :gate as is_gate;
select pgtrain.subscribe(:anna, 'bil_small', subscription_id => 'S1', event_id => 'E1') as sub \gset
select pgtrain.subscribe(:anna, 'bil_small', subscription_id => 'S1', event_id => 'E1') = :sub as same;
select pgtrain.subscribe(:ben, 'bil_small', subscription_id => 'S1', event_id => 'E1');
reset role;
select * from pg_temp.state();
select pgtrain_private.hold_usage(:anna, 'training_jobs', 3, -100);
set role regress_billing;
select pgtrain.record_payment(:anna, 'pi_1', 1000, 'EUR', event_id => 'E2') as payment \gset
select pgtrain.record_payment(:anna, 'pi_1', 1000, 'EUR', event_id => 'E2') = :payment as same;
-- Another event about the same payment gives no second period.
select pgtrain.record_payment(:anna, 'pi_1', 1000, 'EUR', event_id => 'E3') = :payment as same;
select pgtrain.record_payment(:anna, 'pi_1', 1000, 'EUR') = :payment as same;
select pgtrain.record_payment(:anna, 'pi_1', 1, 'EUR');
select pgtrain.record_payment(:ben, 'pi_1', 1000, 'EUR');
select pgtrain.record_payment(:anna, 'pi_2', -5, 'EUR');
select pgtrain.record_payment(:anna, 'pi_2', 5, 'euro');
select pgtrain.record_payment(:anna, 'pi_2', 5, 'EUR', status => 'failed');
\set VERBOSITY sqlstate
select pgtrain.record_payment(:anna, 'pi_2', 5, 'EUR', subscription_id => 'S9');
\set VERBOSITY terse
select pgtrain.record_payment(-1, 'pi_2', 5, 'EUR');
reset role;
select * from pg_temp.state();
set role regress_billing;
\set VERBOSITY sqlstate
select pgtrain.subscribe(:anna, 'bil_large');
\set VERBOSITY terse
-- In mid-period: a larger plan at once, what was used stays used; a smaller one at the end of the period.
select pgtrain.change_plan(:anna, 'bil_large', event_id => 'E4') = :sub as same, pgtrain.change_plan(:anna, 'bil_large', event_id => 'E4') = :sub as same;
reset role;
select * from pg_temp.state();
select l.resource_type, l.limit_value, l.reset_period, l.reset_mode, l.reset_at from pgtrain.user_usage_limits l where l.user_id = :anna and l.resource_type = 'api_calls';
set role regress_billing;
select pgtrain.change_plan(:anna, 'bil_small', event_id => 'E5') = :sub as same;
reset role;
select * from pg_temp.state();
-- Renewed by a payment before the end, then the end comes: smaller plan, payment due, grace, paid, due again, expired.
select pg_temp.pass(7), pgtrain_private.advance_subscriptions() as moved;
select * from pg_temp.state();
select pgtrain_private.advance_subscriptions() as moved;
set role regress_billing;
select pgtrain.record_payment(:anna, 'pi_3', 1000, 'EUR', payment_method => 'card') > 0 as recorded;
select pgtrain.record_payment(:anna, 'pi_4', 1000, 'EUR', status => 'pending') > 0 as recorded;
reset role;
select * from pg_temp.state();
set role regress_billing;
select pgtrain.record_payment(:anna, 'pi_4', 1000, 'EUR') > 0 as recorded;
reset role;
select * from pg_temp.state();
set role regress_billing;
select pgtrain.payment_failed(:anna, 'pi_5', 1000, 'EUR', 'no money', event_id => 'E6') = :sub as same, pgtrain.payment_failed(:anna, 'pi_5', 1000, 'EUR', 'no money', event_id => 'E6') = :sub as same;
reset role;
select * from pg_temp.state();
select pg_temp.pass(3);
-- Not put off by failing again.
select pgtrain.payment_failed(:anna, 'pi_6', 1000, 'EUR') = :sub as same;
select * from pg_temp.state();
-- What was paid before is not taken: the days of grace follow it.
select pg_temp.pass(11), pgtrain_private.advance_subscriptions() as moved;
select pg_temp.pass(7), pgtrain_private.advance_subscriptions() as moved;
select * from pg_temp.state();
-- A payment that comes after all brings it back, late news about others do not.
select pgtrain.payment_failed(:anna, 'pi_3', 1000, 'EUR') > 0 as done;
select pgtrain.record_payment(:anna, 'pi_6', 1000, 'EUR', subscription_id => 'S1') > 0 as recorded;
select * from pg_temp.state();

-- Cancelled by the user himself: with the period; kept; again.
set role regress_billing;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.cancel_subscription(:anna) = :sub as same;
select plan, status, cancel_at_period_end, next_plan from pgtrain.my_subscription;
select pgtrain.keep_subscription(:anna) = :sub as same;
select pgtrain.change_plan(:anna, 'free') = :sub as same;
select plan, status, cancel_at_period_end, next_plan from pgtrain.my_subscription;
select amount, refunded_amount, currency, status, payment_method from pgtrain.payment_history order by id;
select count(*) > 5 as events from pgtrain.billing_events;
select pgtrain.logout() as was_there;
reset role;
select pg_temp.pass(7), pgtrain_private.advance_subscriptions() as moved;
select * from pg_temp.state();

-- Trials: one for a user; ended by a payment, or by its end. A custom limit stays in all of this.
select pgtrain.set_usage_limit(:anna, 'training_jobs', 77);
select pgtrain.subscribe(:anna, 'bil_large', trial_days => 14) as trial \gset
select * from pg_temp.state();
select round(extract(epoch from u.trial_ends_at - now()) / 86400) as trial_days from pgtrain.users u where u.id = :anna;
select pg_temp.pass(10), pgtrain.record_payment(:anna, 'pi_7', 9000, 'EUR') > 0 as recorded;
select * from pg_temp.state();
select pgtrain.renew_subscription(:anna, event_id => 'E7') = :trial as same, pgtrain.renew_subscription(:anna, event_id => 'E7') = :trial as same;
select * from pg_temp.state();
select pgtrain.renew_subscription(:anna, '2020-01-01 UTC');
select pgtrain.cancel_subscription(:anna, at_once => true) = :trial as same;
select pgtrain.follow_plan(:anna, 'training_jobs');
select * from pg_temp.state();
\set VERBOSITY sqlstate
select pgtrain.subscribe(:anna, 'bil_large', trial_days => 14);
select pgtrain.renew_subscription(:anna);
\set VERBOSITY terse
select pgtrain.subscribe(:ben, 'bil_large', trial_days => 1) > 0 as made;
-- In one transaction: the scheduler may not be the first to see it.
begin;
update pgtrain.user_subscriptions set trial_end = now(), current_period_end = now() where user_id = :ben and status = 'trialing';
select pgtrain_private.advance_subscriptions() as moved;
commit;
select p.name, s.status from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id where s.user_id = :ben order by s.id;
-- A pending one that nobody pays is given up; a second one takes the place of the first.
select pgtrain.subscribe(:anna, 'bil_small') > 0 as made, pgtrain.subscribe(:anna, 'bil_large') > 0 as made;
select * from pg_temp.state();
select pg_temp.pass(31), pgtrain_private.advance_subscriptions() as moved;
select * from pg_temp.state();
select pgtrain.set_plan('bil_small', is_active => false) > 0 as set;
select pgtrain.subscribe(:anna, 'bil_small');
select pgtrain.subscribe(:anna, 'bil_medium');

-- Refunds, in parts, never more than was paid.
select pgtrain.refund_payment('pi_7', 4000, 'R1') = pgtrain.refund_payment('pi_7', 4000, 'R1') as same;
select amount, refunded_amount, status from pgtrain.payment_history where payment_intent_id = 'pi_7';
select pgtrain.refund_payment('pi_7', 5001);
select pgtrain.refund_payment('pi_7', 0);
select pgtrain.refund_payment('pi_7') > 0 as refunded;
select amount, refunded_amount, status from pgtrain.payment_history where payment_intent_id = 'pi_7';
select pgtrain.refund_payment('pi_7', 1);
select pgtrain.refund_payment('pi_5');
select pgtrain.refund_payment('pi_99');
select pgtrain.refund_payment('pi_7', 1, 'R1');

-- A plan that is changed changes for those who have it, but for limits of their own.
select pgtrain.set_plan_limit('free', 'training_jobs', 6);
select l.limit_value from pgtrain.user_usage_limits l where l.user_id in (:anna, :ben) and l.resource_type = 'training_jobs';
select pgtrain.set_plan_limit('free', 'training_jobs', 5);

select a.title, count(*) from pgtrain.audit_log a where a.subject ->> 'user_id' in (:'anna', :'ben') and a.subject ? 'subscription' group by 1 order by 1;
select * from pgtrain_private.check_ledger();
drop owned by regress_billing;
drop role regress_billing;
