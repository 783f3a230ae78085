# Plain text in memory: after a process has opened secrets (for the health view, for rotation) the values are nowhere in the memory that it
# can write, shared memory included; and what another session stored shows in none of what sessions share. Looks through /proc.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest qw(wait_for worker_pid);

sub random_text { return join '', map { chr(97 + int(rand(26))) } 1 .. 40 }
sub new_key { return join '', map { sprintf '%02x', int(rand(256)) } 1 .. 32 }

# How many mappings that a process can write hold the text. `which` restricts them by a line of /proc/PID/maps.
sub finds
{
	my ($pid, $text, $which) = @_;
	open(my $maps, '<', "/proc/$pid/maps") or die "no maps of $pid: $!";
	open(my $memory, '<:raw', "/proc/$pid/mem") or die "no memory of $pid: $!";
	my @found;
	while (my $line = <$maps>)
	{
		my ($from, $to, $rights) = $line =~ /\A([0-9a-f]+)-([0-9a-f]+) (\S+)/ or next;
		next unless $rights =~ /\Arw/ && (!defined $which || $line =~ $which);
		my ($at, $end, $kept) = (hex $from, hex $to, '');
		while ($at < $end)
		{
			sysseek($memory, $at, 0) or last;
			my $got = sysread($memory, my $piece, $end - $at < 1 << 20 ? $end - $at : 1 << 20);
			# Guard pages and what the system keeps to itself.
			if (!$got) { $at += 4096; $kept = ''; next }
			if (index($kept . $piece, $text) >= 0) { chomp $line; push @found, $line; last }
			$kept = substr($piece, -length($text));
			$at += $got;
		}
	}
	return @found;
}

my $folder = PostgreSQL::Test::Utils::tempdir();
my $path = "$folder/root.keys";
my ($first, $second) = (new_key(), new_key());
sub write_keys
{
	open(my $file, '>', "$path.new") or die "cannot write: $!";
	print $file "$_\n" for @_;
	close $file;
	chmod 0600, "$path.new";
	rename "$path.new", $path or die "cannot rename: $!";
	return;
}
write_keys($first);

my $node = PostgreSQL::Test::Cluster->new('memory');
$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'pgtrain'
max_worker_processes = 16
shared_buffers = 16MB
track_activity_query_size = 8kB
pgtrain.cpu_workers = 0
pgtrain.poll_interval = 100
pgtrain.password_memory = 64kB
pgtrain.password_passes = 1
pgtrain.root_key_file = '$path'
CONF
$node->start;
$node->safe_psql('postgres', "create extension pgtrain; select pgtrain.register_user('anna', 'anna\@memory.test', 'a long enough secret')");

my $reader = $node->background_psql('postgres', on_error_stop => 0);
my ($reader_pid) = $reader->query('select pg_backend_pid()') =~ /(\d+)/;
my $probe = random_text();
$reader->query("select '$probe' as text");
cmp_ok(scalar(finds($reader_pid, $probe)), '>', 0, 'the test finds what is in memory');

# The session that stores; its statement is long, so that what is shown of it must be wiped to its end.
my $writer = $node->background_psql('postgres', on_error_stop => 0);
my ($writer_pid) = $writer->query('select pg_backend_pid()') =~ /(\d+)/;
$writer->query(q{select pgtrain.authenticate((select session_token from pgtrain.login('anna', 'a long enough secret')), true) > 0});
my $value = random_text();
my $padding = ' ' x 2000;
like($writer->query("select $padding pgtrain.store_secret('key', '$value') > 0"), qr/t/, 'stored');
my $refused = random_text();
$writer->query("select $padding pgtrain.store_secret('not an acceptable name', '$refused')");
like($reader->query('select opens from pgtrain.secret_health'), qr/t/, 'opened by another session');
is(join("\n", finds($reader_pid, $value)), '', 'the session that opened it holds it nowhere');
is(join("\n", finds($writer_pid, $value, qr/ rw-s /)), '', 'nothing that is shared holds it');
is(join("\n", finds($reader_pid, $refused)), '', 'nor a value that was refused');

write_keys($first, $second);
$node->reload;
ok(wait_for($node, 'select bool_and(is_current) and count(*) = 1 and (select count(*) from pgtrain.list_root_keys()) = 2 from pgtrain.secret_health', 't'), 'sealed anew by the scheduler');
is(join("\n", finds(worker_pid($node, 'scheduler'), $value)), '', 'which holds it nowhere');
is(join("\n", finds($reader_pid, $second)), '', 'a root key is nowhere as text');
$reader->quit;
$writer->quit;
$node->stop;
done_testing();
