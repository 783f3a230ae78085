# The real trainer and a tiny model, by SQL alone: trained from scratch, imported as a base model by its bytes, tuned by each method,
# killed in between, asked, measured, exported; the adapter's run shows as a job of OpenAI's form.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('tuning', "pgtrain.trainer_program = '" . real_trainer() . "'\npgtrain.trainer_threads = 1\npgtrain.row_storage_limit = '64kB'");
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

my $common = '"base_model":"tiny","context":64,"batch_size":4,"checkpoint_every":20,"held_out_fraction":0.1';
my %configs = (
	lora => [ $pairs, qq({$common,"steps":200,"learning_rate":0.02,"lora_rank":8,"lora_dropout":0.05}) ],
	qlora => [ $pairs, qq({$common,"steps":200,"learning_rate":0.02,"method":"qlora"}) ],
	full => [ $pairs, qq({$common,"epochs":16,"learning_rate":0.003,"method":"full"}) ],
	dpo => [ $choices, qq({$common,"steps":120,"learning_rate":0.005,"objective":"dpo"}) ]);
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
	# One that was done before it was killed says nothing, and its checkpoints are gone: then another one.
	my ($again, $attempts);
	for (1 .. 10)
	{
		$again = as_user($node, $submit);
		ok(wait_for($node, "select status = 'succeeded' or exists (select from pgtrain.checkpoints where run_id = $again) from pgtrain.training_runs where id = $again", 't', 60), "$method: again");
		kill 'KILL', trainer_pids($node);
		ok(wait_status($node, $again, 'succeeded/completed', 120), "$method: it succeeds");
		$attempts = $node->safe_psql('postgres', "select count(*) from pgtrain.run_attempts where run_id = $again and resumed_from_step > 0");
		last if $attempts > 0;
	}
	cmp_ok($attempts, '>', 0, "$method: though killed on the way, from its checkpoint");
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
	is($node->safe_psql('postgres', "select count(*) from pgtrain.evaluation_answers where evaluation_id = $evaluation and answer_before is not null and score_before is not null"),
		5, "$method: which its base model answered too");
}

