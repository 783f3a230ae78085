# The real trainer and a tiny model, by SQL alone: trained from scratch, imported as a base model by its bytes, tuned by each method,
# killed in between, asked, measured, exported; the adapter's run shows as a job of OpenAI's form.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('tuning', "pgtrain.trainer_threads = 1\npgtrain.row_storage_limit = '64kB'");
set_server($node, 'pgtrain.trainer_program', real_trainer());
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device' and state = 'idle'", '1'), 'a device worker waits');
as_user($node, "select pgtrain.append_samples(1, array(select 'Question ' || g % 9 || '. Answer ' || (g % 9) * 11 || '.' from generate_series(1, 300) g))");

my $scratch = as_user($node, q{select pgtrain.submit_run(dataset_id => 1, config => '{"size":"nano","steps":60,"learning_rate":0.01}')});
ok(wait_status($node, $scratch, 'succeeded/completed', 120), 'a model from scratch') or diag(run_field($node, $scratch, "error_message || ' ' || coalesce(error_detail, '')"));

# Its artifacts are a folder as others have them.
my $model = as_user($node, qq{
	select pgtrain.import_model(files => array_agg(a.name order by a.name), contents => array_agg(pgtrain.export_artifact($scratch, a.name) order by a.name), name => 'tiny')
	  from pgtrain.artifacts a where a.run_id = $scratch});
like($model, qr/^\d+$/, 'is imported by its bytes');
is($node->safe_psql('postgres', "select count(*) from pgtrain.model_files where model_id = $model"),
	$node->safe_psql('postgres', "select count(*) from pgtrain.artifacts where run_id = $scratch"), 'with every file');

my $pairs = as_user($node, q{select pgtrain.dataset_from_query('pairs',
	$$select 'What is ' || g % 9 || '?' as prompt, ' It is ' || (g % 9) * 11 || '.' as completion from generate_series(1, 200) g$$)});
my $choices = as_user($node, q{select pgtrain.dataset_from_query('choices',
	$$select 'Say ' || g % 9 || ':' as prompt, ' yes' as chosen, ' no' as rejected from generate_series(1, 60) g$$)});

my $common = '"base_model":"tiny","context":64,"batch_size":4,"checkpoint_every":5,"held_out_fraction":0.1';
my %configs = (
	lora => [ $pairs, qq({$common,"steps":40,"learning_rate":0.02,"lora_rank":8,"lora_dropout":0.05}) ],
	qlora => [ $pairs, qq({$common,"steps":40,"learning_rate":0.02,"method":"qlora"}) ],
	full => [ $pairs, qq({$common,"epochs":4,"learning_rate":0.003,"method":"full"}) ],
	dpo => [ $choices, qq({$common,"steps":20,"learning_rate":0.005,"objective":"dpo"}) ]);
my %runs;
for my $method (sort keys %configs)
{
	my ($dataset, $config) = @{ $configs{$method} };
	my $submit = "select pgtrain.submit_run(dataset_id => $dataset, config => '$config')";
	my $run = $runs{$method} = as_user($node, $submit);
	ok(wait_status($node, $run, 'succeeded/completed', 120), "$method: succeeds") or diag(run_field($node, $run, "error_message || ' ' || coalesce(error_detail, '')"));
	is($node->safe_psql('postgres', "select loss_after < loss_before from pgtrain.training_runs where id = $run"), 't', "$method: the held-out loss has fallen");
	my $file = $method eq 'full' ? 'model.safetensors' : 'adapter_model.safetensors';
	my $hash = $node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $run and name = '$file'");
	my $again = as_user($node, $submit);
	ok(wait_for($node, "select step >= 6 or status = 'succeeded' from pgtrain.training_runs where id = $again", 't', 60), "$method: again");
	kill 'KILL', trainer_pids($node);
	ok(wait_status($node, $again, 'succeeded/completed', 120), "$method: killed on the way, it succeeds");
	is($node->safe_psql('postgres', "select sha256 from pgtrain.artifacts where run_id = $again and name = '$file'"), $hash, "$method: with the same bytes");
}
nothing_left($node, 'after tuning');

for my $method (qw(lora full))
{
	like(as_user($node, "select pgtrain.publish_model($runs{$method}, 'expert')"), qr/^\d+$/, "$method: is a version of a published model");
	my $text = as_user($node, "select pgtrain.generate($runs{$method}, 'What is 4?', 12, temperature => 0)");
	like($text, qr/\S/, "$method: answers");
	my $evaluation = as_user($node, "select pgtrain.evaluate($pairs, run_id => $runs{$method}, questions => 5, max_tokens => 12)");
	my ($loss, $tokens, $samples, $questions) = split /\|/,
		$node->safe_psql('postgres', "select after_metrics->>'loss', after_metrics->>'tokens', after_metrics->>'samples', after_metrics->>'questions' from pgtrain.evaluations where id = $evaluation");
	cmp_ok($loss, '>', 0, "$method: is measured");
	cmp_ok($tokens, '>', 1000, "$method: on its tokens");
	is($samples, 200, "$method: of all samples");
	is($questions, 5, "$method: and questions");
}
like(as_user($node, "select pgtrain.generate(model_id => $model, prompt => 'Question 3.', max_tokens => 12, temperature => 0)"), qr/\S/, 'the imported model answers by itself');

my $job = as_user($node, "select pgtrain.fine_tuning_job($runs{lora})");
like($job, qr/"object"\s*:\s*"fine_tuning.job"/, 'the run as a job');
like($job, qr/"status"\s*:\s*"succeeded"/, 'that has succeeded');
like(as_user($node, "select convert_from(pgtrain.export_artifact($runs{lora}, 'adapter_config.json'), 'UTF8')"), qr/"base_model_name_or_path"\s*:\s*"tiny"/, 'the adapter names its base');

my ($code, $out, $error) = $node->psql('postgres', "select pgtrain.delete_model($model)");
like($error, qr/need|used|adapter/i, 'a base model that adapters need is not removed');

done_testing();
