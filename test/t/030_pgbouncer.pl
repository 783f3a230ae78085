# Behind the real PgBouncer, one connection to the server shared by all clients: an identity of a transaction never reaches the next
# client; one of the whole connection is refused where pgtrain.session_scope is off, and ended by DISCARD ALL where the pooler sends
# that (session mode; transaction mode with server_reset_query_always). What a pooler without either would do is shown too, so that
# the test is known to see a leak.
use strict;
use warnings;
use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my ($program) = grep { -x $_ } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/bin';
plan skip_all => 'PgBouncer is not installed (make deps installs it)' if !defined $program;

my $node = PostgreSQL::Test::Cluster->new('pooled');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pgtrain'
pgtrain.databases = 'none'
pgtrain.password_memory = 64kB
pgtrain.password_passes = 1
CONF
$node->start;
$node->safe_psql('postgres', "create extension pgtrain; create role app login; create role strict_app login;
	select pgtrain.grant_application('app'); select pgtrain.grant_application('strict_app'); alter role strict_app set pgtrain.session_scope = off");
my $users = 6;
my (@id, @token);
for my $n (0 .. $users - 1)
{
	my $name = "user$n";
	push @id, $node->safe_psql('postgres', "select pgtrain.register_user('$name', '$name\@pool.test', 'a long enough secret')");
	push @token, $node->safe_psql('postgres', "select session_token from pgtrain.login('$name', 'a long enough secret')");
}

my @poolers;
# Starts a pooler with one connection to the server for each role; returns what clients connect with.
sub start_pooler
{
	my ($name, $settings) = @_;
	my ($folder, $port) = ($node->basedir . "/$name", PostgreSQL::Test::Cluster::get_free_port());
	mkdir $folder or die "$folder: $!";
	my ($host, $server_port) = ($node->host, $node->port);
	append_to_file("$folder/users.txt", qq("app" ""\n"strict_app" ""\n));
	append_to_file("$folder/pgbouncer.ini", <<CONF);
[databases]
postgres = host=$host port=$server_port dbname=postgres
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $folder
auth_type = trust
auth_file = $folder/users.txt
pidfile = $folder/pid
logfile = $folder/log
default_pool_size = 1
$settings
CONF
	system_or_bail($program, '-q', '-d', "$folder/pgbouncer.ini");
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;
	# The socket is there before it is listened to.
	usleep(20_000) while !IO::Socket::UNIX->new(Peer => "$folder/.s.PGSQL.$port") && time() < $until;
	push @poolers, "$folder/pid";
	return "host=$folder port=$port dbname=postgres";
}

# Each call is a client of its own. Returns what it printed; errors too.
sub client
{
	my ($pooler, $role, @statements) = @_;
	my ($out, $err) = run_command([ 'psql', '-X', '-A', '-t', '-q', map({ ('-c', $_) } @statements), "$pooler user=$role" ]);
	return $err eq '' ? $out : "$out\n$err";
}
sub who { return "select pg_backend_pid(), coalesce(pgtrain.current_user_id()::text, 'nobody')" }

my $transaction = start_pooler('transaction', 'pool_mode = transaction');
my $first = client($transaction, 'app', who());
my ($backend) = $first =~ /\A(\d+)\|nobody\z/;
ok($backend, 'a client gets a connection and is nobody');

is(client($transaction, 'app', "begin; select pgtrain.authenticate('$token[0]'); " . who() . '; commit'), "$id[0]\n$backend|$id[0]", 'an identity holds within its transaction');
is(client($transaction, 'app', who()), "$backend|nobody", 'the next client on the same connection is nobody');
is(client($transaction, 'app', "select pgtrain.authenticate('$token[0]')", who()), "$id[0]\n$backend|nobody", 'nor does the same client keep it');
like(client($transaction, 'app', "begin; select pgtrain.authenticate('$token[0]'); select 1/0; commit"), qr/division by zero/, 'a transaction fails');
like(client($transaction, 'app', who()), qr/\A\d+\|nobody\z/, 'the next client is nobody');

# Many clients over the one connection, each checking in turn that it is nobody before and itself within its transaction.
my $script = $node->basedir . '/clients.sql';
append_to_file($script, join('', map { "\\if :client_id = $_\n\\set mine $id[$_]\n\\endif\n" } 0 .. $users - 1));
append_to_file($script, "select 1 / (pgtrain.current_user_id() is null)::integer;\nbegin;\n");
append_to_file($script, join('', map { "\\if :client_id = $_\nselect pgtrain.authenticate('$token[$_]');\n\\endif\n" } 0 .. $users - 1));
append_to_file($script, "select 1 / (pgtrain.current_user_id() = :mine)::integer;\nselect 1 / (count(*) = 1)::integer from pgtrain.users;\ncommit;\n");
my ($out, $err) = run_command([ 'pgbench', '-n', '-c', $users, '-j', 2, '-t', 100, '-f', $script, "$transaction user=app" ]);
like($out, qr{actually processed: 600/600}, '600 transactions of six clients');
unlike("$out$err", qr/ERROR|aborted/, 'each was who it said, and nobody before');

# An identity for the connection: refused where that is switched off.
like(client($transaction, 'strict_app', "select pgtrain.authenticate('$token[0]', true)"), qr/an identity for the whole connection is refused here/, 'session scope is refused');
like(client($transaction, 'strict_app', who()), qr/\A\d+\|nobody\z/, 'and the next client is nobody');
like(client($transaction, 'strict_app', 'set pgtrain.session_scope = on'), qr/permission denied to set parameter/, 'the application cannot switch it on');
is(client($transaction, 'strict_app', "begin; select pgtrain.authenticate('$token[0]'); commit"), $id[0], 'transaction scope is not refused');

# The pooler that resets nothing hands it on: this is why the setting is there.
is(client($transaction, 'app', "select pgtrain.authenticate('$token[0]', true)"), $id[0], 'session scope where it is allowed');
like(client($transaction, 'app', who()), qr/\A\d+\|$id[0]\z/, 'without a reset it reaches the next client');
is(client($transaction, 'app', 'discard all', who()) =~ s/\A\d+\|//r, 'nobody', 'DISCARD ALL ends it');

for my $mode ([ 'resetting', "pool_mode = transaction\nserver_reset_query = DISCARD ALL\nserver_reset_query_always = 1" ], [ 'session', 'pool_mode = session' ])
{
	my $pooler = start_pooler(@$mode);
	my ($pid) = client($pooler, 'app', who()) =~ /\A(\d+)\|nobody\z/;
	is(client($pooler, 'app', "select pgtrain.authenticate('$token[1]', true)"), $id[1], "$mode->[0]: session scope");
	is(client($pooler, 'app', who()), "$pid|nobody", "$mode->[0]: the next client on the same connection is nobody");
}
is(client(start_pooler('session_again', 'pool_mode = session'), 'app', "select pgtrain.authenticate('$token[2]', true)", who()) =~ s/\n\d+\|/\n/r,
	"$id[2]\n$id[2]", 'in session mode it holds as long as its client');

# A mapped role is its user through the pooler too, and nobody else after a refused token until the connection is reset.
$node->safe_psql('postgres', "create role carla login; select pgtrain.grant_application('carla'); select pgtrain.map_database_role($id[3], 'carla')");
append_to_file($node->basedir . '/transaction/users.txt', qq("carla" ""\n));
my $mapped = start_pooler('mapped', "pool_mode = transaction\nauth_file = " . $node->basedir . '/transaction/users.txt');
like(client($mapped, 'carla', who()), qr/\A\d+\|$id[3]\z/, 'a mapped role');
like(client($mapped, 'carla', "select pgtrain.authenticate('nonsense')"), qr/not valid/, 'a token is refused');
like(client($mapped, 'carla', who()), qr/\A\d+\|nobody\z/, 'who was refused is nobody');

END
{
	my $status = $?;
	for my $file (grep { -e $_ } @poolers)
	{
		chomp(my $pid = slurp_file($file));
		kill 'QUIT', $pid if $pid =~ /\A\d+\z/;
	}
	$? = $status;
}
$node->stop;
done_testing();
