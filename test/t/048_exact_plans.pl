# A run whose true steps are known when its data is in tokens: its plan and what it holds of the limit are made exact, and where there is
# not enough room it goes as far as there is. What was measured before and after training is told with what it was measured on.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('plans', 'pgtrain.cpu_workers = 1');
my $ann = $node->safe_psql('postgres', "select id from pgtrain.users where username = 'ann'");
my $shape = ',"batch_size":1,"context":64';
my $step = 64;
sub held_and_charged { my ($run) = @_; return $node->safe_psql('postgres', "select sum(amount) from pgtrain.usage_entries where run_id = $run and resource_type = 'training_tokens'") }
for my $true (5, 35)
{
	my $run = submit($node, "true_steps=$true step_ms=40", $shape);
	ok(wait_for($node, "select step >= 2 from pgtrain.training_runs where id = $run", 't'), "a run of 20 steps turns out to have $true");
	is(run_field($node, $run, "planned_steps || ' ' || planned_tokens"), $true . ' ' . $step * $true, 'its plan is exact then');
	is(held_and_charged($run), $step * $true, 'and so is what it holds');
	ok(wait_status($node, $run, 'succeeded/completed'), 'it succeeds');
	is(run_field($node, $run, 'tokens'), $step * $true, 'having trained so much');
	nothing_left($node, "after $true steps");
}
is($node->safe_psql('postgres', "select before_metrics->>'loss' || ' ' || (before_metrics->>'perplexity')::numeric(9,2) || ' ' || (after_metrics->>'token_accuracy') || ' ' || (after_metrics->>'samples')
	from pgtrain.evaluations order by id desc limit 1"), '5.5 244.69 0.5 3', 'what was measured is told with the number of samples');
is($node->safe_psql('postgres', "select data from pgtrain.training_statuses where status = 'data_read' order by id desc limit 1"),
	'{"steps": 35, "tokens": 1000, "samples": 60, "learned_tokens": 900, "planned_tokens": 2240, "held_out_samples": 3, "truncated_tokens": 17, "truncated_samples": 2}',
	'and what the data turned out to be, with what was cut off');

# Room for 20 steps and not for 35.
my $used = $node->safe_psql('postgres', "select used_value from pgtrain.usage($ann) where resource_type = 'training_tokens'");
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($ann, 'training_tokens', $used + 25 * $step, 'monthly')");
my $run = submit($node, 'true_steps=35 step_ms=10', $shape);
ok(wait_status($node, $run, 'paused/limit_reached'), 'a run with less room than its true steps need stops at the limit');
cmp_ok(run_field($node, $run, 'step'), '>=', 25, 'having gone as far as there was room');
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($ann, 'training_tokens', -1)");
ok(wait_status($node, $run, 'succeeded/completed', 30), 'with more room it comes to its end');
is(run_field($node, $run, 'step'), 35, 'of the true steps');
nothing_left($node, 'at the end');
$node->stop;
done_testing();
