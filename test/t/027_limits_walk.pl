# A random walk over everything that moves a user's counters, in many sessions at once while workers train: submit, cancel, pause,
# resume, retry, whole transactions and savepoints rolled back, sessions killed, limits changed, periods that end while runs hold.
# At every moment the ledger's sums are the counters; a limit that nobody changes is never passed; at the end nothing is held.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TrainTest;

my $node = start_server('walk', "pgtrain.cpu_workers = 2\nmax_prepared_transactions = 20\npgtrain.retry_delay = 10\n");
my $seed = int(rand(1_000_000));
note "seed $seed";
my $k = 3 + $seed % 5;

# anna's limit stays; ben's limit and period are moved about all the time; carl has none.
$node->safe_psql('postgres', <<SQL);
create role app login;
select pgtrain.grant_application('app');
create table public.walker as
  select n as name, pgtrain.register_user(n, n || '\@walk.test', 'correct horse battery') as id from unnest(array['anna', 'ben', 'carl']) n;
alter table public.walker add token text, add data bigint;
update public.walker set token = (select session_token from pgtrain.login(name, 'correct horse battery'));
select pgtrain.set_usage_limit(id, 'training_jobs', case name when 'carl' then -1 else $k end, 'never'),
       pgtrain.set_usage_limit(id, 'training_tokens', -1, 'never'), pgtrain.set_usage_limit(id, 'concurrent_runs', -1) from public.walker;
grant select on public.walker to app;
create table public.walked (name text, act text, outcome text);
grant insert on public.walked to app;

-- One user's session: so many acts, each in a savepoint, now and then rolled back, committed in bundles.
create procedure public.walk(who text, acts integer, seed double precision) language plpgsql as \$\$
declare
    act text;
    run bigint;
    outcome text;
begin
    perform setseed(seed);
    for i in 1..acts loop
        perform pgtrain.authenticate((select w.token from public.walker w where w.name = who));
        act := (array['submit', 'submit', 'submit', 'cancel', 'cancel', 'pause', 'resume', 'resume', 'retry', 'retry'])[1 + floor(random() * 10)::integer];
        select r.id into run from pgtrain.training_runs r order by random() limit 1;
        outcome := 'done';
        begin
            if act = 'submit' then
                perform pgtrain.submit_run(dataset_id => (select w.data from public.walker w where w.name = who),
                    config => jsonb_build_object('size', 'nano', 'steps', 1 + floor(random() * 4)::integer, 'batch_size', 1, 'context', 32,
                        'sample_prompt', 'fake: ' || (array['step_ms=5', 'step_ms=40', 'kill\@step2', 'exit3\@step1'])[1 + floor(random() * 4)::integer]),
                    max_attempts => 1 + floor(random() * 2)::integer,
                    start_at => case when random() < 0.2 then now() + interval '1 hour' end,
                    idempotency_key => case when random() < 0.1 then 'key' || floor(random() * 5)::text end);
            elsif run is not null then
                execute format('select pgtrain.%I(\$1)', act || '_run') using run;
            end if;
            if random() < 0.1 then
                raise exception 'rolled back';
            end if;
        exception when others then
            outcome := case when sqlstate in ('PT402', 'PT404', 'PT409', '40P01') then -- acts on several runs in one transaction may meet in a deadlock
                sqlstate when sqlerrm = 'rolled back' then 'rolled back' else sqlstate || ' ' || sqlerrm end;
        end;
        insert into public.walked values (who, act, outcome);
        if random() < 0.1 then
            rollback;
        elsif random() < 0.6 then
            commit;
        end if;
    end loop;
end \$\$;
grant execute on procedure public.walk to app;
SQL
for my $name (qw(anna ben carl))
{
	my $data = $node->safe_psql('postgres', "select pgtrain.authenticate(token, true) is not null from public.walker where name = '$name';
		select pgtrain.create_dataset('$name'); select pgtrain.append_samples(max(id), array['one', 'two', 'three']) from pgtrain.datasets");
	my ($id) = $data =~ /\n(\d+)\n/;
	$node->safe_psql('postgres', "update public.walker set data = $id where name = '$name'");
}

my @sessions;
sub walk_on
{
	my ($name) = @_;
	my $sql = sprintf "call public.walk('%s', %d, %f)", $name, 40, rand;
	my $said = '';
	push @sessions, { said => \$said, handle => IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=app', '-c', $sql ], '>', \$said, '2>&1', IPC::Run::timeout(120)) };
	return;
}
# What the administrator does may be chosen to solve a deadlock that two walkers have made: then it is not done.
sub administer
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);
	die "$sql: $err" if $rc != 0 && $err !~ /deadlock detected/;
	return;
}
srand($seed);
walk_on($_) for map { ($_) x 3 } qw(anna ben carl);

