# Proofs in many sessions at once: a one-time code, a reset token and an invitation are taken by one of them; of administrators who all
# leave at the same time one stays. Listeners learn of the outbox when a message commits, and nothing about it. A refused login
# never waits for the disk, whether its account is open or there is none.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha1);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('proofs');
$node->init;
my $keys = $node->basedir . '/root.keys';
append_to_file($keys, join('', map { sprintf '%02x', int(rand(256)) } 1 .. 32) . "\n");
chmod 0600, $keys;
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'pgtrain'
max_connections = 100
fsync = on
wal_writer_delay = 10s
pgtrain.login_failures_allowed = 100
pgtrain.databases = 'none'
pgtrain.password_memory = 64kB
pgtrain.password_passes = 1
pgtrain.root_key_file = '$keys'
CONF
$node->start;
$node->safe_psql('postgres', 'create extension pgtrain');

sub query { return $node->safe_psql('postgres', $_[0]) }
sub new_user { my ($name) = @_; return query("select pgtrain.register_user('$name', '$name\@proofs.test', 'a long enough secret')") }

# Runs SQL once in each of so many connections at the same time. One that fails is counted like one that gets nothing.
sub race
{
	my ($clients, $sql) = @_;
	my $file = $node->basedir . '/race.sql';
	unlink $file;
	append_to_file($file, $sql);
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', $clients, '-j', 4, '-t', 1, '-f', $file, $node->connstr('postgres') ]);
	return "$out\n$err";
}

# RFC 6238 as anybody would write it, of the seed as it is typed.
sub one_time_code
{
	my ($typed, $step) = @_;
	my %value = map { (split //, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567')[$_] => $_ } 0 .. 31;
	my $bits = join '', map { sprintf '%05b', $value{$_} } split //, $typed;
	my $mac = hmac_sha1(pack('Q>', $step), pack('B*', substr($bits, 0, 8 * int(length($bits) / 8))));
	return sprintf '%06d', (unpack('N', substr($mac, ord(substr($mac, -1)) & 15, 4)) & 0x7fffffff) % 1000000;
}

# The second factor. Its period of a day makes the code stand still, except at midnight.
$node->poll_query_until('postgres', 'select extract(epoch from clock_timestamp())::bigint % 86400 < 86400 - 60') or die;
my $anna = new_user('anna');
my $token = query("select session_token from pgtrain.login('anna', 'a long enough secret')");
my $as_anna = "select pgtrain.authenticate('$token', true) = $anna";
my ($seed) = query("$as_anna;\nselect secret from pgtrain.enable_totp('a long enough secret', period_seconds => 86400)") =~ /^([A-Z2-7]{16,})$/m;
my $today = int(query('select extract(epoch from clock_timestamp()) / 86400'));
like(query("$as_anna;\nselect count(*) from pgtrain.confirm_totp('" . one_time_code($seed, $today - 1) . "')"), qr/^10$/m, 'the code of yesterday puts the factor in force');
query('create table public.logins (session_token text)');
my $code = one_time_code($seed, $today);
race(40, "insert into public.logins select session_token from pgtrain.login('anna', 'a long enough secret', code => '$code');\n");
is(query('select count(*) from public.logins'), '1', 'of forty logins with one code one succeeds');
query("select pgtrain.unlock_user($anna), pgtrain_private.forget_attempts('second factor $anna')");
is(query("select count(*) from pgtrain.login('anna', 'a long enough secret', code => '$code')"), '0', 'and none later');
is(query("select count(*) from pgtrain.login('anna', 'a long enough secret', code => '" . one_time_code($seed, $today + 1) . "')"), '1', 'one step of drift is allowed');

# A reset token.
my $ben = new_user('ben');
query("select pgtrain.request_password_reset('ben\@proofs.test')");
my $reset = query("select payload ->> 'token' from pgtrain.take_messages() where kind = 'password_reset'");
my $said = race(30, "select pgtrain.reset_password('$reset', 'the new secret of ' || :client_id);\n");
is(query("select count(*) from pgtrain.audit_log where title = 'password_reset'"), '1', 'of thirty resets with one token one succeeds');
is(() = $said =~ /ERROR:  the reset token is not valid/g, 29, 'and the others are told');
query("select pgtrain.unlock_user($ben)");
is(query("select count(*) from generate_series(0, 29) n where exists (select from pgtrain.login('ben', 'the new secret of ' || n))"), '1', 'one password holds');

# An invitation.
my $invite = query('select code from pgtrain.create_invite()');
race(30, "select pgtrain.register_user('guest' || :client_id, 'guest' || :client_id || '\@proofs.test', 'a long enough secret', invite_code => '$invite');\n");
is(query("select count(*) from pgtrain.users where username like 'guest%'"), '1', 'of thirty registrations with one invitation one succeeds');

# Administrators.
query('create table public.bosses (n integer primary key, id bigint, token text)');
for my $n (0 .. 7)
{
	my $id = new_user("boss$n");
	query("select pgtrain.grant_role($id, 'admin'); insert into public.bosses select $n, $id, session_token from pgtrain.login('boss$n', 'a long enough secret')");
}
$said = race(8, "begin;\nselect pgtrain.authenticate(token) from public.bosses where n = :client_id;\nselect pgtrain.deactivate_user(password => 'a long enough secret');\ncommit;\n");
is(query('select count(*) from pgtrain_private.administrators()'), '1', 'of eight administrators who leave at once one stays');
is(() = $said =~ /ERROR:  the last administrator cannot leave/g, 1, 'and knows why');
unlike($said, qr/deadlock/, 'nobody dies of it');

# NOTIFY. What a listener has not been sent before its next command is not coming.
my $inner = 'psql -X -q -A -t -d "' . $node->connstr('postgres') . '" -c';
my $heard = query(<<SQL);
create role listener login;
set session authorization listener;
listen pgtrain_outbox;
\\! $inner "begin; select pgtrain.request_password_reset('one\@proofs.test'); rollback"
select 'rolled back';
\\! $inner "select pgtrain.request_password_reset('two\@proofs.test')"
select 'committed';
SQL
like($heard, qr/rolled back\n+committed\nAsynchronous notification "pgtrain_outbox" received from server process with PID \d+\.\z/,
	'a message that commits is announced to whoever listens, with nothing about it');

# Waiting for the disk would tell an account that is open, where failures are counted, from one that is not or does not exist.
my $carl = new_user('carl');
my $syncs = 'select wal_sync from pg_stat_wal';
my $before = query($syncs);
query("select count(*) from pgtrain.login('carl', 'wrong');\n" x 20);
is(query("select failed_login_count from pgtrain.users where id = $carl"), '20', 'twenty failed logins are counted');
cmp_ok(query($syncs) - $before, '<', 10, 'and did not wait for the disk one by one');
$node->stop;
done_testing();
