# Many sessions at once: 200 holds against a limit of K admit exactly K and the ledger agrees; parallel guesses of a password get no
# more tries than one after the other would; parallel right logins are never locked out.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('races');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pgtrain'
max_connections = 240
pgtrain.databases = 'none'
pgtrain.password_memory = 64kB
pgtrain.password_passes = 1
CONF
$node->start;
$node->safe_psql('postgres', 'create extension pgtrain');
my $limit = 20 + int(rand(100));
$node->safe_psql('postgres', <<SQL);
select pgtrain.register_user('anna', 'anna\@races.test', 'a long enough secret');
select pgtrain.register_user('ben', 'ben\@races.test', 'a long enough secret');
select pgtrain.set_usage_limit(1, 'training_jobs', $limit);
create sequence public.numbers;
SQL

# Runs SQL once in each of so many sessions; returns what they said.
sub race {
    my ($sessions, $sql) = @_;
    # The sessions of the last race need some time to leave.
    $node->poll_query_until('postgres', "select count(*) = 1 from pg_stat_activity where backend_type = 'client backend'") or die;
    my $file = $node->basedir . '/race.sql';
    open(my $script, '>', $file) or die;
    print $script $sql;
    close $script;
    my ($out, $err) = run_command([ 'pgbench', '-n', '-c', $sessions, '-j', 4, '-t', 1, '-f', $file, $node->connstr('postgres') ]);
    return "$out\n$err";
}

note "limit $limit";
my $said = race(200, "select pgtrain_private.hold_usage(1, 'training_jobs', 1, -nextval('public.numbers'));\n");
my $refused = () = $said =~ /limit of training_jobs exceeded/g;
is($refused, 200 - $limit, 'all but K are refused');
is($node->safe_psql('postgres',
        "select used_value, held_value, (select sum(amount) from pgtrain.usage_entries), (select count(*) from pgtrain.usage_entries)
         from pgtrain.user_usage_limits where user_id = 1 and resource_type = 'training_jobs'"),
    "$limit|$limit|$limit|$limit", 'exactly K are held and the ledger says so');

$said = race(60, "select count(*) from pgtrain.login('anna', 'guess');\n");
unlike($said, qr/ERROR/, 'a refusal is no error, locked or not');
my $tries = $node->safe_psql('postgres', "select failed_login_count from pgtrain.users where username = 'anna'");
cmp_ok($tries, '<=', 6, 'five tries, and at most the one that was under way in the second turn');
cmp_ok($tries, '>=', 5, 'five tries were allowed');
is($node->safe_psql('postgres', "select count(*) from pgtrain.login('anna', 'a long enough secret')"), '0', 'and then even the right password is refused');

$said = race(60, "select 1 / count(*) from pgtrain.login('ben', 'a long enough secret');\n");
unlike($said, qr/ERROR/, 'right logins in parallel all succeed');
is($node->safe_psql('postgres', 'select count(*) from pgtrain.sessions where user_id = 2'), '60', 'each has its session');
$node->stop;
done_testing();
