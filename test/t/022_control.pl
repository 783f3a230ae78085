# What users do with runs while they wait and run: cancel, pause, resume, retry, limits, idempotency, order, waiting, and what they
# are told about it.
use strict;
use warnings;
use Digest::SHA;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TrainTest;

my $node = start_server('control', 'max_connections = 240');

# Cancel takes effect within two seconds, also when the trainer is deaf to it. A machine that stalls may be late once, and then once more.
for my $script ('step_ms=50', 'deaf@step2 step_ms=50', 'hang@step2')
{
	my ($run, $seconds);
	for (1 .. 5)
	{
		$run = submit($node, $script, ',"steps":10000');
		ok(wait_for($node, "select step >= 2 from pgtrain.training_runs where id = $run", 't'), "$script: it steps");
		my $begin = time;
		as_user($node, "select pgtrain.cancel_run($run)");
		ok(wait_status($node, $run, 'cancelled/cancelled_by_user'), "$script: cancelled");
		$seconds = time - $begin;
		last if $seconds < 2;
		note("it took $seconds s");
	}
	cmp_ok($seconds, '<', 2, "$script: within two seconds");
	cmp_ok(run_field($node, $run, 'tokens'), '<', run_field($node, $run, 'planned_tokens'), "$script: only what was trained is charged");
}
nothing_left($node, 'after cancels');

# Pause writes a checkpoint; resumed, the run makes the same artifact as one that was never paused.
my $whole = submit($node, '', ',"steps":60');
my $paused = submit($node, 'hold@step3#1', ',"steps":60');
ok(wait_status($node, $whole, 'succeeded/completed'), 'a run without a pause');
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $paused", 't'), 'another one steps');
as_user($node, "select pgtrain.pause_run($paused)");
ok(wait_status($node, $paused, 'paused/paused_by_user'), 'it pauses');
my $step = run_field($node, $paused, 'step');
cmp_ok($step, '<', 60, 'before its end');
is($node->safe_psql('postgres', "select max(step) from pgtrain.checkpoints where run_id = $paused"), $step, 'with a checkpoint of the step it stopped at');
like(as_user($node, "select pgtrain.why_waiting($paused)"), qr/paused: pgtrain.resume_run/, 'why_waiting says so');
my ($rc, $out, $err) = $node->psql('postgres', "select pgtrain.retry_run($paused)");
isnt($rc, 0, 'nobody is nobody: without a token nothing can be done with it');
as_user($node, "select pgtrain.resume_run($paused)");
ok(wait_status($node, $paused, 'succeeded/completed'), 'resumed, it succeeds');
is($node->safe_psql('postgres', "select count(distinct sha256) from pgtrain.artifacts where run_id in ($whole, $paused) and name = 'model.safetensors'"), '1',
	'and its artifact equals the uninterrupted one byte for byte');
is(run_field($node, $paused, 'failed_attempts'), '0', 'a pause is no failed attempt');

# The checkpoint of a large model may take longer to fetch than a lease lasts: here one of 600 MB, and each renewal is noted.
$node->safe_psql('postgres', <<'SQL');
create table renewals (run_id bigint, state text);
create function note_renewal() returns trigger language plpgsql as $$
begin
    insert into public.renewals select new.run_id, w.state from pgtrain_private.worker_states() w where w.pid = pg_backend_pid();
    return null;
end $$;
create trigger note_renewal after update of expires_at on pgtrain.run_attempts for each row execute function note_renewal();
SQL
set_server($node, 'pgtrain.row_storage_limit', '0');
my $large = submit($node, 'hold@step3#1', ',"steps":10000');
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $large", 't'), 'a run steps');
as_user($node, "select pgtrain.pause_run($large)");
ok(wait_status($node, $large, 'paused/paused_by_user'), 'and pauses');
my $file = $node->safe_psql('postgres', "select file_id from pgtrain.checkpoints where run_id = $large");
my $bytes = 600_000_000;
my ($path) = glob($node->data_dir . "/pgtrain/artifacts/*/$file");
truncate($path, $bytes) or die "$path: $!";
my $sum = Digest::SHA->new(256)->addfile($path)->hexdigest;
$node->safe_psql('postgres', "truncate renewals; update pgtrain_private.stored_files set bytes = $bytes, sha256 = '\\x$sum' where id = $file");
as_user($node, "select pgtrain.resume_run($large)");
ok(wait_for($node, "select count(*) from pgtrain.training_statuses where training_run_id = $large and status = 'planned'", '2', 120), 'resumed, its trainer has started');
cmp_ok($node->safe_psql('postgres', "select count(*) from renewals where run_id = $large and state = 'preparing'"), '>', 2,
	'and its lease was renewed again and again while the checkpoint was fetched');
