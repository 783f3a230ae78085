# Runs that meet a limit while they run: trained tokens after the limit was lowered, GPU seconds that run out. They stop at a
# checkpoint as limit_reached, give back what they held, and go on by themselves when there is room. Storage is counted with what is
# stored, and full storage refuses new runs. The device is told to be a CUDA card.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use TrainTest;

my $node = start_server('limited', "pgtrain.cpu_workers = 1\n");
my $ann = $node->safe_psql('postgres', "select id from pgtrain.users where username = 'ann'");
sub limit { my ($resource, $value) = @_; $node->safe_psql('postgres', "select pgtrain.set_usage_limit($ann, '$resource', $value, 'monthly')"); return }
sub usage_of { my ($resource) = @_; return $node->safe_psql('postgres', "select used_value || '/' || held_value from pgtrain.usage($ann) where resource_type = '$resource'") }
# A run that takes half a second for each step after the third in its first attempts, so that it is under way whenever it is told to stop.
sub submit_slow
{
	my ($attempts) = @_;
	return submit($node, join(' ', map { my $n = $_; map { "slow:500\@step$_#$n" } 4 .. 19 } 1 .. $attempts), ',"batch_size":1,"context":64');
}
sub books { is($node->safe_psql('postgres', 'select * from pgtrain_private.check_ledger(); select * from pgtrain_private.check_storage()'), '', "the books agree $_[0]"); return }

# ---------------------------------------------------------------- trained tokens
my $whole = submit($node, 'step_ms=1', ',"batch_size":1,"context":64');
ok(wait_status($node, $whole, 'succeeded/completed'), 'a run that meets no limit');
my $tokens = run_field($node, $whole, 'tokens');
my $step = $tokens / 20;
is(usage_of('training_tokens'), "$tokens/0", 'is charged what it has trained');

my $run = submit_slow(2);
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $run", 't'), 'a run is under way');
limit('training_tokens', $tokens);
ok(wait_status($node, $run, 'paused/limit_reached'), 'the limit is lowered to what was used before: it stops');
books('then');
my $trained = run_field($node, $run, 'tokens');
is(usage_of('training_tokens'), $tokens + $trained . '/0', 'it is charged what it has trained and holds nothing');
cmp_ok($trained, '<', $tokens, 'it was stopped in the middle');
is($node->safe_psql('postgres', "select count(*) from pgtrain.checkpoints where run_id = $run"), '1', 'at a checkpoint');
like(as_user($node, "select pgtrain.why_waiting($run)"), qr/the limit of training_tokens is reached/, 'why_waiting says so');
is($node->safe_psql('postgres', "select data->>'resource' from pgtrain.training_statuses where training_run_id = $run and status = 'paused'"), 'training_tokens', 'and the event');
my ($rc, $out, $err) = $node->psql('postgres', "select pgtrain.resume_run($run)");
like($err, qr/limit of training_tokens exceeded/, 'resume_run finds no room');
is(run_field($node, $run, 'status'), 'paused', 'and changes nothing');
# A little room: it goes on with that, and stops again. Less than a twentieth of the limit, with which it would go on by itself.
limit('training_tokens', $tokens + $trained + $step);
$node->safe_psql('postgres', "select pgtrain.resume_run($run)");
ok(wait_for($node, "select tokens >= $trained + $step and status = 'paused' and end_reason = 'limit_reached' from pgtrain.training_runs where id = $run", 't'), 'it goes on as far as there is room');
books('then');
# The period ends.
$node->safe_psql('postgres', "update pgtrain.user_usage_limits set reset_at = now() - interval '1 second' where user_id = $ann and resource_type = 'training_tokens'");
ok(wait_status($node, $run, 'succeeded/completed', 30), 'the counter starts again: it goes on by itself to its end');
is(run_field($node, $run, 'tokens'), $tokens, 'having trained each token once');
books('at the end');
is($node->safe_psql('postgres', "select count(*) from pgtrain.artifacts where run_id = $run and name = 'model.safetensors'"), '1', 'with its model');
is($node->safe_psql('postgres', "select sum(amount) from pgtrain.usage_entries where run_id = $run and resource_type = 'training_tokens'"), $tokens, 'which it was charged in all');

