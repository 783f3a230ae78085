# An ordinary application role that may run any SQL against the data, identity, limits and secrets of others: no attack of attacks.txt may
# succeed. Then every function that applications may call, with another user's numbers as arguments; and what was planted, in front of an
# administrator's statements.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('attacked');
$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
my $keys = $node->data_dir . '/root.keys';
append_to_file($keys, join('', map { sprintf '%02x', $_ * 7 % 256 } 1 .. 32) . "\n");
chmod 0600, $keys;
$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'pgtrain'
max_worker_processes = 16
pgtrain.cpu_workers = 0
pgtrain.password_memory = 64kB
pgtrain.password_passes = 1
pgtrain.login_failures_allowed = 1000
pgtrain.root_key_file = '$keys'
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
create extension pgtrain;
create role app login;
grant create on database postgres to app;
create schema evil authorization app;
select pgtrain.grant_application('app');
select pgtrain.register_user('vic', 'canary@attack.test', 'canary password 1');
select pgtrain.register_user('eve', 'eve@attack.test', 'a long enough secret');
select pgtrain.register_user('root', 'root@attack.test', 'canary password 2');
select pgtrain.grant_role(3, 'admin');
insert into pgtrain.connections (user_id, provider_name, provider_id) values (1, 'discord', 'canary identity');
insert into pgtrain.compute_nodes (owner_id, name) values (1, 'canary node');
insert into pgtrain.instance_images (node_id, owner_id, name) select id, 1, 'canary image' from pgtrain.compute_nodes where owner_id = 1;
insert into pgtrain.instances (node_id, owner_id, name) select id, 1, 'canary' from pgtrain.compute_nodes where owner_id = 1;
insert into pgtrain.payment_history (user_id, payment_intent_id, amount, currency, status) values (1, 'pi_vic', 1, 'USD', 'completed');
SQL
my ($vic, $eve) = (1, 2);
my $vic_token = $node->safe_psql('postgres', "select session_token from pgtrain.login('vic', 'canary password 1')");
my $token = $node->safe_psql('postgres', "select session_token from pgtrain.login('eve', 'a long enough secret')");
my $vic_hash = $node->safe_psql('postgres', "select encode(token_hash, 'hex') from pgtrain.sessions where user_id = 1");
my $vic_key = $node->safe_psql('postgres', <<"SQL");
select pgtrain.authenticate('$vic_token', true) as done \\gset
select pgtrain.append_samples(pgtrain.create_dataset('canary data', description => 'canary description'), array['canary text 1', 'canary text 2']) as done \\gset
select pgtrain.submit_run(dataset_id => 1, name => 'canary run', config => '{"size":"nano","steps":3}', start_at => now() + interval '1 day') as done \\gset
select pgtrain.create_model('canary model') as done \\gset
select pgtrain.create_training('canary training') as done \\gset
select pgtrain.store_secret('canary', 'canary-secret-value') as done \\gset
select key from pgtrain.create_api_key('canary key');
SQL
my $hash = $node->safe_psql('postgres', 'select hash from pgtrain.passwords where user_id = 1');
$node->safe_psql('postgres', 'vacuum analyze');
# What must never be seen: the victim's words, his tokens, and what is stored of them.
my $canary = join '|', map { quotemeta } 'canary data', 'canary description', 'canary text', 'canary run', 'canary model', 'canary training', 'canary node', 'canary identity',
  'canary image', 'canary@attack', 'canary-secret', 'canary key', 'canary password', 'pi_vic"', $vic_token, $vic_key, $vic_hash, $hash;

# Everything that is not Eve's own: rows, and who may do what with which object. Failed logins count against the victim, as they must.
$node->safe_psql('postgres', <<'SQL');
create schema watch;
create function watch.state() returns text language plpgsql as $$
declare
    one record;
    sums text := '';
    part text;
