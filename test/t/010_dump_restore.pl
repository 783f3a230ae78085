# A dump of a database with the extension holds the rows of users, and what administrators changed about the seeds: restored
# elsewhere, everything is as it was, tokens work, and new keys do not collide.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('dumped');
$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pgtrain'
pgtrain.databases = 'restored'
pgtrain.password_memory = 64kB
pgtrain.password_passes = 1
CONF
$node->start;
$node->safe_psql('postgres', 'create database original');
$node->safe_psql('original', 'create extension pgtrain');

$node->safe_psql('original', <<'SQL');
select pgtrain.register_user('anna', 'anna@dump.test', 'a long enough secret');
select pgtrain.register_user('ben', 'ben@dump.test', 'a long enough secret');
select pgtrain.create_role('reader', 'reads');
select pgtrain.grant_permission('reader', 'read', 'datasets', 'any');
select pgtrain.grant_role(1, 'reader', now() + interval '1 day');
select pgtrain.revoke_permission('user', 'delete', 'models');
select pgtrain.set_usage_limit(2, 'training_jobs', 77);
select pgtrain_private.hold_usage(2, 'training_jobs', 3, -1);
update pgtrain.plans set price_amount = 1234 where name = 'premium';
insert into pgtrain.compute_nodes (owner_id, name) values (1, 'box of anna');
select pgtrain.grant_node(id, 2, now() + interval '1 day') from pgtrain.compute_nodes where owner_id = 1;
create role application login;
select pgtrain.grant_application('application');
SQL
my $token = $node->safe_psql('original', "select session_token from pgtrain.login('anna', 'a long enough secret')");
$node->safe_psql('original',
    "begin; select pgtrain.authenticate('$token'); select pgtrain.append_samples(pgtrain.create_dataset('poems'), array['one', 'two']); commit");

# In parts, so that the workers of the new database have written what they write before the rows come.
my $dump = $node->backup_dir . '.sql';
$node->safe_psql('postgres', 'create database restored');
for my $section ('pre-data', 'data', 'post-data') {
    $node->command_ok([ 'pg_dump', '--section', $section, '--file', $dump, '--dbname', $node->connstr('original') ], "$section dumped");
    unlike(slurp_file($dump), qr/\Q$token\E|a long enough secret/, "$section: the dump holds neither token nor password");
    $node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('restored') ], "$section restored");
    ok($node->poll_query_until('restored', 'select exists (select from pgtrain.devices)'), "$section: the server has noted its own machine");
}
my $now = $node->safe_psql('restored', 'select clock_timestamp()');
ok($node->poll_query_until('restored', "select bool_or(last_contact_at > '$now' and id < 0) from pgtrain.compute_nodes where owner_id is null"), 'and goes on doing so');

# Every table whose rows are the extension's to dump, those of them that are, row by row; updated_at is the server's.
my $tables = $node->safe_psql('original',
    q{select oid::regclass || ' t ' || condition
        from pg_class, (select unnest(extconfig) as config, unnest(extcondition) as condition from pg_extension where extname = 'pgtrain') e
      where oid = config and relkind = 'r' order by oid::regclass});
cmp_ok(scalar(split(/\n/, $tables)), '>', 15, 'there are tables to compare');
my $different = '';
for my $table (split /\n/, $tables) {
    my $query = "select coalesce(jsonb_agg(row order by row), '[]') from (select to_jsonb(t) - 'updated_at' as row from $table) r";
    $different .= "$table\n" if $node->safe_psql('original', $query) ne $node->safe_psql('restored', $query);
}
is($different, '', 'all rows are the same');

my $rights = q{select string_agg(line, E'\n' order by line collate "C") from (
    select 's ' || nspname || nspacl::text as line from pg_namespace where nspname like 'pgtrain%'
    union all select 'f ' || p.oid::regprocedure || p.proacl::text from pg_proc p where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
    union all select 'r ' || c.oid::regclass || c.relacl::text from pg_class c where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace) and c.relacl is not null
    union all select 'c ' || a.attrelid::regclass || a.attname || a.attacl::text from pg_attribute a join pg_class c on c.oid = a.attrelid
     where c.relnamespace = 'pgtrain'::regnamespace and a.attacl is not null) l};
like($node->safe_psql('original', $rights), qr/application=X/, 'the application has rights');
is($node->safe_psql('restored', $rights), $node->safe_psql('original', $rights), 'the rights of an application come with the dump');
is($node->safe_psql('restored', "select pgtrain.authenticate('$token')"), '1', 'a session goes on');
is($node->safe_psql('restored', <<'SQL', extra_params => [ '-U', 'application' ]), "2\nbox of anna\n77 3", 'a user logs in: with his grants, limits and what is held');
select session_token from pgtrain.login('ben', 'a long enough secret') \gset
select pgtrain.authenticate(:'session_token', true);
select name from pgtrain.compute_nodes where owner_id is not null;
select limit_value || ' ' || held_value from pgtrain.user_usage_limits where resource_type = 'training_jobs';
SQL
is($node->safe_psql('restored', "select pgtrain.register_user('carl', 'carl\@dump.test', 'a long enough secret')"), '3', 'keys go on');
is($node->safe_psql('restored', "begin; select pgtrain.authenticate('$token'); select pgtrain.has_permission('delete', 'models'), pgtrain.has_permission('read', 'datasets', 'any'); commit"),
    "1\nf|t", 'a permission that was taken stays taken, one that was given stays given');
$node->stop;
done_testing();
