# The Python of docs/application-developer.md, block after block in one program, as an application's role with the real trainer.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $python = $ENV{PGTRAIN_PYTHON} // 'python3';
plan skip_all => 'psycopg and SQLAlchemy are not installed: make deps' if system("$python -c 'import psycopg, sqlalchemy' >/dev/null 2>&1") != 0;

my $node = start_server('documented', "pgtrain.trainer_program = '" . real_trainer() . "'\npgtrain.cpu_workers = 1");
$node->safe_psql('postgres', "create role app login; select pgtrain.grant_application('app')");
my $page = slurp_file("$FindBin::RealBin/../docs/application-developer.md");
my @blocks = $page =~ /^```python\n(.*?)^```/msg;
is(scalar(@blocks), 3, 'the page has three blocks of Python');
my $program = $PostgreSQL::Test::Utils::tmp_check . '/snippets.py';
append_to_file($program, join("\n", @blocks));
my ($out, $err) = ('', '');
{
	local @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($node->host, $node->port, 'app', 'postgres');
	ok(IPC::Run::run([ $python, $program ], '>', \$out, '2>', \$err, IPC::Run::timeout(180)), 'and it runs') or diag("$out$err");
}
is($node->safe_psql('postgres', "select string_agg(status || ' step ' || step, ', ') from pgtrain.training_runs"), 'succeeded step 20', 'a model was trained');
$node->stop;
done_testing();