begin
    for one in select c.oid::regclass as relation from pg_class c
                where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and c.relname not in ('compute_nodes', 'devices') order by 1 loop
        execute format($q$select count(*) || ' ' || coalesce(md5(string_agg(r::text, ' ' order by r::text)), '')
            from (select to_jsonb(t) - array['updated_at', 'failed_login_count', 'locked_until'] as r from %s t) x
           where (r ? 'role_id' and r ? 'assigned_by' and r->>'user_id' = '2')
              or coalesce(r->>'owner_id', r->>'user_id', r->>'actor_id', case when %L = 'pgtrain.users' then r->>'id' end,
                          case when %L = 'pgtrain.audit_log' then '2' end, 'nobody') <> '2'$q$, one.relation, one.relation, one.relation) into part;
        sums := sums || one.relation || ' ' || part || E'\n';
    end loop;
    return sums
        || (select string_agg(concat_ws(' ', resource_type, limit_value, reset_period, reset_at), ', ' order by resource_type) from pgtrain.user_usage_limits where user_id = 2) || E'\n'
        || (select concat_ws(' ', is_verified, is_active, db_role, payment_customer_id, activated_at, (select string_agg(plan_id || status::text || current_period_end::text, ' ') from pgtrain.user_subscriptions where user_id = 2))
              from pgtrain.users where id = 2) || E'\n'
        || (select md5(string_agg(concat_ws(' ', oid, relname, relowner, relacl, relrowsecurity, relforcerowsecurity, reloptions, relhastriggers), ' ' order by oid)) from pg_class where relnamespace::regnamespace::text like 'pgtrain%') || E' relations\n'
        || (select md5(string_agg(concat_ws(' ', oid, proname, proowner, proacl, prosrc, prosecdef, proconfig), ' ' order by oid)) from pg_proc where pronamespace::regnamespace::text like 'pgtrain%') || E' functions\n'
        || (select md5(string_agg(concat_ws(' ', attrelid, attname, attacl), ' ' order by attrelid, attnum)) from pg_attribute a join pg_class c on c.oid = attrelid where c.relnamespace::regnamespace::text like 'pgtrain%') || E' columns\n'
        || (select md5(string_agg(p::text, ' ' order by oid)) from pg_policy p) || E' policies\n'
        || (select md5(string_agg(t::text, ' ' order by t.oid)) from pg_trigger t join pg_class c on c.oid = tgrelid where c.relnamespace::regnamespace::text like 'pgtrain%') || E' triggers\n'
        || (select string_agg(concat_ws(' ', rolname, rolsuper, rolbypassrls, rolcreaterole), ', ' order by oid) from pg_roles) || E'\n'
        || (select count(*) from pg_auth_members) || ' ' || (select count(*) from pg_default_acl) || ' ' || (select coalesce(string_agg(s::text, ' '), '') from pg_db_role_setting s) || ' '
        || (select string_agg(concat_ws(' ', nspname, nspowner, nspacl), ' ' order by oid) from pg_namespace where nspname like 'pgtrain%') || ' ' || (select count(*) from pg_extension);
