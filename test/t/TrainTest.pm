# What the TAP tests of the workers share: a server with the fake trainer and short times, a user, a dataset, and the checks
# that nothing is left behind. Never sleeps for a fixed time: it polls for a condition.
package TrainTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

our @EXPORT = qw(start_server add_database as_user submit let_go run_field wait_for wait_status nothing_left trainer_pids worker_pid kill_process poll_state
	crash_server fake_trainer real_trainer set_server poll_gone);

sub fake_trainer { return $ENV{PGTRAIN_FAKE_TRAINER} // die "PGTRAIN_FAKE_TRAINER names the fake trainer" }
sub real_trainer { return ($ENV{PGTRAIN_BIN} // die "PGTRAIN_BIN is the folder of the trainer") . '/pgtrain-trainer' }

my %token;

# A server of its own; further settings as text. The state of its tests is in the returned cluster.
sub start_server
{
	my ($name, $settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => 1, extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
	my $trainer = fake_trainer();
	$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'pgtrain'
max_worker_processes = 24
max_connections = 60
restart_after_crash = on
log_statement = none
pgtrain.trainer_program = '$trainer'
pgtrain.poll_interval = 100
pgtrain.progress_interval = 50
pgtrain.heartbeat_interval = 100
pgtrain.retry_delay = 50
pgtrain.lock_patience = 60s
pgtrain.trainer_grace_period = 5s
pgtrain.databases = 'postgres, other, renamed, copy'
pgtrain.password_memory = 8
$settings
CONF
	$node->start;
	add_database($node, 'postgres');
	return $node;
}

# The extension, the user ann without limits, and dataset 1 in a database.
sub add_database
{
	my ($node, $database) = @_;
	$node->safe_psql($database, 'create extension pgtrain');
	my $user = $node->safe_psql($database, "select pgtrain.register_user('ann', 'ann\@example.org', 'correct horse battery')");
	$node->safe_psql($database, "select pgtrain.set_usage_limit($user, r, -1) from unnest(array['training_jobs', 'training_tokens', 'concurrent_runs']) r");
	$token{ $node->name . $database } =
	  $node->safe_psql($database, "select session_token from pgtrain.login('ann', 'correct horse battery')");
	as_user($node, "select pgtrain.append_samples(pgtrain.create_dataset('words'), array(select 'sample number ' || g from generate_series(1, 60) g))", $database);
	return;
}

# Runs SQL as ann and returns what it prints.
sub as_user
{
	my ($node, $sql, $database) = @_;
	$database //= 'postgres';
	my $out = $node->safe_psql($database, "select pgtrain.authenticate('" . $token{ $node->name . $database } . "', true);\n$sql");
	$out =~ s/\A\d+\n?//;
	return $out;
}

# Submits a run of the fake trainer with a fault script; further config as JSON members.
sub submit
{
	my ($node, $script, $more, $arguments) = @_;
	my $config = '{"size":"nano","steps":20,"checkpoint_every":5' . ($script eq '' ? '' : qq(,"sample_prompt":"fake: $script")) . ($more // '') . '}';
	return as_user($node, "select pgtrain.submit_run(dataset_id => 1, config => '$config'" . ($arguments // '') . ')');
}

# A run that its script holds (hold@stepN) goes on: until then it is where it is, however slow the test.
sub let_go
{
	my ($node, $run) = @_;
	my ($folder) = glob($node->data_dir . "/pgtrain/jobs/*_${run}_*") or die "run $run has no job folder";
	append_to_file("$folder/go", '');
	return;
}

sub run_field
{
	my ($node, $run, $field, $database) = @_;
	return $node->safe_psql($database // 'postgres', "select $field from pgtrain.training_runs where id = $run");
}

# Polls a query until it gives the wanted text (a regular expression); returns whether it did, in time.
sub wait_for
{
	my ($node, $sql, $wanted, $seconds, $database) = @_;
	my $end = time + ($seconds // 20);
	my $got = '';
	while (time < $end)
	{
		my ($rc, $out) = $node->psql($database // 'postgres', $sql);
		$got = $out;
		return 1 if $rc == 0 && $got =~ /\A$wanted\z/;
		usleep(20_000);
	}
	diag("waited for /$wanted/, got \"$got\" from: $sql");
	return 0;
}

sub wait_status
{
	my ($node, $run, $wanted, $seconds, $database) = @_;
	return wait_for($node, "select status || coalesce('/' || end_reason, '') from pgtrain.training_runs where id = $run", $wanted, $seconds, $database);
}

# By command line: the sandboxed trainer hides its working folder, and the path is that of this test run alone. Those at a job, and on
# request the one that lists the devices, which the launcher starts a moment after each reload.
sub trainer_pids
{
	my ($node, $with_lister) = @_;
	my @pids;
	for my $process (glob '/proc/[0-9]*')
	{
		open(my $file, '<', "$process/cmdline") or next;
		my ($program, @arguments) = split /\0/, (<$file> // '');
		next if !defined $program || ($program ne fake_trainer() && $program ne real_trainer()) || (!$with_lister && grep { $_ eq 'devices' } @arguments);
		push @pids, $1 if $process =~ m{(\d+)\z};
	}
	return @pids;
}

# Where one was just started again it may not be there yet.
sub worker_pid
{
	my ($node, $kind, $database) = @_;
	my $sql = "select min(pid) from pgtrain_private.worker_states() where kind = '$kind'" .
	  ($kind eq 'launcher' ? '' : " and database_id = (select oid from pg_database where datname = current_database())");
	my $end = time + 20;
	while (time < $end)
	{
		my $pid = $node->safe_psql($database // 'postgres', $sql);
		return $pid if $pid ne '';
		usleep(20_000);
	}
	die "no $kind";
}

# The kernel's letter for what the process does; that of a zombie when there is none.
sub process_state
{
	my ($pid) = @_;
	open(my $stat, '<', "/proc/$pid/stat") or return 'Z';
	my ($state) = (<$stat> // '') =~ /\) (\w) /;
	return $state // 'Z';
}

sub poll_state
{
	my ($pid, $wanted, $seconds) = @_;
	my $end = time + ($seconds // 10);
	while (time < $end)
	{
		return 1 if process_state($pid) =~ /$wanted/;
		usleep(10_000);
	}
	return 0;
}

# True once the process is gone or a zombie that only waits to be collected.
sub poll_gone
{
	my ($pid, $seconds) = @_;
	return poll_state($pid, '[ZX]', $seconds);
}

# Kills a process of the server and waits for the server to come back. Only when the process is gone does the postmaster know: whom it
# lets in before that it lets into the old life.
sub kill_process
{
	my ($node, $pid) = @_;
	kill 'KILL', $pid or die "no process $pid";
	poll_gone($pid) or die "process $pid survived";
	return $node->poll_query_until('postgres', 'select true');
}

# Kills the postmaster and waits for all of it to be gone; the next start recovers.
sub crash_server
{
	my ($node) = @_;
	open(my $file, '<', $node->data_dir . '/postmaster.pid') or die "no postmaster.pid";
	chomp(my $pid = <$file>);
	close $file;
	# Stopped before it is killed, so that it starts no child that is not among these.
	kill 'STOP', $pid;
	poll_state($pid, 'T') or die "the postmaster does not stop";
	my @children = grep { /\A\d+\z/ } split /\s+/, `ps -o pid= --ppid $pid`;
	kill 'KILL', $pid;
	poll_gone($_) or die "process $_ survived the postmaster" for @children;
	poll_gone($_) or die "trainer $_ survived the postmaster" for trainer_pids($node);
	# A dead postmaster that nobody has collected yet still owns its lock files in the eyes of the next.
	my $end = time + 15;
	usleep(10_000) while -d "/proc/$pid" && time < $end;
	$node->{_pid} = undef;
	return;
}

sub set_server
{
	my ($node, $name, $value) = @_;
	$node->safe_psql('postgres', "alter system set $name = '$value'");
	$node->reload;
	return;
}

# One test: no trainer, no lease, no held usage, no queue entry without a queued run, no job folder, nothing running.
sub nothing_left
{
	my ($node, $what, $database) = @_;
	$database //= 'postgres';
	my $clean = wait_for($node, <<'SQL', '0\|0\|0\|0\|0', 20, $database);
select (select count(*) from pgtrain.run_attempts where ended_at is null),
       (select count(*) from pgtrain.training_runs where status in ('running')),
       (select coalesce(sum(held_value), 0) from pgtrain.user_usage_limits)
         - (select coalesce(sum(1 + planned_tokens - tokens), 0) from pgtrain.training_runs where status = 'paused' and step = 0)
         - (select coalesce(sum(planned_tokens), 0) from pgtrain.training_runs where status = 'paused' and step > 0),
       (select count(*) from pgtrain_private.run_queue),
       (select count(*) from (select user_id, resource_type, sum(amount) from pgtrain.usage_entries group by 1, 2) e (u, r, s)
          full join pgtrain.user_usage_limits l on l.user_id = e.u and l.resource_type = e.r where coalesce(e.s, 0) <> coalesce(l.used_value, 0))
SQL
	my $end = time + 10;
	my (@folders, @trainers);
	do
	{
		@folders = glob($node->data_dir . '/pgtrain/jobs/*');
		@trainers = trainer_pids($node);
		usleep(20_000) if @folders || @trainers;
	} while ((@folders || @trainers) && time < $end);
	ok($clean && !@folders && !@trainers, "$what: no lease, hold, queue entry, process or job folder is left")
	  or diag("folders: @folders, trainers: @trainers");
	my @stray = stray_files($node, $database);
	# A worker that rolled back leaves its file to the scheduler, who looks at each of his starts and once a minute.
	$node->safe_psql($database, 'select pg_terminate_backend(' . worker_pid($node, 'scheduler', $database) . ')') if @stray;
	for ($end = time + 10; @stray && time < $end; usleep(20_000)) { @stray = stray_files($node, $database) }
	ok(!@stray, "$what: no file is stored that no row names") or diag("files: @stray");
	return;
}

sub stray_files
{
	my ($node, $database) = @_;
	my ($oid, @known) = split /\n/, $node->safe_psql($database, <<'SQL');
select oid from pg_database where datname = current_database();
select id from pgtrain_private.stored_files where storage = 'file';
SQL
	my %known = map { $_ => 1 } @known;
	return grep { m{(\d+)\z} && !$known{$1} } glob($node->data_dir . "/pgtrain/artifacts/$oid/*");
}

1;
