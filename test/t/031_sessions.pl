# Sessions under load and over connections: a flood of logins computes no more hashes at once than allowed, also for unknown names; one of
# many who exchange a refresh token at the same time gets a pair, and then the session is over; guesses of the second factor in parallel
# get no more tries than one after the other; what one connection revokes or leaves unused is over in another.
use strict;
use warnings;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('sessions');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pgtrain'
max_connections = 120
pgtrain.databases = 'none'
pgtrain.password_memory = 2MB
pgtrain.password_passes = 2
pgtrain.password_hashes_at_once = 3
CONF
$node->start;
$node->safe_psql('postgres', 'create extension pgtrain');
my %id;
for my $name (qw(anna ben carla dora))
{
	$id{$name} = $node->safe_psql('postgres', "select pgtrain.register_user('$name', '$name\@sessions.test', 'a long enough secret')");
}

# Runs SQL once in each of so many connections; returns what pgbench said.
sub race
{
	my ($clients, $sql, @more) = @_;
	my $file = $node->basedir . '/race.sql';
	unlink $file;
	append_to_file($file, $sql);
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', $clients, '-j', 4, '-t', 1, '-f', $file, @more, $node->connstr('postgres') ]);
	return "$out\n$err";
}
sub load_of { return $node->safe_psql('postgres', "select $_[0] from pgtrain_private.password_hash_load()") }

my $before = load_of('computed');
my $said = race(80, "\\if :client_id < 40\nselect count(*) from pgtrain.login('anna', 'a long enough secret');\n\\else\nselect count(*) from pgtrain.login('nobody' || :client_id, 'guess');\n\\endif\n");
like($said, qr{actually processed: 80/80}, 'a flood of logins is served');
is(load_of('computed') - $before, 80, 'one hash for each, known or not');
is(load_of('most_at_once'), 3, 'never more hashes at once than allowed, and as many');
is(load_of('running'), 0, 'none is left running');

# One refresh token, many at once.
my $refresh = $node->safe_psql('postgres', "select refresh_token from pgtrain.login('ben', 'a long enough secret')");
$node->safe_psql('postgres', 'create table public.pairs (session_token text, refresh_token text)');
$said = race(40, "insert into public.pairs select session_token, new_refresh_token from pgtrain.refresh_session('$refresh');\n");
unlike($said, qr/ERROR/, 'a replay is no error');
is($node->safe_psql('postgres', 'select count(*) from public.pairs'), '1', 'one of forty gets a pair');
is($node->safe_psql('postgres', "select count(*) filter (where is_active), count(*) from pgtrain.sessions where user_id = $id{ben}"), '0|1', 'the session is over');
is($node->safe_psql('postgres', "select count(*) from public.pairs p, pgtrain.refresh_session(p.refresh_token)"), '0', 'the pair is void');
my ($code, $out, $err) = $node->psql('postgres', 'select pgtrain.authenticate(session_token) from public.pairs');
like($err, qr/the session token is not valid.*the session was ended/s, 'and its session token too');
is($node->safe_psql('postgres', "select count(*) from pgtrain.audit_log where title = 'refresh_token_replayed'"), '1', 'told once');

