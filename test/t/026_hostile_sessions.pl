# Sessions that mean no good: transactions left open that hold what a device worker needs, work left in prepared transactions, a
# procedure that outlives its session, and secrets in statements that others could read.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TrainTest;

my $node = start_server('hostile', <<'CONF');
pgtrain.lock_patience = 500ms
pgtrain.cpu_workers = 1
max_prepared_transactions = 5
log_statement = none
CONF
my $token = $node->safe_psql('postgres', "select session_token from pgtrain.login('ann', 'correct horse battery')");
my $me = "select pgtrain.authenticate('$token', true) is not null;";

# A psql that stays; what it is given is executed, and its transaction stays open.
sub open_session
{
	my ($sql) = @_;
	my ($in, $out) = ("$sql\n\\echo opened\n", '');
	my $handle = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(60));
	$handle->pump until $out =~ /opened/;
	return { handle => $handle, in => \$in, out => \$out };
}

sub close_session
{
	my ($session) = @_;
	${ $session->{in} } .= "\\q\n";
	eval { $session->{handle}->finish };
	return ${ $session->{out} };
}

# Whoever keeps the only worker waiting loses his session, and the device serves the next run. First the counters that a submit
# locks, then the attempt that a cancel locks.
for my $case ([ 'submit', "select pgtrain.submit_run(dataset_id => 1, config => '{\"size\":\"nano\",\"steps\":20}')" ], [ 'cancel', 'select pgtrain.cancel_run(RUN)' ])
{
	my ($name, $sql) = @$case;
	my $run = submit($node, 'hold@step2', ',"steps":40');
	ok(wait_for($node, "select step >= 1 from pgtrain.training_runs where id = $run", 't'), "$name: a run steps");
	$sql =~ s/RUN/$run/;
	my $session = open_session("$me begin; $sql;");
	let_go($node, $run);
	ok(wait_status($node, $run, 'succeeded/completed', 30), "$name: left open, it does not hold up the end of the run");
	${ $session->{in} } .= "commit;\n";
	like(close_session($session), qr/terminating connection|server closed the connection/, "$name: its session was ended");
	my $next = submit($node, '');
	ok(wait_status($node, $next, 'succeeded/completed', 30), "$name: the device serves others");
}
like(slurp_file($node->logfile), qr/pgtrain: ended process \d+ of role .*\n.*kept a worker or an administrator waiting for a lock longer than pgtrain.lock_patience/, 'the log says who and why');
nothing_left($node, 'after blocked workers');

# The scheduler serves everybody: it passes over the run of somebody who holds a lock, and frees the lost run of another.
$node->safe_psql('postgres', <<'SQL');
select pgtrain.register_user('bob', 'bob@example.org', 'correct horse battery');
SQL
my $bob = $node->safe_psql('postgres', "select session_token from pgtrain.login('bob', 'correct horse battery')");
my $as_bob = "select pgtrain.authenticate('$bob', true) is not null;";
set_server($node, 'pgtrain.cpu_workers', '0');
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device'", '0'), 'no device worker');
my $lost_ann = submit($node, '', '', ', max_attempts => 1');
my $lost_bob = $node->safe_psql('postgres', "$as_bob select pgtrain.submit_run(dataset_id => pgtrain.dataset_from_query('bobs', 'select ''bob'''), config => '{\"size\":\"nano\",\"steps\":20}', max_attempts => 1)");
$lost_bob =~ s/.*\n//s;
my $holder = open_session("$me begin; select pgtrain.submit_run(dataset_id => 1, config => '{\"size\":\"nano\",\"steps\":20}', start_at => now() + interval '1 hour');");
# Claims of a process that ends at once: their leases are lost.
$node->safe_psql('postgres', 'select pgtrain_private.claim_run(null, pg_backend_pid()), pgtrain_private.claim_run(null, pg_backend_pid())');
ok(wait_status($node, $lost_bob, 'failed/worker_lost', 20), 'a lost run is ended although the owner of another holds a lock');
is(run_field($node, $lost_ann, 'status'), 'running', 'whose run waits');
close_session($holder);
ok(wait_status($node, $lost_ann, 'failed/worker_lost', 20), 'until he lets go');
set_server($node, 'pgtrain.cpu_workers', '1');