# Paused by its user while it waits for a limit, it waits for him.
limit('training_tokens', 1000000);
$run = submit_slow(1);
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $run", 't'), 'another is under way');
limit('training_tokens', 0);
ok(wait_status($node, $run, 'paused/limit_reached'), 'its limit becomes 0: it stops');
as_user($node, "select pgtrain.pause_run($run)");
is(run_field($node, $run, 'end_reason'), 'paused_by_user', 'its user pauses it');
limit('training_tokens', 1000000);
my $other = submit($node, 'step_ms=1', ',"batch_size":1,"context":64');
ok(wait_status($node, $other, 'succeeded/completed'), 'another run passes');
is(run_field($node, $run, 'status'), 'paused', 'it still waits');
as_user($node, "select pgtrain.resume_run($run)");
ok(wait_status($node, $run, 'succeeded/completed'), 'resumed, it ends');
# Cancelled while it waits for a limit.
$run = submit_slow(1);
ok(wait_for($node, "select step >= 3 from pgtrain.training_runs where id = $run", 't'), 'another is under way');
limit('training_tokens', 0);
ok(wait_status($node, $run, 'paused/limit_reached'), 'it stops');
as_user($node, "select pgtrain.cancel_run($run)");
is($node->safe_psql('postgres', 'select count(*) from pgtrain_private.limited_runs'), '0', 'cancelled, it waits for nothing');
limit('training_tokens', -1);
books('then');

# ---------------------------------------------------------------- GPU seconds
# What finds devices writes what it found every ten seconds.
$node->safe_psql('postgres', <<'SQL');
create function public.is_card() returns trigger language plpgsql as $$ begin new.kind := 'cuda'; return new; end $$;
create trigger is_card before insert or update on pgtrain.devices for each row execute function public.is_card();
update pgtrain.devices set status = status;
SQL
limit('gpu_seconds', 2);
# Steps of a second in its first attempt, so that it does not come to its end while something stalls.
$run = submit($node, join(' ', map { "slow:1000\@step$_#1" } 4 .. 59), ',"batch_size":1,"context":64,"steps":60');
ok(wait_status($node, $run, 'paused/limit_reached'), 'a run on a card stops when its GPU seconds are used up');
books('then');
my ($used, $held) = split m{/}, usage_of('gpu_seconds');
is($held, 0, 'it holds none');
cmp_ok($used, '>=', 2, 'it is charged the seconds of its attempt');
cmp_ok(run_field($node, $run, 'step'), '<', 30, 'and was not let go on much longer');
is($node->safe_psql('postgres', "select sum(amount) from pgtrain.usage_entries where run_id = $run and resource_type = 'gpu_seconds'"),
	$node->safe_psql('postgres', "select ceil(sum(extract(epoch from ended_at - started_at))) from pgtrain.run_attempts where run_id = $run"), 'exactly');
my $second = submit($node, 'step_ms=1');
ok(wait_status($node, $second, 'paused/limit_reached'), 'the next run is not begun on a card');
is($node->safe_psql('postgres', "select coalesce(max(step), 0) from pgtrain.run_metrics where run_id = $second"), '0', 'and makes no step');
limit('gpu_seconds', -1);
ok(wait_status($node, $run, 'succeeded/completed', 30), 'with the limit gone the first goes on');
ok(wait_status($node, $second, 'succeeded/completed', 30), 'and the second');
is($node->safe_psql('postgres', "select sum(amount) from pgtrain.usage_entries where run_id = $run and resource_type = 'gpu_seconds'"),
	$node->safe_psql('postgres', "select ceil(sum(extract(epoch from ended_at - started_at))) from pgtrain.run_attempts where run_id = $run"), 'charged the seconds of both attempts');
books('at the end');

# ---------------------------------------------------------------- storage, warnings
cmp_ok((split m{/}, usage_of('storage_bytes'))[0], '>', 0, 'datasets and artifacts take storage');
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($ann, 'storage_bytes', 1)");
($rc, $out, $err) = $node->psql('postgres', "select pgtrain.append_samples(1, array['one more'])");
like($err, qr/limit of storage_bytes exceeded/, 'full storage takes no samples');
eval { submit($node, '') };
like($@, qr/limit of storage_bytes exceeded/, 'and no runs');
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($ann, 'storage_bytes', -1)");
$run = submit($node, 'step_ms=1');
$node->safe_psql('postgres', "select pgtrain.set_usage_limit($ann, 'storage_bytes', 1)");
ok(wait_status($node, $run, 'succeeded/completed'), 'a run that is under way stores its result all the same');
$node->safe_psql('postgres', "delete from pgtrain.training_runs where id = $run");
books('when a run was deleted');
nothing_left($node, 'at the end');
$node->stop;
done_testing();
