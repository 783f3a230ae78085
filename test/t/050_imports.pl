# Models of others from the server's disk: which paths lead in and which do not, what an import leaves behind when it is cut off, and
# runs that start from a model whose files are stored, deleted, taken away or lost with a restored dump.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA qw(sha256_hex);
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX qw(mkfifo);
use Test::More;
use TrainTest;

# Weights are files on the disk, the rest is in rows.
my $node = start_server('imports', "max_prepared_transactions = 5\npgtrain.row_storage_limit = 8kB");
my $data = $node->data_dir;
my $given = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $given;

sub write_file
{
	my ($path, $content) = @_;
	open(my $file, '>:raw', $path) or die "$path: $!";
	print $file $content;
	close $file;
	return $path;
}

# The fake trainer believes every file; `script` makes it misbehave.
sub model_folder
{
	my ($name, $seed, $script) = @_;
	make_path("$given/$name");
	write_file("$given/$name/config.json", '{"model_type": "llama", "seed": ' . $seed . ($script ? qq(, "x": "fake: $script;") : '') . '}');
	write_file("$given/$name/tokenizer.json", '{}');
	write_file("$given/$name/model.safetensors", pack('Q<', $seed) . ('weights of ' . $seed) x 5000);
	return "$given/$name";
}

sub try_sql
{
	my ($sql, $user) = @_;
	my ($out, $err) = ('', '');
	if ($user) { $out = eval { as_user($node, $sql) } // ''; $err = $@; }
	else { (undef, $out, $err) = $node->psql('postgres', $sql) }
	return $err eq '' ? $out : $err;
}
# A run that starts from a model.
sub submit_from
{
	my ($base, $arguments) = @_;
	my $config = qq({"steps":20,"checkpoint_every":5,"base_model":"$base"});
	return as_user($node, "select pgtrain.submit_run(dataset_id => 1, config => '$config'" . ($arguments // '') . ')');
}
sub models_count { return $node->safe_psql('postgres', 'select count(*) from pgtrain.models') }
sub files_on_disk
{
	my $oid = $node->safe_psql('postgres', 'select oid from pg_database where datname = current_database()');
	return glob("$data/pgtrain/artifacts/$oid/*");
}

# The scheduler sweeps when it starts; it is idle when it has.
sub sweep
{
	my ($database) = @_;
	my $pid = worker_pid($node, 'scheduler', $database);
	$node->safe_psql($database // 'postgres', "select pg_terminate_backend($pid)");
	wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'scheduler' and state = 'idle' and pid <> $pid"
		. ' and database_id = (select oid from pg_database where datname = current_database())', '1', 20, $database) or die 'no sweep';
	return;
}

# ---------------------------------------------------------------- what comes in
my $folder = model_folder('tiny', 1);
write_file("$folder/training_args.bin", 'a pickle that lies beside');
write_file("$folder/README.md", 'read me');
my $model = $node->safe_psql('postgres', "select pgtrain.import_model('$folder', 'tiny')");
is($node->safe_psql('postgres', "select string_agg(name, ' ' order by name) from pgtrain.model_files where model_id = $model"),
	'config.json model.safetensors tokenizer.json', 'a folder: the files of a model, and nothing else that lies there');
is($node->safe_psql('postgres', "select encode(sha256(pgtrain.export_model_file($model, 'model.safetensors')), 'hex')"),
	sha256_hex(slurp_file("$folder/model.safetensors")), 'its weights are stored as they were');
is($node->safe_psql('postgres', "select string_agg(f.storage::text, ' ' order by m.name) from pgtrain.model_files m join pgtrain_private.stored_files f on f.id = m.file_id"),
	'rows file rows', 'large files on the disk, small ones in rows');
is(scalar(glob("$data/pgtrain/jobs/*") // ''), '', 'no job folder is left');

my $both = model_folder('both', 3);
write_file("$both/adapter_config.json", '{}');
my ($rc, $id, $notice) = $node->psql('postgres', "select pgtrain.import_model('$both', 'both')");
like($id, qr/\A\d+\z/, 'a model with an adapter beside it is imported');
like($notice, qr/NOTICE: .*both": the model is imported without the adapter that lies beside it/, 'and what was left out is said');

# A download as huggingface_hub keeps it: links to blobs beside.
make_path("$given/hub/snapshots/main", "$given/hub/blobs");
rename("$folder/README.md", "$given/hub/blobs/0");
for my $name ('config.json', 'tokenizer.json', 'model.safetensors')
{
	write_file("$given/hub/blobs/$name", slurp_file("$folder/$name") . ' ');
	symlink("../../blobs/$name", "$given/hub/snapshots/main/$name") or die $!;
}
like(try_sql("select pgtrain.import_model('$given/hub/snapshots/main', 'hub')"), qr/\A\d+\z/, 'links of a download are followed');

# Shards by their index.
my $shards = model_folder('shards', 2);
unlink("$shards/model.safetensors");
write_file("$shards/model-0000$_-of-00002.safetensors", "shard $_" x 2000) for 1, 2;
write_file("$shards/other.safetensors", 'not of the model');
write_file("$shards/model.safetensors.index.json", '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}');
my $sharded = $node->safe_psql('postgres', "select pgtrain.import_model('$shards', 'shards')");
is($node->safe_psql('postgres', "select string_agg(name, ' ' order by name) from pgtrain.model_files where model_id = $sharded"),
	'config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json tokenizer.json', 'shards as the index names them');

write_file("$given/one.gguf", 'GGUF' . 'x' x 20000);
my $gguf = $node->safe_psql('postgres', "select pgtrain.import_model('$given/one.gguf', 'one')");
is($node->safe_psql('postgres', "select format, length(pgtrain.export_model_file($gguf)) from pgtrain.models where id = $gguf"), 'gguf|20004', 'a GGUF file');

is($node->safe_psql('postgres', "select string_agg(pgtrain.export_model_file($gguf, 'model.gguf', i, 6000), '' order by i) = pgtrain.export_model_file($gguf) from generate_series(0, 24000, 6000) i"), 't',
	'a file on the disk in parts is the whole');

# ---------------------------------------------------------------- what does not
my $before = models_count();
my $bad = "$given/bad";
make_path($bad);
mkfifo("$given/pipe", 0666) or die $!;
my %refused = (
	"$given/nothing" => qr/does not exist/, 'relative/path' => qr/not an absolute path/, "$given/pipe" => qr/neither a folder nor a plain file/,
	'/dev/zero' => qr/neither a folder nor a plain file/, "$folder/config.json" => qr/no GGUF file/, "$folder/training_args.bin" => qr/pickled weights/,
	"$folder/model.safetensors" => qr/a safetensors file alone/, $bad => qr/config\.json is missing/, '' => qr/not an absolute path/);
for my $path (sort keys %refused) { like(try_sql("select pgtrain.import_model('$path', 'refused')"), $refused{$path}, "refused: \"$path\"") }
my @steps = (
	[ 'adapter_config.json', '{}', qr/holds an adapter/ ], [ 'pytorch_model.bin', 'pickle', qr/holds an adapter|pickled/ ],
	[ 'config.json', '{}', qr/holds an adapter/ ], [ 'model.safetensors.index.json', 'no JSON', qr/cannot be read/ ],
	[ 'model.safetensors.index.json', '{"weight_map": {"a": "../../etc/passwd"}}', qr/not the name of a safetensors file in this folder/ ],
	[ 'model.safetensors.index.json', '{"weight_map": {"a": "a.bin"}}', qr/not the name of a safetensors file in this folder/ ],
	[ 'model.safetensors.index.json', '{"weight_map": {"a": "gone.safetensors"}}', qr/is missing, but/ ],
	[ 'model.safetensors.index.json', '{"weight_map": 7}', qr/cannot be read/ ], [ 'model.safetensors.index.json', '{}', qr/names 0 files/ ]);
for my $step (@steps)
{
	write_file("$bad/$step->[0]", $step->[1]);
	my $said = try_sql("select pgtrain.import_model('$bad', 'refused')");
	like($said, $step->[2], "refused: $step->[0] $step->[1]");
	unlike($said, qr/is imported/, 'and nothing else is said');
}
mkfifo("$bad/model.safetensors", 0666) or die $!;
like(try_sql("select pgtrain.import_model('$bad', 'refused')"), qr/is no plain file/, 'a pipe in place of weights is not waited for');
# Adapters, by their folders: with the model that they lie over, and nothing but them.
my $adapter = "$given/adapter";
make_path($adapter);
sub try_adapter { my ($path, $base) = @_; return try_sql("select pgtrain.import_model('$path', 'refused', base_model => '$base')") }
like(try_adapter($adapter, 'tiny'), qr/holds no adapter: adapter_config\.json is missing/, 'refused: an empty folder as an adapter');
write_file("$adapter/adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "some\u001body/' . 'tiny' x 100 . '"}');
like(try_sql("select pgtrain.import_model('$adapter', 'refused')"), qr/holds an adapter, not a model.*it calls "some\?ody\/(tiny){47}ti?n?", and give that one's id or name here as base_model/s,
	'refused: an adapter without its base, which is named');
like(try_adapter($adapter, 'tiny'), qr/adapter_model\.safetensors is missing/, 'refused: its configuration alone');
write_file("$adapter/adapter_model.bin", 'pickle');
like(try_adapter($adapter, 'tiny'), qr/adapter_model\.bin.*pickled weights/, 'refused: a pickled adapter');
mkfifo("$adapter/adapter_model.safetensors", 0666) or die $!;
like(try_adapter($adapter, 'tiny'), qr/is no plain file/, 'refused: a pipe in place of its weights');
unlink("$adapter/adapter_model.safetensors");
write_file("$adapter/adapter_model.safetensors", 'weights of an adapter');
like(try_adapter($_, 'tiny'), qr/is no folder of an adapter|holds no adapter/, "refused as an adapter: $_") for $folder, "$given/one.gguf", "$adapter/adapter_config.json", '/dev/zero';
like(try_adapter($adapter, $_), qr/base_model: model "$_" does not exist/, "refused: an adapter over $_") for 'nothing', '999999';
is(models_count(), $before, 'what is refused leaves no model');
write_file("$adapter/$_", '{}') for 'tokenizer.json', 'tokenizer_config.json', 'config.json', 'special_tokens_map.json', 'README.md', 'training_args.bin', 'optimizer.pt';
like(try_sql("select pgtrain.import_model('$adapter', 'refused')"), qr/holds an adapter/, 'a configuration beside makes no model of it');
my $on_tiny = $node->safe_psql('postgres', "select pgtrain.import_model('$adapter', 'on tiny', base_model => '$model')");
is($node->safe_psql('postgres', "select base_model_id = $model, base_model_hash = (select b.content_hash from pgtrain.models b where b.id = $model), (select string_agg(f.name, ' ' order by f.name) from pgtrain.model_files f where f.model_id = m.id) from pgtrain.models m where id = $on_tiny"),
	't|t|adapter_config.json adapter_model.safetensors tokenizer_config.json', 'an adapter over a model by its id: its files, and what may have its chat template');
is(scalar(glob("$data/pgtrain/jobs/*") // ''), '', 'no job folder is left of it');
like(try_sql("select pgtrain.delete_model($model)"), qr/needed by adapters.*on tiny/s, 'which is not deleted while the adapter needs it');
$node->safe_psql('postgres', "select pgtrain.delete_model($on_tiny)");

# ---------------------------------------------------------------- paths of users
write_file("$given/secret.gguf", 'GGUF of somebody else');
make_path("$given/open");
rename($folder, "$given/open/tiny") or die $!;
$folder = "$given/open/tiny";
symlink('../secret.gguf', "$given/open/out.gguf");
symlink($given, "$given/open/up");
symlink('tiny', "$given/open/inside");
rename($adapter, "$given/open/adapter") or die $!;
symlink('../../secret.gguf', "$given/open/adapter/chat_template.jinja");
symlink("$given/open/tiny", "$given/open/absolute");
like(try_sql("select pgtrain.import_model('$folder', 'mine')", 1), qr/permission denied to import from the server's disk/, 'without a folder of theirs users name no path');
set_server($node, 'pgtrain.import_folder', "$given/open");
ok(wait_for($node, 'show pgtrain.import_folder', "\Q$given/open\E"), 'the folder is set');
for my $path ("$given/secret.gguf", '../secret.gguf', 'tiny/../../secret.gguf', 'out.gguf', 'up/secret.gguf', 'absolute', '/etc/passwd', "$given/open/../secret.gguf",
	'/proc/self/environ', "$data/postgresql.conf", $given)
{
	like(try_sql("select pgtrain.import_model('$path', 'mine')", 1), qr/does not lie within pgtrain\.import_folder/, "a user's path leads nowhere else: $path");
}
like(try_sql("select pgtrain.import_model('nothing', 'mine')", 1), qr/"nothing" does not exist/, 'nor to what is not there');
my $mine = as_user($node, q(select pgtrain.import_model('tiny', 'mine')));
like($mine, qr/\A\d+\z/, 'a user imports from that folder');
like(try_sql(q(select pgtrain.import_model('inside', 'mine too')), 1), qr/\A\d+\z/, 'also by a link that stays in it');
like(try_sql("select pgtrain.import_model('$given/open/tiny', 'mine as well')", 1), qr/\A\d+\z/, 'and by the whole path');
like(try_sql(q(select pgtrain.import_model('adapter', 'adapted', base_model => 'mine')), 1), qr/does not lie within/, 'an adapter whose file is a link that leads out');
unlink("$given/open/adapter/chat_template.jinja");
like(try_sql(q(select pgtrain.import_model('adapter', 'adapted', base_model => 'mine')), 1), qr/\A\d+\z/, 'or without it');
as_user($node, q(select pgtrain.delete_model(id) from pgtrain.models where name = 'adapted'));
like(try_sql(q(select pgtrain.import_model('out.gguf', 'admin')), 0), qr/not an absolute path/, 'the administrator is not bound to it');
set_server($node, 'pgtrain.import_folder', '/');
ok(wait_for($node, 'show pgtrain.import_folder', '/'), 'the folder is everything');
(my $below = "$data/base") =~ s{\A/}{};
like(try_sql("select pgtrain.import_model('$below', 'below')", 1), qr/does not lie within/, "the server's own files are never imported by users");
like(try_sql(q(select pgtrain.import_model('proc/self/root/etc', 'below')), 1), qr/does not lie within/, 'nor what hides behind a link of /proc');
set_server($node, 'pgtrain.import_folder', "$given/open");
ok(wait_for($node, 'show pgtrain.import_folder', "\Q$given/open\E"), 'the folder is small again');
like($node->safe_psql('postgres', "select string_agg(setting, '') from pg_settings where name = 'pgtrain.import_folder'"), qr/open/, 'the setting can be read');
my (undef, undef, $cannot) = $node->psql('postgres', "set pgtrain.import_folder = '/'");
like($cannot, qr/cannot be changed now/, 'and set in the server\'s configuration only');

# ---------------------------------------------------------------- cut off
sub nothing_of
{
	my ($what, $files) = @_;
	is($node->safe_psql('postgres', q(select count(*) from pgtrain.models where name = 'cut off')), '0', "$what: no model");
	ok(wait_for($node, q(select count(*) from pg_stat_activity where state = 'active' and query like '%cut off%' and pid <> pg_backend_pid()), '0'), "$what: no session");
	my @left;
	for (1 .. 500)
	{
		@left = (glob("$data/pgtrain/jobs/*"), trainer_pids());
		last if !@left;
		Time::HiRes::usleep(20_000);
	}
	is("@left", '', "$what: no job folder, no process");
	is(scalar(my @now = files_on_disk()), $files, "$what: no stored file");
	return;
}
my $hanging = model_folder('hanging', 3, 'hang@job');
my $files = () = files_on_disk();
like(try_sql("set statement_timeout = '500ms'; select pgtrain.import_model('$hanging', 'cut off')"), qr/statement timeout/, 'an import ends with its statement');
nothing_of('cancelled', $files);
like(try_sql("begin; select pgtrain.import_model('$folder', 'cut off'); select 1/0"), qr/division by zero/, 'an import whose transaction fails');
nothing_of('rolled back', $files);
my $crashing = model_folder('crashing', 4, 'exit3@job');
like(try_sql("select pgtrain.import_model('$crashing', 'cut off')"), qr/the trainer ended without a result/, 'a trainer that dies at it');
nothing_of('trainer died', $files);
for my $signal ('TERM', 'KILL')
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query('select pg_backend_pid()');
	$session->query_until(qr/begins/, "\\echo begins\nselect pgtrain.import_model('$hanging', 'cut off');\n");
	for (1 .. 1000) { last if trainer_pids(); Time::HiRes::usleep(10_000) }
	ok(scalar(trainer_pids()), "$signal: the trainer looks at it");
	kill $signal, $pid;
	poll_gone($pid) or die 'the session lives';
	eval { $session->quit };
	ok(wait_for($node, 'select 1', '1', 60), "$signal: the server is there");
	if ($signal eq 'KILL') { wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'scheduler' and state = 'idle'", '1', 60) }
	nothing_of("SIG$signal", $files);
}

# ---------------------------------------------------------------- the sweep of stored files leaves open transactions alone
my $open = $node->background_psql('postgres');
$open->query_safe('begin');
my $late = $open->query_safe("select pgtrain.import_model('$folder', 'late')");
sweep();
$open->query_safe('commit');
$open->quit;
is($node->safe_psql('postgres', "select length(pgtrain.export_model_file($late, 'model.safetensors')) > 0"), 't', 'a sweep during an open transaction takes nothing of it');
$node->safe_psql('postgres', "begin; select pgtrain.import_model('$folder', 'prepared'); prepare transaction 'p'");
sweep();
$node->safe_psql('postgres', "commit prepared 'p'");
is($node->safe_psql('postgres', "select length(pgtrain.export_model_file(id, 'model.safetensors')) > 0 from pgtrain.models where name = 'prepared'"), 't', 'nor of a prepared one');
$files = () = files_on_disk();
$node->safe_psql('postgres', "begin; select pgtrain.import_model('$folder', 'given up'); prepare transaction 'p'; rollback prepared 'p'");
$node->safe_psql('postgres', q(select pgtrain.delete_model(id) from pgtrain.models where name in ('late', 'prepared')));
sweep();
is(scalar(my @now = files_on_disk()), $files - 2, 'what was rolled back or deleted is swept, what is there stays');

# ---------------------------------------------------------------- runs
my $free = submit($node, '', '');
my $based = submit_from('mine');
ok(wait_status($node, $free, 'succeeded/completed') && wait_status($node, $based, 'succeeded/completed'), 'runs with and without a base');
isnt($node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $based and name = 'model.safetensors'"),
	$node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $free and name = 'model.safetensors'"), 'the base came to the trainer');
nothing_left($node, 'runs with a base');

# Deleted while a run waits: refused, or forced, and then the run says so. The same content under another name serves as well.
set_server($node, 'pgtrain.cpu_workers', 0);
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device'", '0'), 'no worker');
my $waiting = submit_from('mine');
like(try_sql("select pgtrain.delete_model($mine)", 1), qr/needed by runs/, 'a model that a run needs is not deleted');
as_user($node, "select pgtrain.delete_model($mine, force => true)");
as_user($node, "select pgtrain.delete_model(id, force => true) from pgtrain.models where name in ('mine too', 'mine as well')");
$node->safe_psql('postgres', "select pgtrain.delete_model($model)");
set_server($node, 'pgtrain.cpu_workers', 1);
ok(wait_status($node, $waiting, 'failed/model_missing'), 'a run whose base was deleted fails as model_missing');
like(run_field($node, $waiting, 'error_hint'), qr/Import the same files again/, 'and says what to do');
as_user($node, q(select pgtrain.import_model('tiny', 'again')));
as_user($node, "select pgtrain.retry_run($waiting)");
ok(wait_status($node, $waiting, 'succeeded/completed'), 'after another import it goes on');
is($node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $waiting and name = 'model.safetensors'"),
	$node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $based and name = 'model.safetensors'"), 'to the same end');

# Of another user, granted and taken back.
my $ben = $node->safe_psql('postgres', "select pgtrain.register_user('ben', 'ben\@example.org', 'correct horse battery')");
model_folder('bens', 5);
my $theirs = $node->safe_psql('postgres', "select pgtrain.import_model('$given/bens', 'bens', owner_id => $ben)");
my $ann = $node->safe_psql('postgres', q(select id from pgtrain.users where username = 'ann'));
$node->safe_psql('postgres', "select pgtrain.grant_model($theirs, $ann)");
my $granted = submit_from('bens');
ok(wait_status($node, $granted, 'succeeded/completed'), 'a run from a model that was granted');
my $revoked = submit_from('bens', ", start_at => now() + interval '1 hour'");
$node->safe_psql('postgres', "select pgtrain.revoke_model($theirs, $ann); update pgtrain_private.run_queue set available_at = now() where run_id = $revoked");
ok(wait_status($node, $revoked, 'failed/permission_revoked'), 'and one that began after it was taken back');

# The stored bytes changed: the trainer notices, nothing is trained.
my ($changed) = grep { slurp_file($_) =~ /weights of 5weights/ } files_on_disk();
$node->safe_psql('postgres', "select pgtrain.grant_model($theirs, $ann)");
write_file($changed, pack('Q<', 5) . ('weights of 6') x 5000);
my $spoilt = submit_from('bens', ', max_attempts => 1');
ok(wait_status($node, $spoilt, 'failed/.*'), 'a run from changed bytes fails');
write_file($changed, pack('Q<', 5) . ('weights of 5') x 5000);

# A dump has the models but not the files on the disk.
my $dump = $node->backup_dir . '.sql';
$node->command_ok([ 'pg_dump', '--file', $dump, '--dbname', $node->connstr('postgres') ], 'dumped');
$node->safe_psql('postgres', 'create database copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('copy') ], 'restored');
is($node->safe_psql('copy', 'select count(*) from pgtrain.model_files'), $node->safe_psql('postgres', 'select count(*) from pgtrain.model_files'), 'a restored dump knows the models');
my $token = "select pgtrain.authenticate((select session_token from pgtrain.login('ann', 'correct horse battery')), true)";
my ($lost) = $node->safe_psql('copy', qq($token; select pgtrain.submit_run(dataset_id => 1, config => '{"steps":5,"base_model":"again"}'))) =~ /(\d+)\s*\z/;
ok(wait_status($node, $lost, 'failed/model_missing', 30, 'copy'), 'a run from files that are not there fails as model_missing');
like(run_field($node, $lost, 'error_message', 'copy'), qr/not on this server/, 'and says where they are not');
$node->safe_psql('copy', "select pgtrain.import_model('$folder', 'tiny', owner_id => $ann)");
$node->safe_psql('copy', "$token; select pgtrain.retry_run($lost)");
ok(wait_status($node, $lost, 'succeeded/completed', 30, 'copy'), 'after an import there it goes on');
is($node->safe_psql('copy', 'select count(*) from pgtrain_private.check_storage()'), '0', 'room is counted to the byte');
is($node->safe_psql('postgres', 'select count(*) from pgtrain_private.check_storage()'), '0', 'here too');

# Gigabytes cost no memory: the session that imports them grows by no more than its buffers.
my $large = "$given/large.gguf";
write_file($large, 'GGUF');
truncate($large, 256 << 20) or die $!;
my $importing = $node->background_psql('postgres');
my $pid = $importing->query_safe('select pg_backend_pid()');
$importing->query_safe("select pgtrain.import_model('$given/one.gguf', 'warm')");
my $peak = sub { slurp_file("/proc/$pid/status") =~ /VmHWM:\s+(\d+) kB/ ? $1 : die };
my $small = $peak->();
$importing->query_safe("select pgtrain.import_model('$large', 'large')");
cmp_ok($peak->() - $small, '<', 16 << 10, 'an import of 256 MB takes no memory for it');
$importing->quit;
nothing_left($node, 'all of it');
$node->stop;
done_testing();
