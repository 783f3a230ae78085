# The real trainer and runs with a validation dataset: measured on the whole of it before, during and after, as evaluate() measures it;
# trained as if it were not there; killed, paused or tried again they come to the same bytes and the same numbers. And that a run says
# so which was to hold samples out and has only one.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('validation', "pgtrain.trainer_program = '" . real_trainer() . "'\npgtrain.trainer_threads = 1\npgtrain.row_storage_limit = '64kB'");
ok(wait_for($node, "select count(*) from pgtrain_private.worker_states() where kind = 'device' and state = 'idle'", '1'), 'a device worker waits');

sub made { my ($name, $query) = @_; return as_user($node, "select pgtrain.dataset_from_query('$name', \$\$$query\$\$)") }
sub started { my ($data, $config, $more) = @_; return as_user($node, "select pgtrain.submit_run(dataset_id => $data, config => '{$config}'" . ($more // '') . ')') }
sub succeeds
{
	my ($run, $name) = @_;
	ok(wait_status($node, $run, 'succeeded/completed', 120), "$name: succeeds") or diag(run_field($node, $run, "error_message || ' ' || coalesce(error_detail, '')"));
	return $run;
}
# What a run leaves: its weights, and what it measured on the way, of each step the last time.
sub outcome
{
	my ($run) = @_;
	return $node->safe_psql('postgres', "select string_agg(a.sha256, ' ' order by a.name) from pgtrain.artifacts a where a.run_id = $run and a.name like '%model.safetensors'") . ' ' . $node->safe_psql('postgres',
		"select string_agg(m.step || ': ' || m.held_out_loss, ', ' order by m.step) from (select distinct on (step) * from pgtrain.run_metrics where run_id = $run and held_out_loss is not null order by step, attempt desc) m");
}
sub weights { my ($weights) = split / /, outcome(@_); return $weights }

my $texts = made('texts', "select 'Question ' || g % 9 || '. Answer ' || (g % 9) * 11 || '.' from generate_series(1, 150) g");
my $base = succeeds(started($texts, '"size":"nano","steps":60,"learning_rate":0.01'), 'a base model');
as_user($node, qq{select pgtrain.import_model(files => array_agg(a.name order by a.name), contents => array_agg(pgtrain.export_artifact($base, a.name) order by a.name), name => 'tiny')
	  from pgtrain.artifacts a where a.run_id = $base});

my $pairs = made('pairs', "select 'What is ' || g % 9 || '?' as prompt, ' It is ' || (g % 9) * 11 || '.' as completion from generate_series(1, 90) g");
sub chat { my ($asked, $answered) = @_; return "jsonb_build_array(jsonb_build_object('role', 'user', 'content', $asked), jsonb_build_object('role', 'assistant', 'content', $answered)) as messages" }
my $chats = made('chats', 'select ' . chat("'Is ' || g % 9 || ' odd?'", "case when g % 9 % 2 = 1 then 'yes' else 'no' end") . ' from generate_series(1, 90) g');
my $choices = made('choices', "select 'Say ' || g % 9 || ':' as prompt, ' yes' as chosen, ' no' as rejected from generate_series(1, 60) g");
# More of them than 16 micro-batches hold, which an evaluation takes of held-out samples.
my $more_texts = made('more texts', "select 'Question ' || g % 9 || '. Answer unknown.' from generate_series(1, 170) g");
my $more_pairs = made('more pairs', "select 'What is ' || g % 9 || ' now?' as prompt, ' It is still ' || (g % 9) * 11 || '.' as completion from generate_series(1, 200) g");
my $more_chats = made('more chats', 'select ' . chat("'Is ' || g % 7 || ' even?'", "case when g % 7 % 2 = 1 then 'no' else 'yes' end") . ' from generate_series(1, 130) g');
my $more_choices = made('more choices', "select 'Say ' || g % 7 || ' now:' as prompt, ' yes' as chosen, ' never' as rejected from generate_series(1, 130) g");

my $often = '"steps":120,"checkpoint_every":20,"keep_checkpoints":3,"precision":"fp32"';
my $tuned = qq("base_model":"tiny","context":64,"batch_size":4,$often);
for my $case (
	[ scratch => $texts, $more_texts, 170, qq("size":"nano","context":32,"batch_size":4,"tokenizer":"bpe","vocab_size":280,"learning_rate":0.005,$often) ],
	[ lora => $pairs, $more_pairs, 200, qq($tuned,"learning_rate":0.02,"lora_dropout":0.05) ],
	[ chats => $chats, $more_chats, 130, qq($tuned,"learning_rate":0.02,"chat_template":"{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}") ],
	[ full => $pairs, $more_pairs, 200, qq($tuned,"method":"full","learning_rate":0.002,"artifact_precision":"fp32") ],
	[ qlora => $pairs, $more_pairs, 200, qq($tuned,"method":"qlora","learning_rate":0.02) ],
	[ dpo => $choices, $more_choices, 130, qq($tuned,"objective":"dpo","learning_rate":0.005) ])
{
	my ($name, $data, $valid, $count, $config) = @$case;
	my $validated = "$config,\"evaluate_every\":20,\"keep_best\":true";
	my $run = succeeds(started($data, $validated, ", validation_dataset_id => $valid"), $name);
	my $alone = succeeds(started($data, "$config,\"held_out_fraction\":0"), "$name without");
	is(weights($run), weights($alone), "$name: none of its own samples are held out, and nothing else is learned");
	is(run_field($node, $run, "tokens || ' of ' || planned_tokens"), run_field($node, $alone, "tokens || ' of ' || planned_tokens"), "$name: only what is trained on is counted");
	is($node->safe_psql('postgres', "select d.data->>'held_out_samples', d.data->>'samples' = (select sample_count::text from pgtrain.datasets where id = $data),
		(select string_agg(step::text, ' ' order by step) from pgtrain.run_metrics where run_id = $run and held_out_loss is not null)
		from pgtrain.training_statuses d where d.training_run_id = $run and d.status = 'data_read'"), "$count|t|0 20 40 60 80 100 120", "$name: measured on all of them at each evaluation");
	is($node->safe_psql('postgres', "select dataset_id, before_metrics->>'samples', after_metrics->>'samples' from pgtrain.evaluations where run_id = $run and evaluation_type = 'held_out_loss'"),
		"$valid|$count|$count", "$name: and its evaluation says so");
	my $best = $node->safe_psql('postgres', "select step from pgtrain.run_metrics where run_id = $run and step between 20 and 100 order by held_out_loss, step limit 1");
	is($node->safe_psql('postgres', "select count(*) from pgtrain.checkpoints where run_id = $run and step = $best"), '1', "$name: the checkpoint that is best on it is kept");
	if ($name ne 'qlora')    # whose base evaluate() asks unquantised
	{
		my $evaluation = as_user($node, "select pgtrain.evaluate($valid, run_id => $run)");
		my ($said, $found) = split /\|/, $node->safe_psql('postgres', "select r.loss_after, e.after_metrics->>'loss' from pgtrain.evaluations e join pgtrain.training_runs r on r.id = e.run_id where e.id = $evaluation");
		cmp_ok(abs($found / $said - 1), '<', 1e-4, "$name: its held-out loss is what evaluate() finds ($said, $found)");
	}
	# One that was done before it was killed says nothing: then another one.
	my ($again, $attempts);
	for (1 .. 10)
	{
		$again = started($data, $validated, ", validation_dataset_id => $valid");
		ok(wait_for($node, "select count(*) > 0 from pgtrain.checkpoints where run_id = $again", 't', 60), "$name: again");
		kill 'KILL', trainer_pids($node);
		succeeds($again, "$name, killed");
		$attempts = $node->safe_psql('postgres', "select count(*) from pgtrain.run_attempts where run_id = $again and resumed_from_step > 0");
		last if $attempts > 0;
	}
	cmp_ok($attempts, '>', 0, "$name: from its checkpoint");
	is(outcome($again), outcome($run), "$name: with the same bytes and the same held-out losses");
}
nothing_left($node, 'after runs that were validated');

# Paused and resumed, cancelled and tried again: its validation data is there each time.
my $config = qq($tuned,"learning_rate":0.02,"lora_dropout":0.05,"evaluate_every":20,"keep_best":true);
my $whole = succeeds(started($pairs, $config, ", validation_dataset_id => $more_pairs"), 'a whole run');
for my $act ([ pause => 'paused/paused_by_user', 'resume' ], [ cancel => 'cancelled/cancelled_by_user', 'retry' ])
{
	my ($stop, $status, $go) = @$act;
	my ($run, $is_stopped) = (0, 0);
	for (1 .. 10)
	{
		$run = started($pairs, $config, ", validation_dataset_id => $more_pairs");
		ok(wait_for($node, "select count(*) > 0 from pgtrain.checkpoints where run_id = $run", 't', 60), "$stop: under way");
		my ($rc) = $node->psql('postgres', "select pgtrain.authenticate((select session_token from pgtrain.login('ann', 'correct horse battery')), true); select pgtrain.${stop}_run($run)");
		$is_stopped = $rc == 0 && wait_status($node, $run, "($status|succeeded/completed)", 60) && run_field($node, $run, "status = '" . ($stop eq 'pause' ? 'paused' : 'cancelled') . "'") eq 't';
		last if $is_stopped;
	}
	ok($is_stopped, "$stop: left on the way");
	as_user($node, "select pgtrain.${go}_run($run)");
	succeeds($run, "$stop and $go");
	is(outcome($run), outcome($whole), "$stop and $go: with the same bytes and the same held-out losses");
}

# What is wrong with it is told as such.
my $behind = made('behind', "select repeat('far ', 40) as prompt, 'away' as completion");
my $failed = started($pairs, qq($tuned,"long_samples":"truncate"), ", validation_dataset_id => $behind");
ok(wait_status($node, $failed, 'failed/data_invalid', 60), 'answers behind the context are nothing to measure');
like(run_field($node, $failed, 'error_message'), qr/^validation data: within the context of 64 tokens no sample/, 'and it says where');
is(as_user($node, "select pgtrain.fine_tuning_job($failed)->'error'->>'param'"), 'validation_file', 'to programs too');

my $gone = made('gone', "select 'Where?' as prompt, 'away' as completion");
my $late = started($pairs, $tuned, ", validation_dataset_id => $gone, start_at => now() + interval '1 hour'");
as_user($node, "select pgtrain.delete_dataset($gone, force => true)");
$node->safe_psql('postgres', "update pgtrain_private.run_queue set available_at = now() where run_id = $late");
ok(wait_status($node, $late, 'failed/data_invalid', 60), 'a dataset that was forced away fails the run');
is(as_user($node, "select pgtrain.fine_tuning_job($late)->'error'->>'param'"), 'validation_file', 'and is named as what it was');

# One sample alone is trained on: there is nothing to measure, and the run says so.
my $single = made('single', "select 'What is 1?' as prompt, ' It is 11.' as completion");
my $silent = succeeds(started($single, '"base_model":"tiny","context":64,"batch_size":1,"steps":2,"held_out_fraction":0'), 'one sample, none to be held out');
my $warned = succeeds(started($single, '"base_model":"tiny","context":64,"batch_size":1,"steps":2'), 'one sample');
my $warnings = "select count(*) from pgtrain.training_statuses where status = 'log' and data->>'level' = 'warning' and data->>'text' like '%nothing is held out%' and training_run_id =";
is($node->safe_psql('postgres', "$warnings $silent"), '0', 'nothing to say');
is($node->safe_psql('postgres', "$warnings $warned"), '1', 'says that nothing is held out');
is(as_user($node, "select e->>'level' from jsonb_array_elements(pgtrain.fine_tuning_job_events($warned, page_size => 100)->'data') e where e->>'message' like '%nothing is held out%'"), 'warn', 'in its events too');
is(run_field($node, $warned, 'loss_after is null'), 't', 'and has no evaluation');
nothing_left($node, 'at the end');

done_testing();