as_user($node, "select pgtrain.cancel_run($large)");
ok(wait_status($node, $large, 'cancelled/cancelled_by_user', 60), 'it is cancelled');
$node->safe_psql('postgres', "alter system reset pgtrain.row_storage_limit");
$node->safe_psql('postgres', 'drop function note_renewal cascade; drop table renewals');
$node->reload;
unlink $path;

# A running run that is deleted gives back what it held and its place among those that its owner may have at once.
my $owner = $node->safe_psql('postgres', "select id from pgtrain.users where username = 'ann'");
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($owner, 'concurrent_runs', 1)");
my $deleted = submit($node, 'step_ms=50', ',"steps":10000');
ok(wait_for($node, "select step >= 2 from pgtrain.training_runs where id = $deleted", 't'), 'a run steps');
# More than once if it must be: the run's worker locks its lease and then the run, a delete the other way round.
ok(wait_for($node, "delete from pgtrain.training_runs where id = $deleted; select 'gone'", 'gone', 60), 'the administrator deletes it');
my $after = submit($node, '');
ok(wait_status($node, $after, 'succeeded/completed'), 'the next one of the same owner runs');
nothing_left($node, 'after a deleted run');
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($owner, 'concurrent_runs', -1)");

# While it waits: a worker is kept away by taking its devices.
set_server($node, 'pgtrain.cpu_workers', '0');
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device'", '0'), 'without CPU workers there is no device worker');
my $waiting = submit($node, '');
like(as_user($node, "select pgtrain.why_waiting($waiting)"), qr/no device worker runs for this database/, 'why_waiting tells that');
as_user($node, "select pgtrain.pause_run($waiting)");
is(run_field($node, $waiting, 'status'), 'paused', 'a queued run pauses at once');
as_user($node, "select pgtrain.cancel_run($waiting)");
is(run_field($node, $waiting, "status || '/' || end_reason"), 'cancelled/cancelled_by_user', 'a paused run is cancelled at once');
nothing_left($node, 'after a cancelled waiting run');
as_user($node, "select pgtrain.retry_run($waiting)");
is(run_field($node, $waiting, 'status'), 'queued', 'a cancelled run can be retried');
my $later = submit($node, '', '', ", start_at => now() + interval '1 hour'");
like(as_user($node, "select pgtrain.why_waiting($later)"), qr/its owner asked for that/, 'a later start is told');
as_user($node, "select pgtrain.cancel_run($later)");

# Order of one user: priority, then age. Idempotency.
my $old = submit($node, '');
my $urgent = submit($node, '', '', ', priority => 5');
my $key1 = submit($node, '', '', ", idempotency_key => 'k'");
is(submit($node, '', '', ", idempotency_key => 'k'"), $key1, 'the same key gives the same run');
like(as_user($node, "select pgtrain.why_waiting($key1)"), qr/3 runs of the same owner are ahead/, 'why_waiting counts those ahead');
$node->safe_psql('postgres', 'alter system reset pgtrain.cpu_workers');
$node->reload;
ok(wait_status($node, $_, 'succeeded/completed'), "queued run $_ is done once there is a worker") for $waiting, $old, $urgent, $key1;
is($node->safe_psql('postgres', "select string_agg(run_id::text, ',' order by started_at) from pgtrain.run_attempts where run_id in ($waiting, $old, $urgent, $key1)"),
	"$urgent,$waiting,$old,$key1", 'in the order of priority and age');
is(as_user($node, "select pgtrain.wait_for_run($key1)"), 'succeeded', 'wait_for_run returns the status of an ended run');