# Two phases: the identity does not stay, the limit counts what is prepared, and the run starts when it is committed.
my $used = "select used_value from pgtrain.user_usage_limits l join pgtrain.users u on u.id = l.user_id where username = 'ann' and resource_type = 'training_jobs'";
my $before = $node->safe_psql('postgres', $used);
my $prepared = "begin; select pgtrain.authenticate('$token') is not null; select pgtrain.submit_run(dataset_id => 1, config => '{\"size\":\"nano\",\"steps\":20}'); prepare transaction 'NAME';";
(my $first = $prepared) =~ s/NAME/first/;
my $out = $node->safe_psql('postgres', "$first select pgtrain.current_user_id() is null");
like($out, qr/\nt\z/, 'the identity of a prepared transaction ends with it');
my ($run) = $out =~ /\At\n(\d+)\n/;
is($node->safe_psql('postgres', "rollback prepared 'first'; $used"), $before, 'rolled back, nothing is held');
(my $second = $prepared) =~ s/NAME/second/;
($run) = $node->safe_psql('postgres', $second) =~ /\At\n(\d+)\z/;
$node->safe_psql('postgres', "commit prepared 'second'");
ok(wait_status($node, $run, 'succeeded/completed', 20), 'committed, the run is found and executed');
is($node->safe_psql('postgres', $used), $before + 1, 'and counted once');
# Whose runs may not start for a limit does not hide those of others whose wake-up nobody heard.
$node->safe_psql('postgres', "select pgtrain.set_usage_limit(id, 'concurrent_runs', 0) from pgtrain.users where username = 'ann'");
my $limited = submit($node, '');
(my $third = $prepared) =~ s/NAME/third/;
$third =~ s/\Q$token\E/$bob/;
$third =~ s/dataset_id => 1/dataset_id => (select id from pgtrain.datasets where name = 'bobs')/;
($run) = $node->safe_psql('postgres', $third) =~ /\At\n(\d+)\z/;
$node->safe_psql('postgres', "commit prepared 'third'");
ok(wait_status($node, $run, 'succeeded/completed', 20), 'a prepared run starts although a run of another must wait');
is(run_field($node, $limited, 'status'), 'queued', 'which still does');
$node->safe_psql('postgres', "select pgtrain.set_usage_limit(id, 'concurrent_runs', -1) from pgtrain.users where username = 'ann'");
ok(wait_status($node, $limited, 'succeeded/completed', 20), 'until it may start');

# A procedure that commits again and again is one statement for the server; its session expires all the same.
$node->safe_psql('postgres', "create role app login; select pgtrain.grant_application('app')");
my $short = $node->safe_psql('postgres', "set pgtrain.session_lifetime = '4s'; select session_token from pgtrain.login('ann', 'correct horse battery')");
my ($rc, undef, $notices) = $node->psql('postgres', <<SQL, extra_params => [ '-U', 'app' ]);
do \$\$
declare
    begun timestamptz := clock_timestamp();
begin
    perform pgtrain.authenticate('$short', true);
    commit;
    while pgtrain.current_user_id() is not null and clock_timestamp() < begun + interval '20 s' loop
        perform pg_sleep(0.02);
        commit;
    end loop;
    raise notice 'over: %', clock_timestamp() < begun + interval '20 s';
end \$\$
SQL
like($notices, qr/over: t/, 'a session expires within a procedure that never ends');

# Secrets in statements: not in pg_stat_activity, where users of one database role read each other, and not in the log.
my $reader = open_session("select pgtrain.authenticate('$token', true) is not null; \\echo");
unlike($node->safe_psql('postgres', 'select string_agg(query, E\'\n\') from pg_stat_activity'), qr/\Q$token\E/, 'no token in pg_stat_activity');
close_session($reader);
$node->psql('postgres', $_)
  for "select pgtrain.login('ann', 'guess-in-the-log'), 1 / (random() * 0)::integer",
  "select pgtrain.authenticate('token-in-the-log')",
  "select pgtrain.register_user('ann', 'ann\@example.org', 'pass-in-the-log')",
  "select pgtrain.refresh_session('token-in-the-log')",
  "do \$\$ begin perform pgtrain.authenticate('$token', true); perform pgtrain.change_password('old-in-the-log', 'new-in-the-log'); end \$\$";
my $log = slurp_file($node->logfile);
like($log, qr/the session token is not valid/, 'the errors are logged');
unlike($log, qr/in-the-log/, 'without passwords and tokens');
$node->stop;
done_testing();