end $$;
SQL
my $state = $node->safe_psql('postgres', 'select watch.state()');
cmp_ok(($state =~ tr/\n//), '>', 40, 'there is a state to compare');

sub attack
{
	my ($name, $expected, $sql) = @_;
	my ($out, $err) = ('', '');
	my $begin = "\\set VERBOSITY verbose\n\\set vic $vic\n\\set eve $eve\n\\set token $token\n\\set vic_hash $vic_hash\n"
	  . "select pgtrain.authenticate(:'token', true) as done \\gset\n";
	my $end = "\n\\set QUIET on\n\\o\nrollback; reset search_path; select E'\\ni am ' || coalesce(pgtrain.current_user_id()::text, 'nobody') || ' ' || current_user || ' ' || session_user;\n";
	$node->psql('postgres', $begin . $sql . $end, stdout => \$out, stderr => \$err, extra_params => [ '-U', 'app' ], on_error_stop => 0, timeout => 60);
	my ($who) = $out =~ /^i am (.*)$/m;
	my @problems;
	push @problems, "is now $who" if ($who // '') !~ /^(?:$eve|nobody) app app$/;
	# What an error quotes of the attack's own text is no leak.
	(my $said = "$out\n$err") =~ s/^(?:LINE \d+|LOCATION|QUERY|CONTEXT|STATEMENT):.*$//mg;
	$said =~ s/like 'canary%'//g;
	$said =~ s/~~ 'canary%'::text//g;
	push @problems, "saw: $1" if $said =~ /($canary)/;
	my @codes = $err =~ /^(?:psql:.*? )?ERROR:  (\w{5}):/mg;
	@codes = grep { $_ ne '25P01' } @codes;
	push @problems, 'did not fail' if defined $expected && $expected ne 'ok' && !@codes;
	push @problems, "failed with $codes[-1], not $expected" if defined $expected && $expected ne 'ok' && @codes && $codes[-1] ne $expected;
	push @problems, "failed: $err" if defined $expected && $expected eq 'ok' && @codes;
	push @problems, "crashed: $err" if $err =~ /server closed the connection|XX000/;
	my $now = $node->safe_psql('postgres', 'select watch.state()');
	if ($now ne $state)
	{
		my %before = map { $_ => 1 } split /\n/, $state;
		push @problems, 'changed: ' . join('; ', grep { !$before{$_} } split /\n/, $now);
		$state = $now;
	}
	my $loot = $node->safe_psql('postgres', "select to_regclass('evil.loot') is not null") eq 't'
	  ? $node->safe_psql('postgres', "select string_agg(who || ' ran ' || what, ', ') from evil.loot where who <> 'app'") : '';
	push @problems, "planted objects ran: $loot" if $loot ne '';
	is(join('; ', @problems), '', $name) or diag("$out$err");
	return;
}

my @blocks = split /^## /m, slurp_file("$FindBin::RealBin/attacks.txt");
shift @blocks;
cmp_ok(scalar(@blocks), '>', 100, 'there are attacks');
for my $block (@blocks)
{
	my ($name, $sql) = split /\n/, $block, 2;
	my $expected = $sql =~ s/^= (\w+)\n//m ? $1 : undef;
	$sql =~ s/^#.*$//mg;
	attack($name, $expected, $sql);
}

# Functions that an application may call, with the victim's numbers and names. Those that end the identity come alone or not at all.
my $calls = $node->safe_psql('postgres', <<'SQL');
select format('select %s', string_agg(call, E';\nselect ')) from (
    select format('pgtrain.%I(%s)', p.proname, string_agg(format('%s %L::%s', case when p.proargnames is not null then format('%I =>', p.proargnames[a.n]) end,
               case when t.typname = 'int8' or t.typname = 'int4' then '1' when t.typname = '_int8' then '{1}' when t.typname = '_text' then '{owned}'
                    when t.typname = 'jsonb' then '{}' when t.typname in ('_jsonb', '_bytea') then '{}' when t.typname = 'bool' then 'true' when t.typcategory = 'D' then '2100-01-01'
                    when t.typname = 'interval' then '0 s' when t.typcategory = 'N' then '1' when t.typname = 'inet' then '10.0.0.1' when t.typname = 'name' then 'app'
                    when p.proargnames[a.n] in ('role') then 'admin' when p.proargnames[a.n] = 'plan' then 'enterprise' when p.proargnames[a.n] = 'resource' then 'training_jobs'
                    when p.proargnames[a.n] = 'access' then 'any' when p.proargnames[a.n] = 'query' then 'select 1::text' else 'canary' end,
               format_type(a.type, null)), ', ' order by a.n)) as call
      from pg_proc p cross join lateral unnest(p.proargtypes::oid[]) with ordinality a (type, n) join pg_type t on t.oid = a.type
     where p.pronamespace = 'pgtrain'::regnamespace and has_function_privilege('app', p.oid, 'execute') and p.prokind = 'f' and p.proretset is not null
       and p.proname not in ('authenticate', 'refresh_session')
       and not exists (select from unnest(p.proargmodes) m where m in ('b', 'v'))
       and (p.proargmodes is null or p.proargmodes[1:p.pronargs] = array_fill('i'::"char", array[p.pronargs::integer]))
     group by p.oid, p.proname, p.proargnames) c
SQL
cmp_ok(($calls =~ tr/\n//), '>', 40, 'there are functions to call');
attack('every function with the victim\'s numbers', undef, "$calls;");

# An administrator and the server's superuser do their work where things were planted.
for my $work (
	[ 'analyse', 'analyze evil.gift, evil.loot; analyze pgtrain.users' ],
	[ 'look at everything', 'set search_path = pg_catalog, evil, public; select * from pgtrain.my_usage; select count(*) from pgtrain.users where username = \'vic\'' ],
	[ 'log in with the path of the attacker', "set search_path = evil, pg_catalog; select pgtrain.authenticate('$vic_token', true); select pgtrain.has_permission('read', 'users')" ],
	[ 'give rights to another application', 'create role second; set search_path = evil, pg_catalog; select pgtrain.grant_application(\'second\'); drop owned by second; drop role second' ])
{
	my ($name, $sql) = @$work;
	my (undef, $out, $err) = $node->psql('postgres', $sql);
	is($node->safe_psql('postgres', "select coalesce(string_agg(distinct who || ' ran ' || what, ', '), '') from evil.loot where who <> 'app'"), '', "planted objects do not run when others $name");
}
$node->stop;
done_testing();