# One snapshot: sums, what is held by kind of entry, and that nobody's use is below nothing.
my $wrong = 'select * from pgtrain_private.check_ledger()';
my ($looks, $bad, $over, $killed) = (0, '', 0, 0);
my $ends = time + 12;
while (time < $ends)
{
	my $now = $node->safe_psql('postgres', $wrong);
	++$looks;
	$over += $node->safe_psql('postgres', "select count(*) from pgtrain.usage_entries e where e.user_id = (select id from public.walker where name = 'anna') and e.resource_type = 'training_jobs' having sum(e.amount) not between 0 and $k") ne '';
	$bad ||= $now;
	my $dice = rand;
	if ($dice < 0.2)
	{
		administer(sprintf "select pgtrain.set_usage_limit(id, 'training_jobs', %d) from public.walker where name = 'ben'", int(rand(30)) - 1);
	}
	elsif ($dice < 0.4)
	{
		administer("update pgtrain.user_usage_limits set reset_period = 'daily', reset_at = now() - interval '1 second'
			where user_id = (select id from public.walker where name = 'ben')");
	}
	elsif ($dice < 0.5)
	{
		$killed += $node->safe_psql('postgres', "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity where usename = 'app' order by random() limit 1) p");
	}
	elsif ($dice < 0.6)
	{
		# Through two phases, given up or not.
		my $name = 'p' . int(rand(1e9));
		$node->psql('postgres', "begin; select pgtrain.authenticate(token) from public.walker where name = 'anna';
			select pgtrain.submit_run(dataset_id => data, config => jsonb_build_object('size', 'nano', 'steps', 2, 'batch_size', 1, 'context', 32)) from public.walker where name = 'anna';
			prepare transaction '$name'");
		$node->psql('postgres', (rand() < 0.5 ? 'commit' : 'rollback') . " prepared '$name'");
	}
	$_->{handle}->pump_nb for grep { $_->{handle}->pumpable } @sessions;
	my @over = grep { !$_->{handle}->pumpable } @sessions;
	@sessions = grep { $_->{handle}->pumpable } @sessions;
	for my $session (@over) { eval { $session->{handle}->finish } }
	walk_on((qw(anna ben carl))[ rand 3 ]) while @sessions < 9;
	usleep(20_000);
}
for my $session (@sessions) { eval { $session->{handle}->finish } }

note "$looks looks, $killed killed sessions";
note $node->safe_psql('postgres', "select name || ' ' || act || ' ' || outcome || ': ' || count(*) from public.walked group by name, act, outcome order by 1");
is($bad, '', 'whenever it was looked at, the ledger agreed with the counters');
is($node->safe_psql('postgres', "select distinct outcome from public.walked where outcome not in ('done', 'rolled back', 'PT402', 'PT404', 'PT409', '40P01')"), '',
	'no act ended in an error that is not its own');
cmp_ok($node->safe_psql('postgres', "select count(*) from public.walked where outcome = 'done'"), '>', 100, 'there was something to count');
cmp_ok($node->safe_psql('postgres', "select count(*) from public.walked where name = 'anna' and outcome = 'PT402'"), '>', 0, 'the limit was met');
is($over, 0, "anna never passed her limit of $k, whenever it was looked at");

# All runs come to an end, and nothing is held then; what a run has charged is what it has trained.
$node->safe_psql('postgres', <<'SQL');
do $$
declare
    run bigint;
begin
    for run in select r.id from pgtrain.training_runs r where r.status in ('queued', 'paused', 'running') loop
        begin
            perform pgtrain.cancel_run(run);
        exception when sqlstate 'PT409' then
            null;  -- it has ended meanwhile
        end;
        commit;
    end loop;
end $$
SQL
ok(wait_for($node, "select count(*) from pgtrain.training_runs where status in ('queued', 'running', 'paused')", '0', 30), 'all runs end');
nothing_left($node, 'after the walk');
is($node->safe_psql('postgres', $wrong), '', 'the ledger agrees at the end');
is($node->safe_psql('postgres', <<'SQL'), '0', 'each run was charged what it has trained, as one job');
select count(*) from (select r.id, r.tokens, coalesce(sum(e.amount) filter (where e.resource_type = 'training_tokens'), 0) as tokens_used,
       (r.step > 0 or r.tokens > 0)::integer as jobs, coalesce(sum(e.amount) filter (where e.resource_type = 'training_jobs'), 0) as jobs_used
  from pgtrain.training_runs r left join pgtrain.usage_entries e on e.run_id = r.id group by r.id) s
 where tokens <> tokens_used or jobs <> jobs_used
SQL
$node->stop;
done_testing();
