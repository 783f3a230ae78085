# The device worker, the scheduler, the launcher and the postmaster die, by termination and by KILL, at every phase of a run. The
# run ends once and correctly, continues from its checkpoint, and nothing is left behind.
# A phase is held by a lock on the table that it writes or reads next, or by the trainer, so that no test depends on timing.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use TrainTest;

# Checkpoints and artifacts are files, so that a stray one shows.
my $node = start_server('workers', "pgtrain.lease_duration = 30s\npgtrain.row_storage_limit = 0");
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device' and state = 'idle'", '1'), 'a device worker waits');

# phase => table to lock and how, so that the phase alone is held up, and what the worker says it is at
my %phase = (
	claim => [ 'pgtrain.run_attempts', 'share', 'claiming' ],
	data => [ 'pgtrain.dataset_samples', 'access exclusive', 'reading samples' ],
	step => [],
	checkpoint => [ 'pgtrain.checkpoints', 'share', 'storing a checkpoint' ],
	publish => [ 'pgtrain.evaluations', 'share', 'publishing' ]);
my $plain = submit($node, '', ',"steps":30');
ok(wait_status($node, $plain, 'succeeded/completed'), 'a run that nobody disturbs');
my $hash = $node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $plain and name = 'model.safetensors'");

sub in_phase
{
	my ($phase) = @_;
	my ($table, $mode, $activity) = @{ $phase{$phase} };
	my $locker;
	# The plan is in the cache, so nothing of the submit waits for the lock but its own event.
	if ($table && $phase ne 'claim')
	{
		$locker = $node->background_psql('postgres');
		$locker->query_safe("begin; lock table $table in $mode mode");
	}
	my $run;
	if ($phase eq 'claim')
	{
		# Holds back the claim's last insert, within its transaction; reading goes on.
		set_server($node, 'pgtrain.databases', 'none_such');
		wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind <> 'launcher'", '0');
		$run = submit($node, '', ',"steps":30');
		$locker = $node->background_psql('postgres');
		$locker->query_safe("begin; lock table $table in $mode mode");
		$node->safe_psql('postgres', 'alter system reset pgtrain.databases');
		$node->reload;
	}
	else
	{
		$run = submit($node, $phase eq 'step' ? 'hold@step7#1' : '', ',"steps":30');
	}
	my $reached = $phase eq 'step'
	  ? wait_for($node, "select step > 6 from pgtrain.training_runs where id = $run", 't')
	  : wait_for($node, "select count(*) from pg_stat_activity a join pg_locks l on l.pid = a.pid and not l.granted where a.backend_type = 'pgtrain device worker' and a.query = '$activity'", '1');
	ok($reached, "phase $phase is reached");
	return ($run, $locker);
}

sub check_outcome
{
	my ($run, $phase, $what, $attempts) = @_;
	ok(wait_status($node, $run, 'succeeded/completed', 30), "$what in $phase: the run succeeds");
	like(run_field($node, $run, 'attempt'), qr/\A$attempts\z/, "$what in $phase: number of attempts");
	is($node->safe_psql('postgres', "select count(*) from pgtrain.training_statuses where training_run_id = $run and status = 'succeeded'"), '1',
		"$what in $phase: it ended once");
	is($node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $run and name = 'model.safetensors'"), $hash,
		"$what in $phase: its artifact is that of an undisturbed run");
	nothing_left($node, "$what in $phase");
	return;
}

for my $phase (qw(claim data step checkpoint publish))
{
	my ($run, $locker) = in_phase($phase);
	# Every session ends, the locker's as well, and the server recovers by itself.
	ok(kill_process($node, worker_pid($node, 'device')), "device worker killed in $phase: the server comes back");
	eval { $locker->quit } if $locker;
	check_outcome($run, $phase, 'device worker killed', $phase eq 'claim' ? 1 : 2);
}

for my $phase (qw(claim data step checkpoint publish))
{
	my ($run, $locker) = in_phase($phase);
	crash_server($node);
	eval { $locker->quit } if $locker;
	$node->start;
	check_outcome($run, $phase, 'postmaster killed', $phase eq 'claim' ? 1 : 2);
}

for my $phase (qw(data step checkpoint publish))
{
	my ($run, $locker) = in_phase($phase);
	my $pid = worker_pid($node, 'device');
	# Asked once it finishes what it is at; waiting for a lock it goes when it is asked again, some time later.
	for (1 .. ($locker ? 10 : 1)) { $node->safe_psql('postgres', "select pg_terminate_backend($pid)"); last if poll_gone($pid, 0.7) }
	ok(poll_gone($pid), "device worker terminated in $phase: it goes");
	$locker->query_safe('rollback') if $locker;
	$locker->quit if $locker;
	check_outcome($run, $phase, 'device worker terminated', 2);
	is(run_field($node, $run, 'failed_attempts'), '0', "device worker terminated in $phase: that does not count as a failure") if $phase eq 'step';
}

# The launcher is no part of a run: asked to go, it leaves the run alone; killed, it takes the device worker along.
for my $phase (qw(claim data checkpoint publish))
{
	my ($run, $locker) = in_phase($phase);
	my $pid = worker_pid($node, 'launcher');
	$node->safe_psql('postgres', "select pg_terminate_backend($pid)");
	ok(poll_gone($pid), "launcher terminated in $phase: it goes");
	ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'launcher' and pid <> $pid", '1'), "launcher terminated in $phase: it is started again");
	$locker->query_safe('rollback');
	$locker->quit;
	check_outcome($run, $phase, 'launcher terminated', 1);
	($run, $locker) = in_phase($phase);
	ok(kill_process($node, worker_pid($node, 'launcher')), "launcher killed in $phase: the server comes back");
	eval { $locker->quit };
	check_outcome($run, $phase, 'launcher killed', $phase eq 'claim' ? 1 : 2);
}

for my $kind (qw(scheduler launcher))
{
	my ($run) = in_phase('step');
	my $device_worker = worker_pid($node, 'device');
	my $pid = worker_pid($node, $kind);
	$node->safe_psql('postgres', "select pg_terminate_backend($pid)");
	ok(poll_gone($pid), "$kind terminated: it goes");
	ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = '$kind' and pid <> $pid", '1'), "$kind terminated: it is started again");
	let_go($node, $run);
	check_outcome($run, 'step', "$kind terminated", 1);
	is(worker_pid($node, 'device'), $device_worker, "$kind terminated: the device worker did not notice");
	($run) = in_phase('step');
	ok(kill_process($node, worker_pid($node, $kind)), "$kind killed: the server comes back");
	check_outcome($run, 'step', "$kind killed", 2);
}
$node->stop;
done_testing();
