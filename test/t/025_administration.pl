# What an administrator or a user does at an awkward moment and must not pay for with lost files, failed runs, workers that never come
# back or a wait without end. Each block is one such mishap.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('admin', "max_prepared_transactions = 5\npgtrain.row_storage_limit = 0");
my $slow = ',"steps":10000';
my $token_sql = "select pgtrain.authenticate((select session_token from pgtrain.login('ann', 'correct horse battery')), true)";
my $has_worker = "select count(*) from pgtrain_private.worker_states() where kind = 'device' and pid is not null"
  . ' and database_id = (select oid from pg_database where datname = current_database())';
ok(wait_for($node, $has_worker, '1'), 'a device worker waits');
my $plain = submit($node, '', ',"steps":30');
ok(wait_status($node, $plain, 'succeeded/completed'), 'a run that nobody disturbs');
my $hash = model_of($plain);

sub model_of { return $node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $_[0] and name = 'model.safetensors'") }
sub error_of
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);
	return $err;
}
sub stop_between_transactions
{
	my ($pid) = @_;
	my $end = time + 20;
	while (time < $end)
	{
		kill 'STOP', $pid;
		poll_state($pid, 'T') or die 'the worker does not stop';
		return 1 if $node->safe_psql('postgres', "select count(*) from pg_locks where pid = $pid") eq '0';
		kill 'CONT', $pid;
	}
	return 0;
}
sub steps_past { return wait_for($node, "select step > $_[1] and status = 'running' from pgtrain.training_runs where id = $_[0]", 't') }