# The second factor, with a check of our own in the place of the real one: what login makes of its answer is tested here.
$node->safe_psql('postgres', "create or replace function pgtrain_private.check_second_factor(user_id bigint, code text) returns boolean
	language sql as 'select user_id <> $id{carla} or coalesce(code, '''') = ''right'''");
my $login = "select count(*) from pgtrain.login('carla', 'a long enough secret'";
($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$login)");
like($err, qr/PT428.*a one-time code is needed/, 'a right password alone is told that a code is needed');
is($node->safe_psql('postgres', "select count(*) from pgtrain.login('carla', 'wrong')"), '0', 'a wrong password is not');
is($node->safe_psql('postgres', "select count(*) from pgtrain.login('carla', 'wrong', code => 'right')"), '0', 'a right code does not help a wrong password');
is($node->safe_psql('postgres', "$login, code => 'right')"), '1', 'both are right');
is($node->safe_psql('postgres', "select failed_login_count from pgtrain.users where id = $id{carla}"), '0', 'which ends the count');
# By the audit log: the account's row leaves those out that met another login's lock on it for too long.
my $failures = "select coalesce(sum((subject ->> 'failures')::integer), 0) from pgtrain.audit_log where title = 'login_failed' and (subject ->> 'user_id')::bigint = $id{carla}";
my $failed_before = $node->safe_psql('postgres', $failures);
$said = race(40, "$login, code => 'guess');\n");
unlike($said, qr/ERROR/, 'a wrong code is no error');
my $tries = $node->safe_psql('postgres', $failures) - $failed_before;
cmp_ok($tries, '>=', 5, 'five tries were allowed');
cmp_ok($tries, '<=', 7, 'and at most those that were under way in the other turns');
is($node->safe_psql('postgres', "$login, code => 'right')"), '0', 'then even the right code is refused');
($code, $out, $err) = $node->psql('postgres', "$login)");
is("$out$err" =~ /one-time code/ ? 1 : 0, 0, 'and nobody is told that the password is right');

# What another connection does counts in the middle of a transaction.
my $token = $node->safe_psql('postgres', "select session_token from pgtrain.login('dora', 'a long enough secret')");
my $inner = 'psql -X -q -A -t -d "' . $node->connstr('postgres') . '" -c';
my $said_inside = $node->safe_psql('postgres', <<SQL);
begin;
select pgtrain.authenticate('$token') = $id{dora};
\\! $inner "select ended from pgtrain.revoke_all_sessions($id{dora}) ended"
select pgtrain.current_user_id() is null;
commit;
SQL
is($said_inside, "t\n1\nt", 'revoked in another connection, over in this transaction');

# Idle: use in one connection counts in another; without any the session is over, its refresh token too.
$node->append_conf('postgresql.conf', 'pgtrain.session_idle_timeout = 3s');
$node->reload;
$node->poll_query_until('postgres', "select current_setting('pgtrain.session_idle_timeout') = '3s'") or die;
# Each turn is a use, noted by the other connection; together they last longer than the timeout. When the machine stands still for so long
# between two of them that the session may end rightly, it is done again.
my ($tried, $uses, $held, $longest) = (0);
do
{
	my $last = my $start = time;
	($token, $refresh) = split /\|/, $node->safe_psql('postgres', "select session_token, refresh_token from pgtrain.login('dora', 'a long enough secret')");
	($uses, $held, $longest) = (0, 0, 0);
	while (time < $start + 4)
	{
		my $began = time;
		$uses++;
		my ($failed, $is_dora) = $node->psql('postgres', "select pgtrain.authenticate('$token') = $id{dora}");
		$held++ if !$failed && $is_dora eq 't';
		$longest = max($longest, time - $last);
		$last = $began;
	}
} until $longest < 2 || ++$tried == 5;
ok($uses > 1 && $held == $uses, "a session in use goes on ($held of $uses)");
$node->poll_query_until('postgres', "select last_accessed_at < clock_timestamp() - interval '3 s' from pgtrain.sessions where token_hash = pgtrain_private.token_hash('$token')") or die;
($code, $out, $err) = $node->psql('postgres', "select pgtrain.authenticate('$token')");
like($err, qr/the session was not used for too long/, 'an unused one is over');
is($node->safe_psql('postgres', "select count(*) from pgtrain.refresh_session('$refresh')"), '0', 'and cannot be refreshed');
# The same for an identity that a connection holds: the query that waits is no use of it.
is($node->safe_psql('postgres', <<SQL), "t\nt", 'an identity that a connection holds is over as well');
select pgtrain.authenticate((select session_token from pgtrain.login('dora', 'a long enough secret')), true) = $id{dora};
do \$\$ declare start timestamptz := clock_timestamp(); begin while clock_timestamp() < start + interval '3.2 s' loop null; end loop; end \$\$;
select pgtrain.current_user_id() is null;
SQL
$node->stop;
done_testing();