# Waiting can be interrupted and has a limit; a run of this very transaction can never end.
my $long = submit($node, 'step_ms=50', ',"steps":10000');
is(as_user($node, "select pgtrain.wait_for_run($long, '100 ms')"), 'running', 'wait_for_run stops waiting in time') if wait_status($node, $long, 'running');
($rc, $out, $err) = $node->psql('postgres', "set statement_timeout = 200; " . 'select 1');
my $token_sql = "select pgtrain.authenticate((select session_token from pgtrain.login('ann', 'correct horse battery')), true)";
($rc, $out, $err) = $node->psql('postgres', "$token_sql;\nset statement_timeout = '300ms';\nselect pgtrain.wait_for_run($long)");
like($err, qr/canceling statement due to statement timeout/, 'and can be cancelled');
($rc, $out, $err) = $node->psql('postgres', "$token_sql;\nbegin;\nselect pgtrain.wait_for_run(pgtrain.submit_run(dataset_id => 1, config => '{\"size\":\"nano\",\"steps\":20,\"checkpoint_every\":5}'))");
like($err, qr/was submitted in this very transaction/, 'a run of the own transaction is refused');
as_user($node, "select pgtrain.cancel_run($long)");
ok(wait_status($node, $long, 'cancelled/cancelled_by_user'), 'cancelled');
($rc, $out, $err) = $node->psql('postgres', "$token_sql;\nselect pgtrain.cancel_run($long)");
like($err, qr/run $long cannot be cancelled: it is cancelled/, 'an ended run cannot be cancelled');

# Bad input is refused before anything is held.
for my $case ([ '{"stepz": 3}', qr/steps/ ], [ '{"size": "huge"}', qr/nano/ ], [ '{"steps": -1}', qr/steps/ ], [ '{"steps": [1]}', qr/plain value/ ], [ '[]', qr/JSON object/ ])
{
	($rc, $out, $err) = $node->psql('postgres', "$token_sql;\nselect pgtrain.submit_run(dataset_id => 1, config => '$case->[0]')");
	like($err, $case->[1], "config $case->[0] is refused with a hint");
}
($rc, $out, $err) = $node->psql('postgres', "$token_sql;\nselect pgtrain.submit_run(dataset_id => pgtrain.create_dataset('empty'))");
like($err, qr/is empty/, 'an empty dataset is refused');
($rc, $out, $err) = $node->psql('postgres', "$token_sql;\nselect pgtrain.submit_run(dataset_id => 4711)");
like($err, qr/dataset 4711 does not exist/, 'a dataset that is not there is refused');
nothing_left($node, 'after refused submits');

# 200 sessions that submit at the same time against a limit of 37 admit exactly 37.
my $user = $node->safe_psql('postgres', "select id from pgtrain.users where username = 'ann'");
my $used = $node->safe_psql('postgres', "select used_value from pgtrain.user_usage_limits where user_id = $user and resource_type = 'training_jobs'");
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($user, 'training_jobs', $used + 37)");
set_server($node, 'pgtrain.cpu_workers', '0');
wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device'", '0');
my $script = PostgreSQL::Test::Utils::tempdir() . '/race.sql';
append_to_file($script, "select pgtrain.authenticate((select session_token from pgtrain_race_token), true);\n"
	  . "select pgtrain_race_submit();\n");
$node->safe_psql('postgres', <<'SQL');
create table pgtrain_race_token as select session_token from pgtrain.login('ann', 'correct horse battery');
create function pgtrain_race_submit() returns void language plpgsql as $$
begin
    perform pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":20,"checkpoint_every":5}');
exception when sqlstate 'PT402' then
    null;
end $$;
SQL
my $before = $node->safe_psql('postgres', 'select count(*) from pgtrain.training_runs');
$node->pgbench('--client=200 --jobs=4 --transactions=1 --no-vacuum', 0, [qr/processed: 200\/200/], [qr/^/], '200 racing submits', undef, '--file=' . $script);
is($node->safe_psql('postgres', 'select count(*) from pgtrain.training_runs') - $before, 37, 'exactly as many are admitted as the limit allows');
is($node->safe_psql('postgres', "select used_value - limit_value from pgtrain.user_usage_limits where user_id = $user and resource_type = 'training_jobs'"), '0',
	'and the counter stands at its limit');
$node->safe_psql('postgres', 'alter system reset pgtrain.cpu_workers');
$node->reload;
ok(wait_for($node, "select count(*) from pgtrain.training_runs where status in ('queued', 'running')", "0", 60), "they are all carried out");
nothing_left($node, 'after the race');
$node->stop;
done_testing();
