# The real trainer and a tiny model: killed, paused, shut down, made to give way and continued, a run makes the same artifact byte for byte as one that
# was left alone. Then the artifact is exported and writes text.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('exact', "pgtrain.trainer_threads = 1\npgtrain.row_storage_limit = '64kB'\npgtrain.trainer_program = '" . real_trainer() . "'");
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device' and state = 'idle'", '1'), 'a device worker waits');
as_user($node, "select pgtrain.append_samples(1, array(select md5(g::text) || ' and the rest of sample ' || g from generate_series(1, 400) g))");

my $seed = 1 + int(rand(1_000_000));
my $config = qq({"size":"nano","steps":150,"checkpoint_every":20,"batch_size":8,"seed":$seed});
note("seed $seed");
sub submit_real { return as_user($node, "select pgtrain.submit_run(dataset_id => 1, config => '$config')") }
sub model_of { return $node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $_[0] and name = 'model.safetensors'") }
sub steps { return wait_for($node, "select step > 45 and status = 'running' from pgtrain.training_runs where id = $_[0]", 't', 60) }

my $whole = submit_real();
ok(wait_status($node, $whole, 'succeeded/completed', 120), 'a run that is left alone') or diag(run_field($node, $whole, "error_message || ' ' || coalesce(error_detail, '')"));
my $model = model_of($whole);
my ($before, $after) = split /\|/, $node->safe_psql('postgres', "select loss_before, loss_after from pgtrain.training_runs where id = $whole");
cmp_ok($after, '<', $before, 'its held-out loss has fallen');

my %disturb = (
	'trainer killed' => sub { kill 'KILL', trainer_pids($node) },
	'device worker killed' => sub { kill_process($node, worker_pid($node, 'device')) },
	'postmaster killed' => sub { crash_server($node); $node->start },
	'server stopped' => sub { $node->restart },
	'device worker terminated' => sub { $node->safe_psql('postgres', 'select pg_terminate_backend(' . worker_pid($node, 'device') . ')') },
	'paused' => sub {
		as_user($node, "select pgtrain.pause_run($_[0])");
		ok(wait_status($node, $_[0], 'paused/paused_by_user', 30), 'paused');
		as_user($node, "select pgtrain.resume_run($_[0])");
	},
	'made way' => sub {
		my $urgent = as_user($node, q{select pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":3}', priority => 5)});
		ok(wait_status($node, $urgent, 'succeeded/completed', 60), 'a more important run succeeds first');
		is($node->safe_psql('postgres', "select end_reason from pgtrain.run_attempts where run_id = $_[0] and attempt = 1"), 'preempted', 'it made way');
	});
# The trainer waits for its checkpoint to be stored before it writes the next one: so there is time to disturb a first attempt, however slow the test.
$node->safe_psql('postgres', <<'SQL');
create function take_time() returns trigger language plpgsql as $$ begin perform pg_sleep(1); return new; end $$;
create trigger take_time before insert on pgtrain.checkpoints for each row when (new.attempt = 1 and new.step > 45) execute function take_time();
SQL
for my $what (sort keys %disturb)
{
	my $run = submit_real();
	ok(steps($run), "$what: the run steps");
	$disturb{$what}->($run);
	ok(wait_status($node, $run, 'succeeded/completed', 120), "$what: it succeeds");
	cmp_ok(run_field($node, $run, 'attempt'), '>', 1, "$what: in more than one attempt");
	is(model_of($run), $model, "$what: the artifact is the same, byte for byte");
	is(run_field($node, $run, 'tokens'), run_field($node, $whole, 'tokens'), "$what: no token is charged twice");
	nothing_left($node, $what);
}

my $hex = as_user($node, "select encode(pgtrain.export_artifact($whole), 'hex')");
is(sha256_hex(pack('H*', $hex)), $model, 'the exported artifact has the hash of its row');
my $text = as_user($node, "select pgtrain.generate($whole, 'sample', 20, seed => 7)");
is(as_user($node, "select pgtrain.generate($whole, 'sample', 20, seed => 7)"), $text, 'generate gives equal text for equal seeds');
is($node->safe_psql('postgres', "select pgtrain.generate(prompt => 'sample', max_tokens => 20, seed => 7, model_id => (select id from pgtrain.models where run_id = $whole))"),
	$text, 'and to the server\'s superuser, who names the model');
cmp_ok(length($text), '>', 0, 'and some text');
nothing_left($node, 'after generate');
my ($stored) = glob($node->data_dir . '/pgtrain/artifacts/*/*');
ok($stored, 'a model above the limit of rows is a file');
append_to_file($_, 'x') for glob($node->data_dir . '/pgtrain/artifacts/*/*');
my ($rc, $out, $err) = $node->psql('postgres', "select pgtrain.authenticate((select session_token from pgtrain.login('ann', 'correct horse battery')), true);\nselect pgtrain.export_artifact($whole)");
like($err, qr/bytes, \d+ were announced|hash/, 'a file that was changed is not exported');
$node->stop;
done_testing();
