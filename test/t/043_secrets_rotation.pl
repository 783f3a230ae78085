# Rotation of the root key, online: killed at any point it goes on where it was, in every table with sealed columns, while users store;
# rows that are locked or do not open hold up nothing.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest qw(wait_for crash_server worker_pid);

sub new_key { return join '', map { sprintf '%02x', int(rand(256)) } 1 .. 32 }
my $folder = PostgreSQL::Test::Utils::tempdir();
my $path = "$folder/root.keys";

sub write_keys
{
	my (@keys) = @_;
	open(my $file, '>', "$path.new") or die "cannot write: $!";
	print $file "$_\n" for @keys;
	close $file;
	chmod 0600, "$path.new";
	rename "$path.new", $path or die "cannot rename: $!";
	return;
}

my @keys = map { new_key() } 1 .. 3;
write_keys($keys[0]);
my $node = PostgreSQL::Test::Cluster->new('rotation');
$node->init(allows_streaming => 1, extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'pgtrain'
max_worker_processes = 16
max_prepared_transactions = 2
pgtrain.cpu_workers = 0
pgtrain.poll_interval = 100
pgtrain.password_memory = 64kB
pgtrain.password_passes = 1
pgtrain.root_key_file = '$path'
pgtrain.secrets_per_user = 2000
CONF
$node->start;
my $rows = 1200;
$node->safe_psql('postgres', 'create extension pgtrain');
$node->safe_psql('postgres', "select pgtrain.register_user('anna', 'anna\@rotation.test', 'a long enough secret')");
my $login = q{select pgtrain.authenticate((select session_token from pgtrain.login('anna', 'a long enough secret')), true) > 0;};
$node->safe_psql('postgres', "$login select count(pgtrain.store_secret('s' || g, md5(g::text))) from generate_series(1, $rows) g");

# Rows by the place of their key: the current one, another one that is there, none of those.
my $places = "select count(*) filter (where is_current) || '|' || count(*) filter (where has_key and not is_current) || '|' "
  . "|| count(*) filter (where not has_key) || '|' || count(*) filter (where not opens) from pgtrain.secret_health";
is($node->safe_psql('postgres', $places), "$rows|0|0|0", 'all under the first key');

# An open transaction holds fifty rows, so that rotation is in the middle when the server is killed.
sub hold_rows
{
	my $holder = $node->background_psql('postgres', on_error_stop => 0);
	$holder->query("begin");
	$holder->query("select count(*) from (select from pgtrain.secrets where id <= (select min(id) + 49 from pgtrain.secrets) for update) t");
	return $holder;
}
my $holder = hold_rows();
write_keys(@keys[ 0, 1 ]);
$node->reload;
ok(wait_for($node, $places, ($rows - 50) . '\|50\|0\|0'), 'all but the locked rows are sealed anew, in portions, and all open meanwhile');
is($node->safe_psql('postgres', 'select pgtrain.rotate_secrets()'), '0', 'rotation by hand waits for no lock');
crash_server($node);
eval { $holder->quit };
$node->start;
ok(wait_for($node, $places, "$rows\\|0\\|0\\|0", 40), 'after the server was killed in the middle rotation goes on and ends');

# Killed many times while it works: every row opens at any moment.
write_keys(@keys);
$node->reload;
ok(wait_for($node, 'select count(*) from pgtrain.list_root_keys()', '3'), 'a third key');
my $whole = 0;
for my $round (1 .. 4)
{
	my $pid = worker_pid($node, 'scheduler');
	$node->safe_psql('postgres', "select pg_terminate_backend($pid)") if $pid;
	my ($current, $old, $missing, $broken) = split /\|/, $node->safe_psql('postgres', $places);
	$whole++ if $current + $old == $rows && $missing == 0 && $broken == 0;
}
is($whole, 4, 'every row opens at any moment');
ok(wait_for($node, $places, "$rows\\|0\\|0\\|0", 40), 'and all come under the third key');
write_keys($keys[2]);
$node->reload;
ok(wait_for($node, 'select count(*) from pgtrain.list_root_keys()', '1'), 'the old keys are taken out');
is($node->safe_psql('postgres', $places), "$rows|0|0|0", 'nothing needs them');

# By hand, in portions; a row that does not open is left and holds up nothing. The scheduler is away.
$node->append_conf('postgresql.conf', "pgtrain.databases = 'none'");
$node->reload;
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'scheduler' and pid is not null", '0'), 'no scheduler');
$node->safe_psql('postgres', q{update pgtrain.secrets set sealed = set_byte(sealed, 40, 255 - get_byte(sealed, 40)) where name in ('s1', 's2')});
write_keys(@keys[ 2, 0 ]);
$node->reload;
ok(wait_for($node, 'select count(*) from pgtrain.list_root_keys()', '2'), 'a new key');
is($node->safe_psql('postgres', 'select pgtrain.rotate_secrets(1)'), '1', 'one row');
is($node->safe_psql('postgres', 'select pgtrain.rotate_secrets(500)'), '500', 'a portion');
is($node->safe_psql('postgres', 'select pgtrain.rotate_secrets()'), $rows - 503, 'the rest');
is($node->safe_psql('postgres', 'select pgtrain.rotate_secrets()'), '0', 'nothing more');
is($node->safe_psql('postgres', $places), ($rows - 2) . '|2|0|2', 'the two that do not open are left, and shown');
is($node->safe_psql('postgres', "select sum((subject->>'rows')::integer) from pgtrain.audit_log where title = 'secrets_rotated'"), $rows - 2, 'rotation by hand is in the audit log');
$node->stop;
done_testing();