# Evaluated on its dataset, a run finds what it measured itself before its first step and after its last: every sample is the same one.
my $same = as_user($node, q{select pgtrain.dataset_from_query('same', $$select 'What is 5?' as prompt, ' It is 55.' as completion from generate_series(1, 40)$$)});
my $same_choice = as_user($node, q{select pgtrain.dataset_from_query('same choice', $$select 'Say 5:' as prompt, ' yes' as chosen, ' no' as rejected from generate_series(1, 40)$$)});
my $measured = q("base_model":"tiny","context":64,"batch_size":4,"held_out_fraction":0.25,"precision":"fp32");
for my $case ([ lora => $same, '"steps":10,"learning_rate":0.01' ], [ full => $same, '"steps":10,"learning_rate":0.001,"method":"full","artifact_precision":"fp32"' ],
	[ dpo => $same_choice, '"steps":10,"learning_rate":0.001,"objective":"dpo"' ])
{
	my ($method, $dataset, $more) = @$case;
	my $run = as_user($node, "select pgtrain.submit_run(dataset_id => $dataset, config => '{$measured,$more}')");
	ok(wait_status($node, $run, 'succeeded/completed', 120), "$method: a run to measure");
	my $evaluation = as_user($node, "select pgtrain.evaluate($dataset, run_id => $run)");
	my @row = split /\|/, $node->safe_psql('postgres', "select r.loss_before, e.before_metrics->>'loss', r.loss_after, e.after_metrics->>'loss', e.before_metrics->>'samples', e.after_metrics->>'samples', e.improvement
		from pgtrain.evaluations e join pgtrain.training_runs r on r.id = e.run_id where e.id = $evaluation");
	cmp_ok(abs($row[1] / $row[0] - 1), '<', 1e-4, "$method: before it is what the run began with ($row[0], $row[1])");
	cmp_ok(abs($row[3] / $row[2] - 1), '<', 1e-4, "$method: after it is what the run ended with ($row[2], $row[3])");
	cmp_ok($row[3], '<', $row[1], "$method: which is less");
	is("$row[4] $row[5]", '40 40', "$method: both of all samples");
	cmp_ok(abs($row[6] - ($row[1] - $row[3]) / $row[1]), '<', 1e-9, "$method: improvement");
	next if $method ne 'dpo';
	is($node->safe_psql('postgres', "select before_metrics->>'reward_accuracy', before_metrics->>'reward_margin', after_metrics->>'reward_accuracy', (after_metrics->>'reward_margin')::float8 > 0, after_metrics->>'pairs',
		after_metrics->>'reward_margin_samples', after_metrics ? 'chosen_likelier', after_metrics ? 'perplexity' from pgtrain.evaluations where id = $evaluation"), '0|0|1|t|40|40|t|f', 'preferences have accuracy and margin of the reward');
}
my $untuned = as_user($node, "select pgtrain.evaluate($same_choice, model_id => $model)");
is($node->safe_psql('postgres', "select before_metrics is null, string_agg(k, ' ' order by k) from pgtrain.evaluations, jsonb_object_keys(after_metrics) k where id = $untuned group by 1"),
	't|chosen_likelier chosen_likelier_samples pairs samples', 'of an imported model it is told which answers it finds the likelier ones');
my $plain = as_user($node, "select pgtrain.evaluate(1, run_id => $scratch, max_samples => 20)");
is($node->safe_psql('postgres', "select before_metrics is null and improvement is null, after_metrics->>'samples' from pgtrain.evaluations where id = $plain"), 't|20', 'a model from scratch has nothing before it');

# A kept checkpoint is the model that a run which ends at its step makes.
for my $case ([ qlora => '"method":"qlora","learning_rate":0.02' ], [ full => '"method":"full","learning_rate":0.003,"artifact_precision":"fp32"' ], [ scratch => '' ])
{
	my ($method, $more) = @$case;
	my ($dataset, $config) = $method eq 'scratch' ? (1, '"size":"nano","learning_rate":0.01') : ($pairs, qq("base_model":"tiny","context":64,"batch_size":4,$more));
	$config .= ',"schedule":"constant","warmup_steps":0,"precision":"fp32","checkpoint_every":5,"keep_checkpoints":2';
	my ($short, $long) = map { as_user($node, "select pgtrain.submit_run(dataset_id => $dataset, config => '{$config,\"steps\":$_}', publish_as => '$method to $_')") } (10, 20);
	ok(wait_status($node, $_, 'succeeded/completed', 120), "$method: run $_") for $short, $long;
	is(as_user($node, "select string_agg(c->>'fine_tuned_model_checkpoint', ' ' order by c->'step_number') from jsonb_array_elements(pgtrain.fine_tuning_job_checkpoints($long)->'data') c"),
		"$method to 20:ckpt-step-10 $method to 20:ckpt-step-15", "$method: checkpoints by name");
	my ($of_short, $of_checkpoint, $of_long) = map { as_user($node, "select pgtrain.generate(model => '$_', prompt => 'What is 4', max_tokens => 24, temperature => 0)") }
		"$method to 10", "$method to 20:ckpt-step-10", "$method to 20";
	is($of_checkpoint, $of_short, "$method: the checkpoint writes what the shorter run writes");
	my @losses = map { $node->safe_psql('postgres', "select after_metrics->>'loss' from pgtrain.evaluations where id = $_") }
	  map { as_user($node, "select pgtrain.evaluate($dataset, model => '$_', max_samples => 40)") } "$method to 10", "$method to 20:ckpt-step-10", "$method to 20";
	is($losses[1], $losses[0], "$method: and has its loss");
	isnt($losses[1], $losses[2], "$method: not that of the whole run");
	# Published it is a whole model: with the bytes that the shorter run has, an adapter's merged.
	my $published = as_user($node, "select pgtrain.publish_checkpoint('$method to 20:ckpt-step-10', '$method kept', notes => 'half way')");
	as_user($node, "select count(*) from pgtrain.export_run($short, '{merged}')");
	my $same_files = $node->safe_psql('postgres', "select string_agg(f.name, ' ' order by f.name), bool_and(f.sha256 = a.sha256)
		from pgtrain.model_files f left join pgtrain.artifacts a on a.run_id = $short and a.name = f.name where f.model_id = $published");
	like($same_files, qr/^config\.json .*model\.safetensors.*\|t$/, "$method: published, it is the model of the shorter run");
	is($node->safe_psql('postgres', "select m.content_hash is not null, m.family = s.family, m.context_length = s.context_length, m.parameter_count = s.parameter_count, m.vocabulary_size = s.vocabulary_size, m.format
		from pgtrain.models m, pgtrain.models s where m.id = $published and s.name = '$method to 10'"), 't|t|t|t|t|safetensors', "$method: and is described as that");
	is(as_user($node, "select pgtrain.generate(model => '$method kept', prompt => 'What is 4', max_tokens => 24, temperature => 0)"), $of_short, "$method: and writes its text") if $method ne 'qlora';
}
nothing_left($node, 'after checkpoints');
my $for_llama = as_user($node, qq{select pgtrain.submit_run(dataset_id => $pairs, config => '{$common,"steps":2,"exports":"gguf_q4_k,gguf_q8_0"}')});
ok(wait_status($node, $for_llama, 'succeeded/completed', 120), 'a run that leaves GGUF files alone');
like(as_user($node, "select pgtrain.generate($for_llama, 'What is 4?', 12, temperature => 0)"), qr/\S/, 'answers');
my $of_llama = as_user($node, "select pgtrain.evaluate($pairs, run_id => $for_llama)");
is($node->safe_psql('postgres', "select after_metrics->>'samples' from pgtrain.evaluations where id = $of_llama"), 200, 'and is measured');

like(as_user($node, "select pgtrain.generate(model_id => $model, prompt => 'Question 3.', max_tokens => 12, temperature => 0)"), qr/\S/, 'the imported model answers by itself');

# Forms that a run did not make, afterwards: with the bytes that they have in a run that was asked for them.
my (undef, undef, $rounded) = $node->psql('postgres', "select pgtrain.export_run($for_llama, '{merged}')");
like($rounded, qr/left GGUF files alone/, 'nothing is made of rounded weights');
(my $asking = $configs{lora}[1]) =~ s/\}$/,"exports":"peft,merged,gguf_q8_0"}/;
my $asked = as_user($node, "select pgtrain.submit_run(dataset_id => $pairs, config => '$asking')");
ok(wait_status($node, $asked, 'succeeded/completed', 120), 'a run that exports more');
my $forms = "select string_agg(name || ' ' || sha256, ' ' order by name) from pgtrain.artifacts where run_id =";
is($node->safe_psql('postgres', "select content_hash is null from pgtrain.model_versions where run_id = $runs{lora} limit 1"), 't', 'an adapter alone is no base');
is(as_user($node, "select string_agg(name, ' ') from pgtrain.export_run($runs{lora}, '{merged,gguf_q8_0,peft}')"), 'config.json generation_config.json model-q8_0.gguf model.safetensors', 'further forms');
is($node->safe_psql('postgres', "$forms $runs{lora}"), $node->safe_psql('postgres', "$forms $asked"), 'are what the run would have made');
is(as_user($node, "select count(*) from pgtrain.export_run($runs{lora}, '{merged}')"), '0', 'and are made once');
nothing_left($node, 'after exports');
# The adapter of a run, as it was exported, comes back by its bytes, with whatever lies beside it, and stands as the run's own model does.
my $back = as_user($node, qq{
	select pgtrain.import_model(files => array_agg(a.name order by a.name), contents => array_agg(pgtrain.export_artifact($asked, a.name) order by a.name), name => 'back', base_model => 'tiny')
	  from pgtrain.artifacts a where a.run_id = $asked and a.name in ('adapter_model.safetensors', 'adapter_config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json')});
is($node->safe_psql('postgres', "select m.base_model_id = $model, m.content_hash is null, m.family = o.family, m.parameter_count = o.parameter_count, m.vocabulary_size = o.vocabulary_size, m.context_length = o.context_length, m.architecture = o.architecture
	from pgtrain.models m, pgtrain.model_versions o where m.id = $back and o.run_id = $runs{qlora} limit 1"), 't|t|t|t|t|t|t', 'an adapter that comes back is described as one of a run');
for my $prompt ('What is 4?', 'What is 7')
{
	is(as_user($node, "select pgtrain.generate(model_id => $back, prompt => '$prompt', max_tokens => 24, temperature => 0)"),
		as_user($node, "select pgtrain.generate($asked, '$prompt', 24, temperature => 0)"), "it writes the text of the run's model");
}
my @measured = map { as_user($node, "select pgtrain.evaluate($pairs, $_, questions => 3, max_tokens => 12)") } "model_id => $back", "run_id => $asked";
is($node->safe_psql('postgres', "select b.after_metrics = r.after_metrics, b.before_metrics = r.before_metrics, b.improvement = r.improvement, (b.after_metrics->>'loss')::float8 < (b.before_metrics->>'loss')::float8, b.model_name
	from pgtrain.evaluations b, pgtrain.evaluations r where b.id = $measured[0] and r.id = $measured[1]"), 't|t|t|t|back', 'its numbers, and those before it, are those of the run');
my @of_choices = map { as_user($node, "select pgtrain.evaluate($choices, $_)") } "model_id => $back", "run_id => $asked";
is($node->safe_psql('postgres', "select b.after_metrics = r.after_metrics, b.after_metrics ? 'reward_accuracy' from pgtrain.evaluations b, pgtrain.evaluations r where b.id = $of_choices[0] and r.id = $of_choices[1]"), 't|t', 'also on preferences');
my (undef, undef, $no_base) = $node->psql('postgres', "select pgtrain.import_model(array['adapter_config.json', 'adapter_model.safetensors'], array[pgtrain.export_artifact($runs{dpo}, 'adapter_config.json'), pgtrain.export_artifact($asked, 'adapter_model.safetensors')], 'nothing')");
like($no_base, qr/holds an adapter, not a model.*give that one's id or name here as base_model/s, 'without a base model it is refused');
is(as_user($node, "select string_agg(name, ' ') from pgtrain.export_model($back, '{merged,gguf_q8_0}')"), 'config.json generation_config.json model-q8_0.gguf model.safetensors tokenizer.json tokenizer_config.json', 'further forms of it');
is($node->safe_psql('postgres', "select bool_and(f.sha256 = a.sha256) from pgtrain.model_files f join pgtrain.artifacts a on a.run_id = $asked and a.name = f.name where f.model_id = $back and f.name in ('adapter_model.safetensors', 'model.safetensors', 'config.json', 'tokenizer.json')"), 't', 'are those of the run');
my $on_back = as_user($node, "select pgtrain.submit_run(dataset_id => $pairs, config => '{\"base_model\":\"back\",\"context\":64,\"batch_size\":4,\"steps\":2}')");
ok(wait_status($node, $on_back, 'succeeded/completed', 120), 'and a run starts from it') or diag(run_field($node, $on_back, "error_message || ' ' || coalesce(error_detail, '')"));
nothing_left($node, 'after an adapter came back');
my $next = as_user($node, "select pgtrain.submit_run(dataset_id => $pairs, config => '{\"base_model\":\"expert\",\"context\":64,\"batch_size\":4,\"steps\":2}')");
ok(wait_status($node, $next, 'succeeded/completed', 120), 'a merged adapter is a base model') or diag(run_field($node, $next, "error_message || ' ' || coalesce(error_detail, '')"));
my (undef, undef, $refusal) = $node->psql('postgres', "select pgtrain.export_run($runs{full}, '{peft}')");
like($refusal, qr/peft/, 'a whole model has no adapter');
(undef, undef, $refusal) = $node->psql('postgres', "select pgtrain.export_run($runs{full}, '{onnx}')");
like($refusal, qr/onnx/, 'unknown forms are named');
(undef, undef, $refusal) = $node->psql('postgres', "select pgtrain.export_run($runs{full}, array[array['merged', null]])");
like($refusal, qr/none of them null/, 'also in an array of arrays');

my $job = as_user($node, "select pgtrain.fine_tuning_job($runs{lora})");
like($job, qr/"object"\s*:\s*"fine_tuning.job"/, 'the run as a job');
like($job, qr/"status"\s*:\s*"succeeded"/, 'that has succeeded');
like(as_user($node, "select convert_from(pgtrain.export_artifact($runs{lora}, 'adapter_config.json'), 'UTF8')"), qr/"base_model_name_or_path"\s*:\s*"tiny"/, 'the adapter names its base');

my ($code, $out, $error) = $node->psql('postgres', "select pgtrain.delete_model($model)");
like($error, qr/need|used|adapter/i, 'a base model that adapters need is not removed');

done_testing();
