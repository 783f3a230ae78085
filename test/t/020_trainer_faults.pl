# The trainer dies or misbehaves in every way at every phase of a run. The run ends once and correctly, nothing is left behind,
# and sessions of others live on. The device worker itself never dies of it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

# No worker yet, so that all runs are queued before the first is claimed. A trainer that only has no processor for a while is not silent.
my $node = start_server('faults', "pgtrain.trainer_silence_timeout = 5s\npgtrain.trainer_start_timeout = 6s\npgtrain.cpu_workers = 0");
my $witness = $node->background_psql('postgres');
my $witness_pid = $witness->query_safe('select pg_backend_pid()');

# Phases: the trainer starts, just after the claim (such a script cannot come with the job, so it lies beside the program), the job is taken, data load, a step, writing a checkpoint, between the artifacts and the end.
my @phases = qw(job data step3 checkpoint publish);
my %reason = (
	segv => 'trainer_crashed', kill => 'trainer_crashed', abort => 'trainer_crashed', exit3 => 'trainer_crashed',
	garbage => 'protocol_violation', flood => 'protocol_violation', hang => 'trainer_hung');
my %exit = (segv => 'signal 11 (SIGSEGV)', kill => 'signal 9 (SIGKILL)', abort => 'signal 6 (SIGABRT)', exit3 => 'exit code 3');

# In the first attempt only: the run succeeds with the second. As many workers as silent runs, so that these share the wait.
my %run;
for my $fault (sort keys %reason)
{
	$run{"$fault\@$_"} = submit($node, "$fault\@$_#1") for @phases;
	$run{"$fault\@start"} = submit($node, '');
	append_to_file(fake_trainer() . '.script', $run{"$fault\@start"} . ".1 $fault\@start\n");
}
END { unlink fake_trainer() . '.script' }
my $workers = "select string_agg(pid::text, ',' order by pid) from pgtrain_private.worker_states() where kind = 'device'";
set_server($node, 'pgtrain.cpu_workers', '6');
ok(wait_for($node, $workers, '\d+(,\d+){5}'), 'six device workers come');
my $workers_before = $node->safe_psql('postgres', $workers);
# Plans are computed at submit by the same program, so a fault at the plan refuses the submit itself.
for my $script (sort keys %run)
{
	my ($fault) = $script =~ /\A(\w+)@/;
	ok(wait_status($node, $run{$script}, 'succeeded/completed', 60), "$script: the run succeeds in the end");
	is($node->safe_psql('postgres', "select count(*) || ' ' || count(*) filter (where end_reason = '$reason{$fault}') from pgtrain.run_attempts where run_id = $run{$script}"),
		'2 1', "$script: two attempts, the first ended as $reason{$fault}");
	is($node->safe_psql('postgres', "select exit_status from pgtrain.run_attempts where run_id = $run{$script} and attempt = 1"), $exit{$fault},
		"$script: how it ended is recorded") if $exit{$fault};
}
is($node->safe_psql('postgres', "select count(distinct a.sha256) from pgtrain.artifacts a where a.name = 'model.safetensors'"), '1',
	'every one of these artifacts is the same, byte for byte');
is($node->safe_psql('postgres', "select count(*) from pgtrain.training_statuses where status = 'succeeded'"), scalar(keys %run), 'each run succeeded exactly once');
nothing_left($node, 'after faults in the first attempt');

# In every attempt: the attempts are used up and the run fails with the reason of the last.
my %fatal = ('segv@step3' => 'trainer_crashed', 'quit@step2' => 'trainer_crashed', 'partial@step2' => 'protocol_violation', 'huge@step2' => 'protocol_violation',
	'badstate@step2' => 'protocol_violation', 'badutf8@step2' => 'protocol_violation', 'traversal@checkpoint' => 'protocol_violation',
	'missing@checkpoint' => 'artifact_invalid', 'pipe@checkpoint' => 'artifact_invalid', 'badsha@checkpoint' => 'artifact_invalid', 'badbytes@checkpoint' => 'artifact_invalid',
	'closeout@step2' => 'trainer_crashed');
%run = map { $_ => submit($node, $_, '', ', max_attempts => 2') } sort keys %fatal;
for my $script (sort keys %fatal)
{
	ok(wait_status($node, $run{$script}, "failed/$fatal{$script}", 60), "$script: fails as $fatal{$script}");
	is(run_field($node, $run{$script}, 'attempt'), '2', "$script: after two attempts");
}
nothing_left($node, 'after runs that failed for good');

# What another attempt would not mend is not tried again.
for my $code (qw(out_of_memory data_invalid non_finite_loss config_invalid))
{
	my $run = submit($node, "fail:$code\@step2");
	ok(wait_status($node, $run, "failed/$code"), "fail:$code ends the run");
	is(run_field($node, $run, 'attempt'), '1', "fail:$code is not tried again");
}
my $device_fault = submit($node, 'fail:device_fault@step2#1');
ok(wait_status($node, $device_fault, 'succeeded/completed'), 'a fault of the device is tried again');

# Much on its error stream neither blocks nor floods the log.
my $noisy = submit($node, 'noise@step2');
ok(wait_status($node, $noisy, 'succeeded/completed'), 'noise on the error stream does no harm');
cmp_ok(-s $node->logfile, '<', 2_000_000, 'and does not fill the log');

my $fork = submit($node, 'fork@step2#1');
ok(wait_status($node, $fork, 'succeeded/completed', 30), 'a trainer that forks and hangs is ended');
nothing_left($node, 'after grandchildren');

is($node->safe_psql('postgres', $workers), $workers_before, 'the device workers have lived through all this');

# A program that is no trainer. The workers start anew, so that none has read its settings a moment before.
set_server($node, 'pgtrain.trainer_program', '/nonexistent/trainer');
$node->safe_psql('postgres', "select pg_terminate_backend(pid) from pgtrain_private.worker_states() where kind = 'device'");
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device' and pid <> all ('{$workers_before}'::integer[])", '6'), 'the workers start anew');
my $missing = submit($node, 'noise@step2');  # its plan is known already
ok(wait_status($node, $missing, 'failed/io_error'), 'a missing trainer program fails the run');
like(run_field($node, $missing, 'error_message'), qr{cannot start the trainer "/nonexistent/trainer": No such file}, 'and the error says why');
nothing_left($node, 'at the end');

is($witness->query_safe('select pg_backend_pid()'), $witness_pid, 'a session from before all this still lives');
$witness->quit;
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal|terminating any other active server processes/, 'no server process has died');
$node->stop;
done_testing();