# A database that cannot be entered for a while, or is a template, keeps its stored files.
$node->safe_psql('postgres', 'create database other');
add_database($node, 'other');
my $kept = as_user($node, q(select pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":20}')), 'other');
ok(wait_status($node, $kept, 'succeeded/completed', 20, 'other'), 'a run in the other database');
my $folder = $node->data_dir . '/pgtrain/artifacts/' . $node->safe_psql('other', 'select oid from pg_database where datname = current_database()');
my $files = () = glob("$folder/*");
cmp_ok($files, '>', 0, 'its artifacts are files');
for my $change ('allow_connections', 'is_template')
{
	my ($away, $back) = $change eq 'is_template' ? ('true', 'false') : ('false', 'true');
	$node->safe_psql('postgres', "alter database other with $change $away");
	# The launcher starts anew, so it has looked around once there is a device worker here again.
	my $pid = worker_pid($node, 'launcher');
	$node->safe_psql('postgres', "select pg_terminate_backend($pid)");
	wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'launcher' and pid <> $pid", '1');
	$node->safe_psql('postgres', 'create database renamed');
	$node->safe_psql('renamed', 'create extension pgtrain');
	ok(wait_for($node, $has_worker, '1', 20, 'renamed'), "$change $away: the launcher has looked around");
	$node->safe_psql('postgres', 'drop database renamed');
	my $now = () = glob("$folder/*");
	is($now, $files, "$change $away: no stored file is removed");
	$node->safe_psql('postgres', "alter database other with $change $back");
	ok(wait_for($node, $has_worker, '1', 20, 'other'), "$change $back: it has workers again");
}
cmp_ok(as_user($node, "select length(pgtrain.export_artifact($kept))", 'other'), '>', 0, 'the artifact can be exported');

# Busy for another database: why_waiting says so.
my $long = submit($node, 'step_ms=30', $slow);
ok(steps_past($long, 1), 'a run trains here');
my $there = as_user($node, q(select pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":20}')), 'other');
is(as_user($node, "select pgtrain.why_waiting($there)", 'other'), 'every device is busy', 'a run there waits for the device');
as_user($node, "select pgtrain.cancel_run($long)");
ok(wait_status($node, $there, 'succeeded/completed', 20, 'other'), 'and gets it');
$node->safe_psql('postgres', 'drop database other');
nothing_left($node, 'after two databases');

# DROP EXTENSION that is undone by a savepoint or waits to be decided: the workers come back.
my $run = submit($node, 'hold@step7#1', ',"steps":30');
ok(steps_past($run, 6), 'a run trains');
$node->safe_psql('postgres', 'begin; savepoint before; drop extension pgtrain cascade; rollback to before; commit');
ok(wait_status($node, $run, 'succeeded/completed'), 'DROP EXTENSION undone by a savepoint: the run ends as it should');
is(model_of($run), $hash, 'with the same artifact');
is(run_field($node, $run, 'failed_attempts'), '0', 'that was no failed attempt');
$node->safe_psql('postgres', q(begin; drop extension pgtrain cascade; prepare transaction 'drop'));
$node->safe_psql('postgres', q(rollback prepared 'drop'));
ok(wait_status($node, submit($node, ''), 'succeeded/completed'), 'prepared and rolled back: runs are done');

# Drops that fail, more often than a run has attempts.
$run = submit($node, 'hold@step5#1 hold@step9#2 hold@step13#3', ',"steps":30', ', max_attempts => 2');
$node->safe_psql('postgres', 'create table in_the_way (status pgtrain.run_status)');
for my $try (1 .. 3)
{
	ok(steps_past($run, 4 * $try), "try $try: the run trains");
	like(error_of('drop extension pgtrain'), qr/other objects depend on it/, "try $try: DROP EXTENSION fails");
}
ok(wait_status($node, $run, 'succeeded/completed'), 'the run ends as it should');
is(model_of($run), $hash, 'with the same artifact');
is($node->safe_psql('postgres', "select string_agg(distinct end_reason::text, ' ') from pgtrain.run_attempts where run_id = $run and attempt <= 3"), 'server_shutdown',
	'no drop that failed counts against it');
$node->safe_psql('postgres', 'drop table in_the_way');
$run = submit($node, 'step_ms=20', $slow);
ok(steps_past($run, 2), 'a run trains');
my $session = $node->background_psql('postgres');
$session->query_safe('select 1');
my ($rc, $out, $err) = $node->psql('template1', 'drop database postgres');
like($err, qr/is being accessed by other users/, 'DROP DATABASE fails for the session there');
$session->quit;
my $stopped_at = $node->safe_psql('postgres', "select max((data->>'step')::bigint) from pgtrain.training_statuses where training_run_id = $run and status = 'checkpoint'
	and id < (select min(id) from pgtrain.training_statuses where training_run_id = $run and status = 'queued_again')");
ok(steps_past($run, $stopped_at), 'the run goes on');
is($node->safe_psql('postgres', "select resumed_from_step from pgtrain.run_attempts where run_id = $run and attempt = 2"), $stopped_at, 'from where it was');
as_user($node, "select pgtrain.cancel_run($run)");
nothing_left($node, 'after drops that failed');

# A wait for what this very transaction has not committed would never end; also within a subtransaction.
for my $begin ('begin; savepoint a', 'begin')
{
	like(error_of("$token_sql;\n$begin; set local statement_timeout = '10s';\n"
		  . "select pgtrain.submit_run(dataset_id => 1, config => '{\"size\":\"nano\",\"steps\":20}') as id \\gset\nsavepoint b; select pgtrain.wait_for_run(:id)"),
		qr/was submitted in this very transaction/, "$begin: a wait for a run of the own transaction is refused");
}
$run = submit($node, 'step_ms=20', $slow);
ok(steps_past($run, 1), 'a run trains');
like(error_of("$token_sql;\nbegin; set local statement_timeout = '10s'; select pgtrain.cancel_run($run); select pgtrain.wait_for_run($run)"),
	qr/was asked to stop in this very transaction/, 'so is one for a cancel that is not committed');

# pg_cancel_backend is for statements; a worker goes on.
for my $kind (qw(device scheduler launcher)) { $node->safe_psql('postgres', 'select pg_cancel_backend(' . worker_pid($node, $kind) . ')') }
my $step = run_field($node, $run, 'step');
ok(steps_past($run, $step + 5), 'cancelled as a backend, the workers go on');
is(run_field($node, $run, 'attempt'), '1', 'in the same attempt');

# A worker that sleeps through its lease: the run is queued again, and what it still writes is refused. Leases are short here alone, so
# that a busy machine takes no other run away.
set_server($node, 'pgtrain.lease_duration', '2s');
ok(wait_for($node, "select expires_at < clock_timestamp() + interval '3 s' from pgtrain.run_attempts where run_id = $run", 't'), 'the lease is short');
# Put to sleep between two transactions: one that sleeps within keeps its locks, and nobody can free the run before it wakes.
my $pid = worker_pid($node, 'device');
ok(stop_between_transactions($pid), 'the worker is stopped');
ok(wait_status($node, $run, 'queued'), 'a worker that is stopped loses its run');
is($node->safe_psql('postgres', "select end_reason from pgtrain.run_attempts where run_id = $run and attempt = 1"), 'worker_lost', 'as worker_lost');
kill 'CONT', $pid;
ok(wait_for($node, "select attempt = 2 and status = 'running' from pgtrain.training_runs where id = $run", 't'), 'it is tried again');
is(worker_pid($node, 'device'), $pid, 'by the same worker, which has noticed');
as_user($node, "select pgtrain.cancel_run($run)");
nothing_left($node, 'after a lost lease');
# A lease is renewed in time, however seldom progress is written.
set_server($node, 'pgtrain.lease_duration', '6s');
set_server($node, 'pgtrain.progress_interval', '60s');
$run = submit($node, 'step_ms=20', "$slow,\"checkpoint_every\":0");
ok(wait_for($node, "select expires_at > started_at + interval '10 s' from pgtrain.run_attempts where run_id = $run and attempt = 1", 't'), 'a lease of 6 seconds is renewed');
as_user($node, "select pgtrain.cancel_run($run)");
nothing_left($node, 'after a lease that was renewed');
set_server($node, 'pgtrain.progress_interval', '50');
$node->safe_psql('postgres', 'alter system reset pgtrain.lease_duration');
$node->reload;

# The account is closed and opened again: what is submitted then is not refused for what was true a moment ago.
set_server($node, 'pgtrain.cpu_workers', '0');
ok(wait_for($node, $has_worker, '0'), 'no worker');
$run = submit($node, '');
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'launcher' and note ~ 'cpu_workers'", '1'), 'the launcher notes why');
like(as_user($node, "select pgtrain.why_waiting($run)"), qr/no device has a worker: pgtrain.cpu_workers is 0/, 'why_waiting says so');
# What is known of users is read again at most a second later; here at once.
$node->safe_psql('postgres', "update pgtrain.users set is_active = false where username = 'ann'; select pgtrain_private.forget_shares()");
is($node->safe_psql('postgres', 'select coalesce(run_id, 0) from pgtrain_private.claim_run(null, null)'), '0', 'no run of a closed account is claimed');
is(run_field($node, $run, "status || '/' || end_reason"), 'failed/permission_revoked', 'it ends');
$node->safe_psql('postgres', "update pgtrain.users set is_active = true where username = 'ann'");
# Its owner loses the role that let him train, in each way there is: what waits does not start.
my $ann = "(select id from pgtrain.users where username = 'ann')";
for my $loss ("update pgtrain.user_roles set is_active = false where user_id = $ann", "select pgtrain.revoke_role($ann, 'user')",
	"select pgtrain.revoke_permission('user', 'create', 'training')", '')
{
	$run = submit($node, '');
	$node->safe_psql('postgres', $loss || "update pgtrain.user_roles set expires_at = clock_timestamp() + interval '1 s' where user_id = $ann");
	ok(wait_for($node, "select expires_at <= clock_timestamp() from pgtrain.user_roles where user_id = $ann", 't'), 'a role runs out') if !$loss;
	is($node->safe_psql('postgres', 'select coalesce(run_id, 0) from pgtrain_private.claim_run(null, null)'), '0', 'no run of one who may not train is claimed');
	is(run_field($node, $run, "status || '/' || end_reason || ': ' || error_message"),
		'failed/permission_revoked: none of the active roles of its owner lets him train any more', 'it ends and says why');
	$node->safe_psql('postgres', "select pgtrain.grant_role($ann, 'user'); select pgtrain.grant_permission('user', 'create', 'training')");
}
$run = submit($node, '');
is($node->safe_psql('postgres', "begin; select run_id from pgtrain_private.claim_run(null, null); rollback"), $run, 'open again, its next run is claimed at once');
$node->safe_psql('postgres', 'alter system reset pgtrain.cpu_workers');
$node->reload;
ok(wait_status($node, $run, 'succeeded/completed'), 'and done');

# A checkpoint whose bytes are gone (a dump does not have them) or changed: the run begins again and makes the same artifact.
for my $damage ('gone', 'changed')
{
	$run = submit($node, 'hold@step12#1', ',"steps":30');
	ok(steps_past($run, 11), 'a run has a checkpoint');
	as_user($node, "select pgtrain.pause_run($run)");
	ok(wait_status($node, $run, 'paused/paused_by_user'), 'and pauses');
	my $file = $node->safe_psql('postgres', "select file_id from pgtrain.checkpoints where run_id = $run");
	my ($path) = glob($node->data_dir . "/pgtrain/artifacts/*/$file");
	$damage eq 'gone' ? unlink($path) : append_to_file($path, 'x');
	as_user($node, "select pgtrain.resume_run($run)");
	ok(wait_status($node, $run, 'succeeded/completed'), "$damage checkpoint: the run succeeds all the same");
	is(model_of($run), $hash, "$damage checkpoint: the artifact is the same");
	is($node->safe_psql('postgres', "select count(*) from pgtrain.training_statuses where training_run_id = $run and status = 'checkpoint_lost'"), '1',
		"$damage checkpoint: what happened is recorded");
}
my $bad = submit($node, 'badcheckpoint@step2', '', ', max_attempts => 1');
ok(wait_status($node, $bad, 'failed/artifact_invalid'), 'a checkpoint that is not what the trainer said ends the attempt as artifact_invalid');

# A cancel that is committed before the result is: the run does not succeed after that.
set_server($node, 'pgtrain.lease_duration', '10min');
set_server($node, 'pgtrain.progress_interval', '60s');
$run = submit($node, 'hold@step15', ',"checkpoint_every":15');
ok(wait_for($node, "select count(*) from pgtrain.checkpoints where run_id = $run", '1'), 'a run trains and has written its last checkpoint');
$session = $node->background_psql('postgres');
$session->query_safe("$token_sql; begin; lock table pgtrain.run_attempts in exclusive mode");
let_go($node, $run);
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where state = 'publishing'", '1'), 'its result is there and waits to be written');
$session->query_safe("select pgtrain.cancel_run($run); commit");
ok(wait_status($node, $run, '(cancelled|succeeded)/.*'), 'it ends');
is(run_field($node, $run, "status || '/' || end_reason"), 'cancelled/cancelled_by_user', 'cancelled, as was asked for before');
$session->quit;
set_server($node, 'pgtrain.progress_interval', '50');
$node->safe_psql('postgres', 'alter system reset pgtrain.lease_duration');
$node->reload;
nothing_left($node, 'after a cancel at the end');

# Settings that would silently mean nothing are refused where they are set.
for my $case ([ 'databases', 'a,,b', qr/parted by commas/ ], [ 'trainer_program', 'bin/trainer', qr/absolute path/ ], [ 'trainer_environment', 'A=1 B', qr/"B" is not of the form/ ])
{
	like(error_of("alter system set pgtrain.$case->[0] = '$case->[1]'"), $case->[2], "pgtrain.$case->[0] = $case->[1] is refused");
}

# The trainer sees the cards that the service was given, and the administrator's words before its own.
{
	local $ENV{CUDA_VISIBLE_DEVICES} = 'GPU-of-this-service';
	local $ENV{PGTRAIN_TEST_SECRET} = 'not for trainers';
	my ($seen, $wrapper, $trainer) = ($node->basedir . '/seen', $node->basedir . '/wrapper', fake_trainer());
	my $reason = 'the driver does not start because ' . 'of this ' x 50 . 'and says what to do';
	append_to_file($wrapper, "#!/bin/sh\nenv >'$seen'\n[ \"\$*\" = devices ] && { '$trainer' devices | sed 's/a fake trainer has no CUDA device/$reason/'; exit; }\n"
		. "exec '$trainer' \"\$@\"\n");
	chmod 0755, $wrapper or die "chmod: $!";
	set_server($node, 'pgtrain.trainer_environment', 'HOME=/the/administrators/home A=1');
	set_server($node, 'pgtrain.trainer_program', $wrapper);
	$node->restart;
	$run = submit($node, '');
	ok(wait_status($node, $run, 'succeeded/completed'), 'a run by way of a script');
	ok($node->poll_query_until('postgres', "select bool_or(why_not_more like '%$reason%') from pgtrain.gpus"), 'a long reason why there is no device is told to its end');
	my $environment = slurp_file($seen);
	like($environment, qr/^CUDA_VISIBLE_DEVICES=GPU-of-this-service$/m, 'the cards of the service are those of the trainer');
	like($environment, qr{^HOME=/the/administrators/home$}m, 'words of trainer_environment stand for those of the worker');
	unlike($environment, qr/PGTRAIN_TEST_SECRET/, 'nothing else of the environment comes along');
	set_server($node, 'pgtrain.trainer_program', $trainer);
	set_server($node, 'pgtrain.trainer_environment', '');
}

# What a database sets for its sessions is not for its workers: they would have no rights, or no time.
{
	local $ENV{PGOPTIONS} = '-c role=none -c statement_timeout=0 -c default_transaction_read_only=off -c intervalstyle=postgres';
	$node->safe_psql('postgres', "alter database postgres set $_")
	  for 'role = pg_monitor', "statement_timeout = '1ms'", 'default_transaction_read_only = on', 'intervalstyle = sql_standard', "search_path = 'nowhere'";
	$node->restart;
	$run = submit($node, 'segv@step7#1');
	ok(wait_status($node, $run, 'succeeded/completed'), "a database's settings do not hinder its workers");
	is(run_field($node, $run, 'attempt'), '2', 'nor the second attempt');
	$node->safe_psql('postgres', 'alter database postgres reset all');
}

# Not among the databases, then without room for workers: why_waiting says so, each time it is asked.
set_server($node, 'pgtrain.databases', 'elsewhere');
ok(wait_for($node, $has_worker, '0'), 'a database that is not named has no workers');
$run = submit($node, '');
like(as_user($node, "select pgtrain.why_waiting($run)"), qr/pgtrain\.databases is "elsewhere"/, 'why_waiting names the setting');
$node->safe_psql('postgres', q(alter system set pgtrain.databases = '*'));
$node->safe_psql('postgres', 'alter system set max_worker_processes = 2');
$node->restart;
my $no_room = "select count(*) from pgtrain_private.worker_states() where note ~ 'no free background worker slot'";
ok(wait_for($node, $no_room, '1'), 'without room for workers that is noted');
my $looks = 0;
for (1 .. 200) { $looks += $node->safe_psql('postgres', $no_room) }
is($looks, 200, 'and stays noted');
like(as_user($node, "select pgtrain.why_waiting($run)"), qr/raise max_worker_processes/, 'why_waiting says so');
$node->safe_psql('postgres', 'alter system reset max_worker_processes');
$node->restart;
ok(wait_status($node, $run, 'succeeded/completed'), 'with room the run is done');

# Many databases without the extension take nothing from the one that has it.
$node->safe_psql('postgres', "create database many$_") for 1 .. 70;
$node->restart;
$node->safe_psql('many70', 'create extension pgtrain');
ok(wait_for($node, $has_worker, '1', 30, 'many70'), 'the last of seventy databases has its worker');
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal/, 'no server process has died');
$node->stop;
done_testing();
