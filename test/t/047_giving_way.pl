# A run of higher priority gets a device that a less important run of the same user has: that one writes a checkpoint, is queued again
# and comes to the same artifact. It keeps its place where giving way would help another user, or nobody.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('way', "pgtrain.cpu_workers = 1\npgtrain.trainer_grace_period = 60s");
# How fast the trainers step that start from now on. Those that are to give way would take half a minute, so that they are not done
# before they are asked; when they go on they are fast.
sub pace
{
	my ($step_ms) = @_;
	open(my $script, '>', fake_trainer() . '.script') or die $!;
	print $script "* step_ms=$step_ms\n";
	close $script;
	return;
}
END { unlink fake_trainer() . '.script' }
my $long = ',"steps":600,"checkpoint_every":200';

pace(0);
my $whole = submit($node, '', $long);
ok(wait_status($node, $whole, 'succeeded/completed'), 'a run that nobody disturbs');

pace(50);
my $modest = submit($node, '', $long);
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $modest", 't'), 'another one steps');
pace(0);
my $equal = submit($node, '');
my $urgent = submit($node, '', '', ', priority => 5');
ok(wait_status($node, $urgent, 'succeeded/completed'), 'a more important one succeeds');
is($node->safe_psql('postgres', "select end_reason from pgtrain.run_attempts where run_id = $modest and attempt = 1"), 'preempted', 'the other one gave way');
cmp_ok($node->safe_psql('postgres', "select extract(epoch from a.ended_at - r.created_at) from pgtrain.training_runs r, pgtrain.run_attempts a
	where r.id = $urgent and a.run_id = $modest and a.attempt = 1"), '<', 15, 'within seconds');
ok(wait_status($node, $modest, 'succeeded/completed'), 'which succeeds later');
ok(wait_status($node, $equal, 'succeeded/completed'), 'as one of equal priority does, which waited');
is($node->safe_psql('postgres', "select (select max(ended_at) from pgtrain.run_attempts where run_id = $modest) < (select started_at from pgtrain.run_attempts where run_id = $equal)"),
	't', 'behind it');
is($node->safe_psql('postgres', "select count(distinct sha256) from pgtrain.artifacts where run_id in ($whole, $modest) and name = 'model.safetensors'"), '1',
	'its artifact equals the undisturbed one byte for byte');
cmp_ok($node->safe_psql('postgres', "select resumed_from_step from pgtrain.run_attempts where run_id = $modest and attempt = 2"), '>=', 3, 'it went on where it was');
is(run_field($node, $modest, "failed_attempts || ' ' || attempt"), '0 2', 'giving way once is no failed attempt');
is($node->safe_psql('postgres', "select count(*) from pgtrain.training_statuses where training_run_id = $modest and data->>'reason' = 'preempted'"), '1', 'its events say why');
nothing_left($node, 'after giving way');

# Where the user is at his limit of runs at once, a free device does not help the important one.
my $owner = $node->safe_psql('postgres', "select id from pgtrain.users where username = 'ann'");
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($owner, 'concurrent_runs', 1)");
set_server($node, 'pgtrain.cpu_workers', '2');
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device' and pid is not null and state = 'idle'", '2'), 'two devices');
pace(50);
my $first = submit($node, '', $long);
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $first", 't'), 'a run steps');
pace(0);
my $second = submit($node, '', '', ', priority => 1');
ok(wait_status($node, $second, 'succeeded/completed'), 'at the limit of runs at once the more important one runs');
ok(wait_status($node, $first, 'succeeded/completed'), 'and the other one after it');
# The other device's worker may have looked for a run before the second one came, and take the first once more.
like($node->safe_psql('postgres', "select string_agg(end_reason::text, ' ' order by attempt) from pgtrain.run_attempts where run_id = $first"), qr/^(preempted ){1,2}completed$/, 'it gave way');
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($owner, 'concurrent_runs', -1)");

# Of two that run, one gives way to one: the less important.
pace(50);
my $low = submit($node, '', $long, ', priority => -2');
my $middle = submit($node, '', ',"steps":200');
ok(wait_for($node, "select count(*) from pgtrain.training_runs where id in ($low, $middle) and step >= 3", '2'), 'two runs step');
pace(0);
my $high = submit($node, '', '', ', priority => 7');
ok(wait_status($node, $high, 'succeeded/completed'), 'a third one, more important, succeeds');
ok(wait_status($node, $_, 'succeeded/completed'), 'as the others do') for $middle, $low;
# While somebody else looks at the important run's entry it is passed over: the other may be claimed, and give way, once more.
like($node->safe_psql('postgres', "select string_agg(run_id - $low || ' ' || end_reason, ', ' order by run_id, attempt) from pgtrain.run_attempts where run_id in ($low, $middle)"),
	qr/^(0 preempted, ){1,2}0 completed, 1 completed$/, 'only the least important one gave way');

# A place that another user would get is not given up for it.
set_server($node, 'pgtrain.cpu_workers', '1');
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device' and pid is not null", '1'), 'one device again');
my $ben = $node->safe_psql('postgres', "select pgtrain.register_user('ben', 'ben\@example.org', 'correct horse battery')");
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($ben, r, -1) from unnest(array['training_jobs', 'training_tokens', 'concurrent_runs']) r");
my $mine = submit($node, 'step_ms=50', ',"steps":150');
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $mine", 't'), 'a run of ann steps');
my $his = $node->safe_psql('postgres', <<'SQL');
select pgtrain.authenticate(session_token, true) > 0 from pgtrain.login('ben', 'correct horse battery');
select pgtrain.append_samples(pgtrain.create_dataset('his'), array['a', 'b', 'c']);
select pgtrain.submit_run(dataset_id => (select id from pgtrain.datasets where name = 'his'), config => '{"size": "nano", "steps": 5, "sample_prompt": "fake: step_ms=5"}');
SQL
($his) = $his =~ /(\d+)\z/;
my $more = submit($node, 'step_ms=5', '', ', priority => 9');
ok(wait_status($node, $_, 'succeeded/completed'), 'all succeed') for $mine, $his, $more;
is($node->safe_psql('postgres', "select string_agg(end_reason::text, ' ') from pgtrain.run_attempts where run_id = $mine"), 'completed',
	'ann\'s did not give way to her own while ben was the next to be served');
nothing_left($node, 'at the end');
$node->stop;
done_testing();
