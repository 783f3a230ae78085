# CREATE EXTENSION as administrators meet it: beside functions that an enemy has put into schema public, without the preload, in a
# database of another encoding, into a schema, by an ordinary user, where the schemas are taken, and again after a drop.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('install');
$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$node->start;

sub database
{
	my ($name, $options) = @_;
	$node->safe_psql('postgres', "create database $name " . ($options // ''));
	return;
}

sub refused
{
	my ($database, $sql, $wanted, $what) = @_;
	my ($rc, $out, $err) = $node->psql($database, $sql);
	ok($rc != 0, "$what: refused");
	like($err, $wanted, "$what: says why");
	is($node->safe_psql($database, q{select count(*) from pg_class where relnamespace in (select oid from pg_namespace where nspname like 'pgtrain%')
		and relname <> 'squatted'}), '0', "$what: nothing is left");
	return;
}

# Functions that fit the calls of the script better than those of pg_catalog. None of them may be called.
database('enemy');
$node->safe_psql('enemy', <<'SQL');
create role mallory;
grant create on schema public to mallory;
set role mallory;
create table public.caught (who text);
grant all on public.caught to public;
create function public.catch_it(anyelement) returns anyelement language plpgsql as $$ begin insert into public.caught values (current_user); return $1; end $$;
create function public.format(text, text) returns text language plpgsql as $$ begin perform public.catch_it(1); return pg_catalog.format($1, $2); end $$;
create function public.format(text, name) returns text language plpgsql as $$ begin perform public.catch_it(1); return pg_catalog.format($1, $2); end $$;
create function public.format(text, text, text, text) returns text language plpgsql as $$ begin perform public.catch_it(1); return pg_catalog.format($1, $2, $3, $4); end $$;
SQL
my ($rc, $out, $err) = $node->psql('enemy', 'create extension pgtrain');
is($rc, 0, 'without the preload and beside strange functions it installs');
like($err, qr/WARNING:  pgtrain is not in shared_preload_libraries/, 'and says that no run will be executed');
is($node->safe_psql('enemy', 'select count(*) from public.caught'), '0', 'no function of an enemy ran with the rights of the administrator');
is($node->safe_psql('enemy', q{select count(*) from pg_proc p where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
	and exists (select from pg_depend d join pg_proc o on o.oid = d.refobjid where d.objid = p.oid and o.pronamespace = 'public'::regnamespace)}), '0',
	'nothing depends on them');
$node->safe_psql('enemy', "select pgtrain.register_user('anna', 'anna\@install.test', 'a long enough secret')");
$node->safe_psql('enemy', 'drop extension pgtrain');
is($node->safe_psql('enemy', "select count(*) from pg_namespace where nspname like 'pgtrain%'"), '0', 'a drop removes it all');
is($node->safe_psql('enemy', "create extension pgtrain; select pgtrain.register_user('anna', 'anna\@install.test', 'a long enough secret')"), '1',
	'and it can be made anew');

# Default privileges of the administrator, as many databases have them, give nothing of the platform away.
database('generous');
$node->safe_psql('generous', "create role \"An app\" login; create role other");
$node->safe_psql('generous', "alter default privileges grant all on $_ to \"An app\", other, public") for qw(tables sequences functions);
$node->safe_psql('generous', 'alter default privileges grant all on schemas to "An app", other');
$node->safe_psql('generous', 'create extension pgtrain');
is($node->safe_psql('generous', <<'SQL'), '', 'what default privileges give to others is taken back');
select a.what, x.grantee::regrole, x.privilege_type from (
    select oid::regclass::text as what, relacl as acl, relowner as owner from pg_class where relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace) and relkind <> 'i'
    union all select oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)), proowner from pg_proc where pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
    union all select nspname, nspacl, nspowner from pg_namespace where nspname like 'pgtrain%') a, aclexplode(a.acl) x where x.grantee <> a.owner;
SQL
$node->safe_psql('generous', q{select pgtrain.grant_application('An app')});
is($node->safe_psql('generous', q{select has_column_privilege('An app', 'pgtrain.users', 'email', 'select'), has_table_privilege('An app', 'pgtrain.role_permissions', 'insert'),
	has_schema_privilege('An app', 'pgtrain_private', 'usage')}), 't|f|f', 'and an application gets its own rights, no more');

database('latin', "encoding 'LATIN1' locale 'C' template template0");
refused('latin', 'create extension pgtrain', qr/needs a database of encoding UTF8, this one has LATIN1/, 'another encoding');
database('plain');
$node->safe_psql('plain', 'create role plain login; grant create on database plain to plain');
refused('plain', 'set role plain; create extension pgtrain', qr/permission denied to create extension "pgtrain"/, 'an ordinary user');
refused('plain', "create extension pgtrain version '9.9'", qr/has no installation script nor update path for version "9.9"/, 'an unknown version');
$node->safe_psql('plain', 'set role plain; create schema pgtrain; create table pgtrain.squatted ()');
refused('plain', 'create extension pgtrain', qr/schema "pgtrain" already exists/, 'a schema that somebody has made before');
$node->safe_psql('plain', 'drop schema pgtrain cascade; create schema apart');
is($node->safe_psql('plain', "create extension pgtrain with schema apart version '0.1.0'; select count(*) from pg_class where relnamespace = 'apart'::regnamespace"),
	'0', 'its objects are in its own schemas wherever it is said to be put');
($rc, $out, $err) = $node->psql('plain', 'alter extension pgtrain set schema public');
like($err, qr/does not support SET SCHEMA/, 'and it cannot be moved');
$node->stop;
done_testing();
