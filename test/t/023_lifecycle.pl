# What an administrator does to the server and its databases while runs wait and train: restart, reload, rename, drop, copy, drop
# of the extension and its rollback, several databases on one device, a standby, a read-only transaction.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('life', 'wal_level = replica');
my $slow = ',"steps":10000';
my $workers = "select count(*) from pgtrain_private.worker_states() where kind = 'device'";

# A server that is stopped and started again: the run writes a checkpoint, is queued, and goes on exactly.
my $whole = submit($node, '', ',"steps":60');
ok(wait_status($node, $whole, 'succeeded/completed'), 'an undisturbed run');
my $run = submit($node, 'hold@step7#1', ',"steps":60');
ok(wait_for($node, "select step >= 7 from pgtrain.training_runs where id = $run", 't'), 'another steps');
$node->stop('fast');
is(scalar(trainer_pids($node, 1)), 0, 'a stopped server leaves no trainer');
$node->start;
is($node->safe_psql('postgres', "select count(*) from pgtrain.training_statuses where training_run_id = $run and data->>'reason' = 'server_shutdown'"), '1',
	'the run was queued again because of the shutdown');
cmp_ok($node->safe_psql('postgres', "select max((data->>'step')::int) from pgtrain.training_statuses where training_run_id = $run and status = 'checkpoint'"), '>=', 7,
	'with a checkpoint of where it was');
ok(wait_status($node, $run, 'succeeded/completed'), 'after the start it succeeds');
is(run_field($node, $run, 'failed_attempts'), '0', 'the shutdown is no failed attempt');
is($node->safe_psql('postgres', "select count(distinct sha256) from pgtrain.artifacts where run_id in ($whole, $run) and name = 'model.safetensors'"), '1',
	'its artifact equals the uninterrupted one');
nothing_left($node, 'after a restart');

# Reload: more CPU workers, fewer again; one database more on the same device.
set_server($node, 'pgtrain.cpu_workers', '3');
ok(wait_for($node, $workers, '3'), 'a reload brings more CPU workers');
ok(wait_for($node, "select count(*) from pgtrain.gpus where status <> 'gone'", '3'), 'and the view gpus shows them');
set_server($node, 'pgtrain.cpu_workers', '1');
ok(wait_for($node, $workers, '1'), 'and takes them away');
$node->safe_psql('postgres', 'create database other');
add_database($node, 'other');
ok(wait_for($node, "select count(distinct database_id) from pgtrain_private.worker_states() where kind = 'device'", '2'), 'a second database has workers of its own');
my $here = submit($node, 'step_ms=20', ',"steps":40');
my $there = as_user($node, q(select pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":40,"sample_prompt":"fake: step_ms=20"}')), 'other');
ok(wait_status($node, $here, 'succeeded/completed'), 'a run here');
ok(wait_status($node, $there, 'succeeded/completed', 20, 'other'), 'and a run there share the device');
my $times = $node->safe_psql('postgres', "select extract(epoch from started_at), extract(epoch from ended_at) from pgtrain.run_attempts where run_id = $here");
my $other_times = $node->safe_psql('other', "select extract(epoch from started_at), extract(epoch from ended_at) from pgtrain.run_attempts where run_id = $there");
my ($b1, $e1) = split /\|/, $times;
my ($b2, $e2) = split /\|/, $other_times;
ok($e1 <= $b2 || $e2 <= $b1, 'one after the other');

# Renamed, the database goes on under its new name; a copy of it has workers too; a drop is not held up by a run.
$there = as_user($node, q(select pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":60,"checkpoint_every":5,"sample_prompt":"fake: hold@step7#1"}')), 'other');
ok(wait_for($node, "select step >= 7 from pgtrain.training_runs where id = $there", 't', 20, 'other'), 'a run steps in the other database');
$node->safe_psql('postgres', 'alter database other rename to renamed');
ok(wait_status($node, $there, 'succeeded/completed', 20, 'renamed'), 'renamed, it finishes its run');
is($node->safe_psql('renamed', "select count(distinct sha256) from pgtrain.artifacts where name = 'model.safetensors' and run_id = $there"), '1', 'with its artifact');
$node->safe_psql('postgres', 'create database copy template renamed');
ok(wait_for($node, $workers, '3'), 'a copy of a database has workers as well');
$node->safe_psql('postgres', 'drop database copy');
$node->safe_psql('renamed', qq(select pgtrain.authenticate((select session_token from pgtrain.login('ann', 'correct horse battery')), true); select pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":10000,"sample_prompt":"fake: step_ms=30"}')));
ok(wait_for($node, "select count(*) from pgtrain.training_runs where status = 'running' and step > 2", '1', 20, 'renamed'), 'a long run there');
$node->safe_psql('postgres', 'drop database renamed');
ok(1, 'DROP DATABASE succeeds while a run trains in it');
nothing_left($node, 'after the drop');

# DROP EXTENSION: rolled back, the work goes on; committed, the workers are gone.
$run = submit($node, 'hold@step12#1', ',"steps":80');
ok(wait_for($node, "select step >= 12 from pgtrain.training_runs where id = $run", 't'), 'a run steps');
$node->safe_psql('postgres', "begin; drop extension pgtrain cascade; rollback");
ok(wait_status($node, $run, 'succeeded/completed', 30), 'after a rolled back DROP EXTENSION the run ends as it should');
is(run_field($node, $run, 'attempt'), '2', 'with one more attempt');
nothing_left($node, 'after a rolled back DROP EXTENSION');

# A standby: views can be read, nothing runs, functions that write say why not; promoted, it works.
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', "select status from pgtrain.run_progress where run_id = $run"), 'succeeded', 'a standby shows the runs');
is($standby->safe_psql('postgres', "select count(*) from pgtrain_private.worker_states() where pid is not null"), '0', 'and has no workers');
my ($rc, $out, $err) = $standby->psql('postgres', 'select pgtrain.submit_run(dataset_id => 1)');
like($err, qr/cannot execute submit_run during recovery/, 'submit_run is refused there');
($rc, $out, $err) = $node->psql('postgres', 'begin read only; select pgtrain.submit_run(dataset_id => 1)');
like($err, qr/cannot execute submit_run in a read-only transaction/, 'and in a read-only transaction');
$standby->promote;
ok($standby->poll_query_until('postgres', "select count(*) = 1 from pgtrain_private.worker_states() where kind = 'device' and pid is not null"), 'promoted, it has workers');
$standby->stop;

$run = submit($node, 'step_ms=20', $slow);
ok(wait_status($node, $run, 'running'), 'a run trains');
$node->safe_psql('postgres', 'drop extension pgtrain cascade');
is(scalar(trainer_pids($node)), 0, 'DROP EXTENSION leaves no trainer');
ok(poll_workers_gone(), 'and no worker of the database');
add_database($node, 'postgres');
$run = submit($node, '');
ok(wait_status($node, $run, 'succeeded/completed'), 'created again, it works again');
nothing_left($node, 'at the end');
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal/, 'no server process has died');
$node->stop;
done_testing();

sub poll_workers_gone
{
	return $node->poll_query_until('postgres', "select count(*) = 0 from pg_stat_activity where backend_type in ('pgtrain scheduler', 'pgtrain device worker')");
}
