# Root keys: from a file or a command, refused when others can read them, added while the server runs and seen by every session; a
# dump keeps sealed rows, which open with their key and not without; a crash forgets no key that was added.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest qw(wait_for poll_gone);

sub new_key { return join '', map { sprintf '%02x', int(rand(256)) } 1 .. 32 }
my ($first, $second, $third) = map { new_key() } 1 .. 3;
my $marker = 'sk-' . new_key();

# A file of keys beside the data folder, which the server's user owns.
sub write_keys
{
	my ($path, @keys) = @_;
	open(my $file, '>', "$path.new") or die "cannot write $path.new: $!";
	print $file "$_\n" for @keys;
	close $file;
	chmod 0600, "$path.new";
	rename "$path.new", $path or die "cannot rename: $!";
	return;
}

sub server
{
	my ($name, $settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => 1, extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pgtrain'\nmax_worker_processes = 16\nrestart_after_crash = on\n"
		  . "pgtrain.cpu_workers = 0\npgtrain.password_memory = 64kB\npgtrain.password_passes = 1\npgtrain.poll_interval = 100\n$settings\n");
	$node->start;
	return $node;
}

sub error_of
{
	my ($node, $sql, $database) = @_;
	my ($rc, $out, $err) = $node->psql($database // 'postgres', "\\set VERBOSITY verbose\n$sql");
	return $rc == 0 ? 'no error' : $err;
}
my $login = q{select pgtrain.authenticate((select session_token from pgtrain.login('anna', 'a long enough secret')), true) > 0;};
sub store { my ($name, $value) = @_; return "$login select pgtrain.store_secret('$name', '$value') > 0" }
my $ids = 'select string_agg(key_id, \',\' order by is_current desc, key_id) from pgtrain.list_root_keys()';
my $health = "select string_agg(name || ' ' || has_key || ' ' || is_current || ' ' || opens, ', ' order by name) from pgtrain.secret_health";

my $folder = PostgreSQL::Test::Utils::tempdir();
my $path = "$folder/root.keys";
write_keys($path, $first);
my $node = server('keys', "pgtrain.root_key_file = '$path'");
$node->safe_psql('postgres', "create extension pgtrain; select pgtrain.register_user('anna', 'anna\@keys.test', 'a long enough secret')");
is($node->safe_psql('postgres', store('one', $marker)), "t\nt", 'sealed');
is($node->safe_psql('postgres', $health), 'one true true true', 'opens under the first key');
my $first_id = $node->safe_psql('postgres', $ids);
like($first_id, qr/\A[0-9a-f]{16}\z/, 'one key, known by its id');

# A dump keeps the sealed row and holds neither key nor value.
$node->safe_psql('postgres', 'create database original');
$node->safe_psql('original', "create extension pgtrain; select pgtrain.register_user('anna', 'anna\@keys.test', 'a long enough secret')");
$node->safe_psql('original', store('one', $marker));
my $dump = $node->backup_dir . '.sql';
$node->command_ok([ 'pg_dump', '--file', $dump, '--dbname', $node->connstr('original') ], 'dumped');
my $text = slurp_file($dump);
unlike($text, qr/\Q$marker\E|\Q$first\E/, 'the dump holds neither the value nor the key');
my $hex = unpack 'H*', $marker;
unlike($text, qr/\Q$hex\E/, 'nor the value in another form');

# Another server with another key: the row is there, says which key it needs, and does not open until that key is added.
my $other_path = "$folder/other.keys";
write_keys($other_path, $second);
my $other = server('other', "pgtrain.root_key_file = '$other_path'");
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $other->connstr('postgres') ], 'restored elsewhere');
is($other->safe_psql('postgres', $health), 'one false false false', 'without its key it does not open');
is($other->safe_psql('postgres', 'select key_id from pgtrain.secret_health'), $first_id, 'and says which key it needs');
like($other->safe_psql('postgres', 'select problem from pgtrain.secret_health'), qr/the root key $first_id is missing/, 'and why it does not open');
is($other->safe_psql('postgres', 'select pgtrain.rotate_secrets()'), '0', 'rotation leaves it alone');
is($other->safe_psql('postgres', store('two', 'another')), "t\nt", 'new ones are sealed under the key that is there');
# The key that is added last is the current one unless another is marked.
write_keys($other_path, $first, $second);
$other->reload;
ok(wait_for($other, $health, 'one true true true, two true true true'), 'with the old key added it opens, and is sealed anew under the current one');
$other->stop;

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', $health), 'one true true true', 'on a standby it opens too');

# Adding a key while the server runs: a session that was there before sees it.
my $session = $node->background_psql('postgres', on_error_stop => 0);
like($session->query($ids), qr/$first_id/, 'a session with the first key');
write_keys($path, $first, "$third current", $second);
$node->reload;
ok(wait_for($node, 'select count(*) from pgtrain.list_root_keys()', '3'), 'three keys after a reload');
my $third_id = $node->safe_psql('postgres', 'select key_id from pgtrain.list_root_keys() where is_current');
like($session->query($ids), qr/\A$third_id/, 'the session sees the marked key as the current one');
$session->quit;
ok(wait_for($node, $health, 'one true true true'), 'the scheduler has sealed the row anew');
is($node->safe_psql('postgres', 'select key_id from pgtrain.secret_health'), $third_id, 'under the marked key');
# The standby was told of no key, and nothing reloads there.
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', $health), 'one true true true', 'on the standby the row that was sealed anew opens');
$standby->promote;
ok(wait_for($standby, $ids, "$third_id.*"), 'promoted, it knows the key that was added while it was a standby');
is($standby->safe_psql('postgres', store('two', $marker)), "t\nt", 'and seals');
is($standby->safe_psql('postgres', "select key_id from pgtrain.secret_health where name = 'two'"), $third_id, 'under it');
$standby->stop;

