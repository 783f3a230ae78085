# Adapters that PEFT has saved, on small random models, brought in by SQL from their folders: the loss of each on texts and the text it
# writes are what PEFT computes, and so is the loss of the whole model that is made of it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $python = $ENV{PGTRAIN_PYTHON} // 'python3';
plan skip_all => 'torch, PEFT, transformers or tokenizers are not installed: make deps' if system("$python -c 'import torch, peft, transformers, tokenizers' >/dev/null 2>&1") != 0;

my $work = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $work;
append_to_file("$work/make.py", <<'PYTHON');
import json, os, sys, torch
import peft, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
os.chdir(sys.argv[1])
torch.manual_seed(7)
torch.set_num_threads(1)
TEXTS = ["The quick brown fox.", "A lazy dog sleeps in the sun.", "12 + 30 = 42", "naïve café"]
sizes = dict(bos_token_id=256, eos_token_id=256, vocab_size=257, initializer_range=0.3)
llama = transformers.LlamaConfig(**sizes, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False)
gpt2 = transformers.GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens(["<|endoftext|>"])

def measure(model):
    total, count = 0.0, 0
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([tokenizer.encode(text).ids + [256]])
            scores = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
            total -= scores.gather(1, ids[0, 1:, None]).sum().item()
            count += ids.shape[1] - 1
        # Texts of GPT-2 begin as its own did.
        ids = torch.tensor([([256] if model.config.model_type == "gpt2" else []) + tokenizer.encode("The quick").ids])
        begin = ids.shape[1]
        for _ in range(24):
            best = model(ids).logits[0, -1].argmax()
            if best == 256:
                break
            ids = torch.cat([ids, best[None, None]], 1)
    return {"loss": total / count, "text": tokenizer.decode(ids[0, begin:].tolist())}

def draw(model):
    """Adapters that have begun to learn."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
        elif "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)

found = {"texts": TEXTS}
adapters = {
    "llama": {"lora": dict(r=4, lora_alpha=12, target_modules="all-linear", lora_dropout=0.1), "rslora": dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"]),
              "dora": dict(r=3, lora_alpha=6, use_dora=True, target_modules=["down_proj", "k_proj"]), "saved": dict(r=2, target_modules=["o_proj"], modules_to_save=["lm_head"]),
              "patterns": dict(r=4, lora_alpha=8, target_modules="all-linear", rank_pattern={"q_proj": 7}, alpha_pattern={"layers.1.self_attn.v_proj": 3})},
    "gpt2": {"conv": dict(r=4, lora_alpha=12, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)}}
for base, config in ("llama", llama), ("gpt2", gpt2):
    model = transformers.AutoModelForCausalLM.from_config(config)
    # What it writes is letters, so that it can be compared as text.
    for token, i in vocabulary.items():
        if not "a" <= token <= "z":
            model.get_output_embeddings().weight.data[i] = 0
    model.save_pretrained(base, safe_serialization=True)
    tokenizer.save(f"{base}/tokenizer.json")
    load = lambda: transformers.AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float32).eval()
    found[base] = measure(load())
    for name, given in adapters[base].items():
        model = peft.get_peft_model(load(), peft.LoraConfig(task_type="CAUSAL_LM", **given)).eval()
        draw(model)
        model.save_pretrained(name)
        found[name] = measure(peft.PeftModel.from_pretrained(load(), name).eval())
with open("found.json", "w") as file:
    json.dump(found, file)
PYTHON
my ($out, $err) = ('', '');
ok(IPC::Run::run([ $python, "$work/make.py", $work ], '>', \$out, '2>', \$err, IPC::Run::timeout(300)), 'PEFT makes adapters') or BAIL_OUT("$out$err");
chmod 0755, glob("$work/*/");
chmod 0644, glob("$work/*/*"), "$work/found.json";

my $node = start_server('peft', "pgtrain.trainer_program = '" . real_trainer() . "'\npgtrain.cpu_workers = 0\npgtrain.import_folder = '$work'");
$node->safe_psql('postgres', "create table found as select pg_read_file('$work/found.json')::jsonb as it");
$node->safe_psql('postgres', 'grant select on found to public');
my $data = as_user($node, q{select pgtrain.create_dataset('texts')});
as_user($node, "select pgtrain.append_samples($data, array(select jsonb_array_elements_text(it->'texts') from found))");

sub found { my ($name, $field) = @_; return $node->safe_psql('postgres', "select it->'$name'->>'$field' from found") }
# Before and after, and the text.
sub measured
{
	my ($model) = @_;
	my $evaluation = as_user($node, "select pgtrain.evaluate($data, model => '$model')");
	my @losses = split /\|/, $node->safe_psql('postgres', "select coalesce(before_metrics->>'loss', ''), after_metrics->>'loss' from pgtrain.evaluations where id = $evaluation");
	return (@losses, as_user($node, "select pgtrain.generate(model => '$model', prompt => 'The quick', max_tokens => 24, temperature => 0)"));
}
sub is_near { my ($ours, $theirs, $what, $bar) = @_; return cmp_ok(abs($ours / $theirs - 1), '<', $bar // 1e-5, "$what ($ours, $theirs)") }

for my $case ([ llama => qw(lora rslora dora saved patterns) ], [ gpt2 => 'conv' ])
{
	my ($base, @adapters) = @$case;
	as_user($node, "select pgtrain.import_model('$base', '$base')");
	my (undef, $loss, $text) = measured($base);
	is_near($loss, found($base, 'loss'), "$base: the loss of transformers");
	is($text, found($base, 'text'), "$base: the text of transformers");
	for my $adapter (@adapters)
	{
		as_user($node, "select pgtrain.import_model('$adapter', '$adapter', base_model => '$base')");
		my ($before, $after, $written) = measured($adapter);
		is_near($before, found($base, 'loss'), "$adapter: before it is the base model's loss");
		is_near($after, found($adapter, 'loss'), "$adapter: its loss is PEFT's");
		cmp_ok(abs($after - $before), '>', 0.01, "$adapter: which is another");
		is($written, found($adapter, 'text'), "$adapter: its text is PEFT's");
		as_user($node, "select count(*) from pgtrain.models m, pgtrain.export_model(m.id, '{merged,gguf_f16}') where m.name = '$adapter'");
		as_user($node, "select pgtrain.import_model(array_agg(f.name), array_agg(pgtrain.export_model_file(f.model_id, f.name)), '$adapter merged')
			from pgtrain.model_files f join pgtrain.models m on m.id = f.model_id where m.name = '$adapter' and f.name !~ 'adapter|gguf'");
		my (undef, $merged) = measured("$adapter merged");
		is_near($merged, found($adapter, 'loss'), "$adapter: merged, in bf16, it has that loss", 3e-3);
		like(as_user($node, "select pgtrain.import_model(pgtrain.export_model_file(m.id, 'model-f16.gguf'), '$adapter gguf') from pgtrain.models m where m.name = '$adapter'"), qr/^\d+$/, "$adapter: its GGUF file reads");
	}
}
nothing_left($node, 'after all');
$node->stop;
done_testing();
