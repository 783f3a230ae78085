# Many sessions at once on limits and billing, with the server killed in the middle: a limit of api_calls admits exactly K of 200; an
# event that 40 sessions deliver acts once; plans change to and fro while others hold and periods end. The ledger agrees after each,
# and after a kill -9 of all processes and the recovery.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TrainTest;

my $node = start_server('billing', "max_connections = 240\npgtrain.cpu_workers = 0\nfsync = on\n");
my $k = 20 + int(rand(100));
$node->safe_psql('postgres', <<SQL);
select pgtrain.register_user('anna', 'anna\@races.test', 'correct horse battery');
create table public.walker as select id from pgtrain.users where username = 'anna';
select pgtrain.set_plan('small', 'Small', 'paid', 100, 'EUR', 'weekly'), pgtrain.set_plan('large', 'Large', 'paid', 900, 'EUR', 'weekly');
select pgtrain.set_plan_limit('small', 'api_calls', $k), pgtrain.set_plan_limit('large', 'api_calls', -1), pgtrain.set_plan_limit('small', 'training_jobs', -1),
       pgtrain.set_plan_limit('large', 'training_jobs', -1, 'hourly');
create sequence public.numbers;
SQL
my $anna = $node->safe_psql('postgres', 'select id from public.walker');
sub books { is($node->safe_psql('postgres', 'select * from pgtrain_private.check_ledger()'), '', "the ledger agrees $_[0]"); return }

sub script
{
	my ($name, $sql) = @_;
	my $file = $node->basedir . "/$name.sql";
	open(my $script, '>', $file) or die;
	print $script $sql;
	close $script;
	return $file;
}
sub race
{
	my ($sessions, $sql, $times) = @_;
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', $sessions, '-j', 4, '-t', $times // 1, '-f', script('race', $sql), $node->connstr('postgres') ]);
	return "$out\n$err";
}

# ---------------------------------------------------------------- one event, one subscription, one limit
race(40, "select pgtrain.subscribe($anna, 'small', event_id => 'subscribe');\n");
is($node->safe_psql('postgres', "select count(*) from pgtrain.user_subscriptions where user_id = $anna"), '2', 'an event that 40 sessions deliver subscribes once');
my $said = race(40, "select pgtrain.record_payment($anna, 'pi', 100, 'EUR', event_id => 'pay' || (random() < 0.5)::text);\n");
unlike($said, qr/ERROR/, 'a payment that they tell under two names is no error');
is($node->safe_psql('postgres', "select status || ' ' || round(extract(epoch from current_period_end - now()) / 86400) from pgtrain.user_subscriptions where user_id = $anna and status <> 'cancelled'"),
	'active 7', 'and pays for one week');
is($node->safe_psql('postgres', "select count(*) from pgtrain.payment_history"), '1', 'as one payment');
$said = race(200, "select pgtrain_private.take_usage($anna, 'api_calls', 1);\n");
my $refused = () = $said =~ /limit of api_calls exceeded/g;
is($refused, 200 - $k, "all but $k of 200 calls are refused");
is($node->safe_psql('postgres', "select used_value from pgtrain.usage($anna) where resource_type = 'api_calls'"), $k, 'that many are counted');
is($node->safe_psql('postgres', "select count(*) from pgtrain.audit_log where title = 'usage_warning' and subject->>'resource' = 'api_calls' and (subject->>'user_id')::bigint = $anna"), '1', 'he is warned once');
books('then');
race(40, "select pgtrain.refund_payment('pi', 2, event_id => 'refund' || (random() < 0.5)::text);\n");
is($node->safe_psql('postgres', 'select refunded_amount from pgtrain.payment_history'), '4', 'two refunds of 2 give 4 back');

# ---------------------------------------------------------------- everything at once, and the server killed
my %scripts = (
	hold => "select pgtrain_private.hold_usage($anna, 'training_jobs', 1, -nextval('public.numbers'));\nselect pgtrain_private.settle_usage(-greatest(currval('public.numbers') - 3, 1), 'training_jobs', 1);\n",
	count => "select pgtrain_private.take_usage($anna, 'api_calls', 1);\n",
	change => "select pgtrain.change_plan($anna, (array['small', 'large'])[1 + floor(random() * 2)::integer], true);\n",
	# One counter, because several would be locked in another order than everywhere.
	# The pauses are the pace of pgbench's clients, which race for a given time; nothing waits for them.
	due => "update pgtrain.user_usage_limits set reset_at = now() where id = (select id from pgtrain.user_usage_limits where user_id = $anna and reset_at is not null order by random() limit 1);\n\\sleep 5 ms\n",
	pay => "select pgtrain.record_payment($anna, 'p' || nextval('public.numbers') / 2, 100, 'EUR');\n\\sleep 5 ms\n",
	period => "update pgtrain.user_subscriptions set current_period_end = now() where user_id = $anna and status = 'active';\n\\sleep 20 ms\n",
);
for my $round (1 .. 3)
{
	my (@running, @said);
	for my $name (sort keys %scripts)
	{
		push @said, '';
		# Refusals are expected: with --max-tries of the client's default a failed script ends its client only.
		push @running, IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-j', 1, '-T', 20, '-f', script($name, $scripts{$name}), $node->connstr('postgres') ], '>', \$said[-1], '2>&1', IPC::Run::timeout(60));
	}
	my $before = $node->safe_psql('postgres', 'select count(*) from pgtrain.usage_entries');
	ok(wait_for($node, "select count(*) > $before + 300 from pgtrain.usage_entries", 't'), "round $round: there is something to count");
	books('while all goes on');
	crash_server($node);
	for my $handle (@running) { eval { $handle->finish } }
	$node->start;
	books('after kill -9 and recovery');
	is($node->safe_psql('postgres', "select count(*) from pgtrain.user_subscriptions where user_id = $anna and status in ('active', 'trialing', 'past_due')"), '1', 'one subscription is live');
	is($node->safe_psql('postgres', <<SQL), '0', 'and its limits are in force');
select count(*) from pgtrain.user_subscriptions s join pgtrain.plan_limits p on p.plan_id = s.plan_id
  join pgtrain.user_usage_limits l on l.user_id = s.user_id and l.resource_type = p.resource_type
 where s.user_id = $anna and s.status in ('active', 'trialing', 'past_due') and l.limit_value <> p.limit_value
SQL
	my @strange = grep { /ERROR/ && !/limit of api_calls exceeded|terminat|shut|recovery|has no subscription|server closed/ } split /\n/, join "\n", @said;
	is("@strange", '', 'no act ended in an error that is not its own');
}
# ---------------------------------------------------------------- the scheduler moves what has ended
$node->safe_psql('postgres', "select pgtrain.change_plan($anna, 'large', true)");
$node->safe_psql('postgres', "update pgtrain.user_subscriptions set status = 'active', grace_until = null, current_period_end = now(), cancel_at_period_end = true where user_id = $anna and status in ('active', 'past_due')");
ok(wait_for($node, "select p.name from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id where s.user_id = $anna and s.status = 'active'", 'free'), 'the scheduler ends a cancelled subscription with its period');
is($node->safe_psql('postgres', "select limit_value from pgtrain.usage($anna) where resource_type = 'api_calls'"), '1000', 'and its user has the limits of the plan free');
books('at the end');
$node->stop;
done_testing();