# What cannot be used leaves the former keys in force, and says why.
my $log = -s $node->logfile;
chmod 0640, $path;
$node->reload;
ok(wait_for($node, 'select pgtrain_private.root_key_problem()', '.*mode is 0640.*chmod 600.*'), 'others can read the file: refused');
is($node->safe_psql('postgres', $health), 'one true true true', 'the former keys are still in force');
is($node->safe_psql('postgres', store('one', $marker)), "t\nt", 'also to seal');
write_keys($path, $first, 'not a key at all');
$node->reload;
ok(wait_for($node, 'select pgtrain_private.root_key_problem()', '.*Line 2 is not a key.*'), 'no key: refused by its line');
# A problem is logged after sessions know of it, and before the next reload.
like(slurp_file($node->logfile, $log), qr/WARNING:.*mode is 0640/, 'the log tells');
unlink $path;
$node->reload;
ok(wait_for($node, 'select pgtrain_private.root_key_problem()', '.*No such file.*'), 'no file: refused');
my $told = slurp_file($node->logfile, $log);
like($told, qr/WARNING:.*Line 2 is not a key/, 'the log tells of the line');
unlike($told, qr/\Q$first\E|not a key at all/, 'and shows nothing of the file');
is($node->safe_psql('postgres', 'select count(*) from pgtrain.list_root_keys()'), '3', 'and the keys are still there');
# A crash makes shared memory anew; what was read since the start is read again.
write_keys($path, $third);
$node->reload;
ok(wait_for($node, $ids, $third_id), 'an old key is taken out');
my $backend = $node->background_psql('postgres', on_error_stop => 0);
my ($pid) = $backend->query('select pg_backend_pid()') =~ /(\d+)/;
kill 'KILL', $pid;
poll_gone($pid) or die "process $pid is still there";
ok(wait_for($node, $ids, $third_id, 30), 'after the crash of a process the newest keys are in force');
eval { $backend->quit };
is($node->safe_psql('postgres', $health), 'one true true true', 'and the secret opens');

# A server whose keys cannot be used starts, and says what to do.
chmod 0644, $path;
$node->restart;
my $refusal = error_of($node, store('x', 'value of no key'));
like($refusal, qr/PT503: there is no root key.*mode is 0644.*chmod 600/s, 'without usable keys storing is refused with the reason');
is($node->safe_psql('postgres', $health), 'one false false false', 'and nothing opens');
chmod 0600, $path;
$node->reload;
ok(wait_for($node, $health, 'one true true true'), 'mended and reloaded, all opens');

# From a command: run once at the start and once a reload, refused when it fails or hangs on to nothing.
my $count = "$folder/count";
$node->append_conf('postgresql.conf', "pgtrain.root_key_file = ''\npgtrain.root_key_command = 'echo run >> $count; cat $path'");
$node->restart;
is($node->safe_psql('postgres', $health), 'one true true true', 'keys of a command');
$node->safe_psql('postgres', $health) for 1 .. 3;
is(slurp_file($count), "run\n", 'which ran once');
write_keys($path, "$third current", $second);
$node->reload;
ok(wait_for($node, 'select count(*) from pgtrain.list_root_keys()', '2'), 'a reload runs it again');
is(slurp_file($count), "run\nrun\n", 'once');
$node->append_conf('postgresql.conf', "pgtrain.root_key_command = 'cat $path; exit 3'");
$node->restart;
like(error_of($node, store('x', 'y')), qr/ended with status 3/, 'a command that fails gives no keys');
$node->append_conf('postgresql.conf', "pgtrain.root_key_file = '$path'");
$node->restart;
like(error_of($node, store('x', 'y')), qr/are both set/, 'two sources are refused');
# The keys are nowhere that SQL can see, not even for a superuser.
my $everything = $node->safe_psql('postgres', "select string_agg(s::text, ' ') from pg_settings s");
unlike($everything, qr/\Q$first\E|\Q$second\E|\Q$third\E/, 'no setting holds a key');

# Without preloading a backend reads the file itself, and again when it changes.
write_keys($path, $third);
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\npgtrain.root_key_command = ''\npgtrain.root_key_file = '$path'");
$node->restart;
my $lazy = $node->background_psql('postgres', on_error_stop => 0);
like($lazy->query($health), qr/one true true true/, 'without preloading it opens');
write_keys($path, $third, $second);
like($lazy->query('select count(*) from pgtrain.list_root_keys()'), qr/2/, 'a changed file is read by the session');
like($lazy->query('select pgtrain.rotate_secrets()'), qr/1/, 'and rows are sealed anew by hand');
$lazy->quit;
$node->stop;
done_testing();
