# docs/fine-tuning.md, word for word with the real model: its SQL in one psql, then its Python, which hands the adapter to PEFT. Only what
# a reader would change is changed: the path of the model, the watching, and the base model, which comes from the imported file instead of a hub.
use strict;
use warnings;
use Cwd qw(getcwd);
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $python = $ENV{PGTRAIN_PYTHON} // 'python3';
my $source = $ENV{PGTRAIN_TEST_GGUF};
plan skip_all => 'PGTRAIN_TEST_GGUF names no model' unless $source;

my $node = start_server('page', "pgtrain.trainer_program = '" . real_trainer() . "'\npgtrain.cpu_workers = 1");
my $page = slurp_file("$FindBin::RealBin/../docs/fine-tuning.md");
my $work = $PostgreSQL::Test::Utils::tmp_check . '/page';
mkdir $work or die "$work: $!";

# The word in the text must be there: a page that changes is noticed.
sub put
{
	my ($text, $old, $new) = @_;
	ok(index($$text, $old) >= 0, "the page says $old");
	$$text =~ s/\Q$old\E/$new/g;
}

my $sql = join("\n", $page =~ /^```sql\n(.*?)^```/msg);
my ($folder, $name) = $source =~ m{\A(.*)/([^/]+)\z};
put(\$sql, '/srv/models/SmolLM2-135M-Instruct.gguf', $source);
put(\$sql, "'/srv/models'", "'$folder'");
put(\$sql, '\watch 2', ';');
put(\$sql, "timeout => '15 minutes'", "timeout => '1 hour'");
# A reader is slower than the reload; a new session has the folder when all have been told.
put(\$sql, 'select pg_reload_conf();', "select pg_reload_conf();\n\\! until [ \"\$(psql -XAtd '" . $node->connstr('postgres') . "' -c 'show pgtrain.import_folder')\" = '$folder' ]; do sleep 0.1; done");
my ($out, $err) = ('', '');
{
	my $here = getcwd();
	chdir $work or die "$work: $!";
	my $done = IPC::Run::run([ 'psql', '-X', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ], '<', \"$sql\n\\echo run is :run token is :session_token\n",
		'>', \$out, '2>', \$err, IPC::Run::timeout(4000));
	chdir $here or die "$here: $!";
	ok($done, 'its SQL runs from the first line to the last') or diag("$out\n$err");
}
unlike($err, qr/ERROR|WARNING/, 'without a complaint');
my ($run, $token) = $out =~ /^run is (\d+) token is (\S+)$/m;
is($node->safe_psql('postgres', "select loss_after < 0.7 * loss_before and peak_bytes between 0.95 * peak_bytes_planned and peak_bytes_planned from pgtrain.training_runs where id = $run"),
	't', 'the held-out loss fell by 30 %, the memory was as planned within 5 %');
is($node->safe_psql('postgres', "select bool_and((after_metrics->>'loss')::float8 < (before_metrics->>'loss')::float8) from pgtrain.evaluations where run_id = $run"), 't', 'the evaluation says so too');
my $bytes = $node->safe_psql('postgres', "select bytes from pgtrain.artifacts where run_id = $run and name = 'adapter_model.safetensors'");
is(-s "$work/adapter_model.safetensors", $bytes, 'psql has written the adapter');
is($node->safe_psql('postgres', "select count(*) from pgtrain.artifacts where run_id = $run and name in ('model.safetensors', 'model-q8_0.gguf')"), '2', 'and the other forms were made');

my ($block) = $page =~ /^```python\n(.*?)^```/ms;
put(\$block, 'AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")', 'base_model()');
SKIP:
{
	skip 'psycopg, PEFT, transformers or gguf are not installed: make deps', 2 if system("$python -c 'import psycopg, peft, transformers, gguf' >/dev/null 2>&1") != 0;
	# What the hub would give: the imported file's weights under transformers' names; GGUF has the halves of rotated rows interleaved.
	my $program = <<'PYTHON' . $block . <<'PYTHON';
import os, sys, torch
address, token, run, source = sys.argv[1:]
os.chdir(sys.argv[0].rsplit("/", 1)[0])
def base_model():
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM
    file = gguf.GGUFReader(source)
    key = lambda name: file.fields["llama." + name].parts[-1][0].item()
    heads, groups = key("attention.head_count"), key("attention.head_count_kv")
    names = {"token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    weights = {}
    for tensor in file.tensors:
        parts = tensor.name.split(".")
        value = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        if parts[-2] in ("attn_q", "attn_k"):
            value = value.view(heads if parts[-2] == "attn_q" else groups, -1, 2, value.shape[-1]).transpose(1, 2).reshape(value.shape)
        weights["model." + (f"layers.{parts[1]}." if parts[0] == "blk" else "") + names[parts[-2]] + ".weight"] = value
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(weights["lm_head.weight"]), hidden_size=key("embedding_length"), intermediate_size=key("feed_forward_length"), num_hidden_layers=key("block_count"),
        num_attention_heads=heads, num_key_value_heads=groups, rope_theta=key("rope.freq_base"), rms_norm_eps=key("attention.layer_norm_rms_epsilon"), tie_word_embeddings=True))
    model.load_state_dict(weights)
    return model
PYTHON

# The loss of one answer that was in the data, with the adapter and without it.
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder)
with psycopg.connect(address) as connection:
    (answer,) = connection.execute("select short_desc from pg_settings where name = 'work_mem'").fetchone()
question = "<|im_start|>user\nWhat does the PostgreSQL setting work_mem do?<|im_end|>\n<|im_start|>assistant\n"
prompt, whole = (torch.tensor([tokenizer(text)["input_ids"]]) for text in (question, question + answer + "<|im_end|>"))
labels = whole.clone()
labels[:, :prompt.shape[1]] = -100
def loss():
    with torch.no_grad():
        return model.eval()(whole, labels=labels).loss.item()
with_it = loss()
with model.disable_adapter():
    print("losses", with_it, loss())
PYTHON
	append_to_file("$work/page.py", $program);
	($out, $err) = ('', '');
	ok(IPC::Run::run([ $python, "$work/page.py", $node->connstr('postgres'), $token, $run, $source ], '>', \$out, '2>', \$err, IPC::Run::timeout(300)), 'its Python runs') or diag("$out$err");
	my ($with, $without) = $out =~ /^losses (\S+) (\S+)$/m;
	cmp_ok($with // 99, '<', 0.7 * ($without // 0), 'and the adapter has taught PEFT the answer') or diag("$out$err");
}
$node->stop;
done_testing();
