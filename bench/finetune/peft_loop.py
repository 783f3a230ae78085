#!/usr/bin/env python3
"""The peers' side of the fine-tuning benchmark: the same model, adapters, batches, optimiser and threads as step_loop.cpp, by
transformers and PEFT as their users would. Prints what step_loop prints, without "planned".
    peft_loop.py case CASE smollm2|gpt2 BATCH LENGTH BATCHES
    peft_loop.py train CASE fp32|bf16|autocast THREADS STEPS
fp32: everything in float. bf16: weights, activations and what is trained in bf16. autocast: float weights, bf16 products.
"""
import json
import os
import resource
import struct
import sys
import time

import numpy
import torch
import transformers

RANK, ALPHA = 16, 32


def write_safetensors(path, tensors, metadata):
    header, offset = {"__metadata__": {key: str(value) for key, value in metadata.items()}}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "I32", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def make_case(folder, shapes, batch, length, batches):
    """Weights by chance: the work is the same as with learnt ones."""
    torch.manual_seed(7)
    if shapes == "smollm2":
        config = transformers.LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
        model = transformers.LlamaForCausalLM(config)
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    model.save_pretrained(folder)
    if shapes == "smollm2":
        adapted(model).save_pretrained(os.path.join(folder, "adapter"))
    random = numpy.random.default_rng(11)
    tokens = random.integers(3, model.config.vocab_size, (batches, batch, length + 1)).astype("<i4")
    write_safetensors(os.path.join(folder, "batches.safetensors"), {
        "tokens": tokens[..., :-1].copy(), "targets": tokens[..., 1:].copy(),
        "positions": numpy.broadcast_to(numpy.arange(length, dtype="<i4"), (batches, batch, length)).copy(),
        "segments": numpy.broadcast_to(numpy.arange(batch, dtype="<i4")[:, None], (batches, batch, length)).copy(),
    }, dict(batch=batch, length=length, batches=batches, rank=RANK, alpha=ALPHA))


def adapted(model):
    import peft
    return peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))


def read_batches(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__")
    return {name: torch.from_numpy(numpy.frombuffer(data[slice(*entry["data_offsets"])], "<i4").reshape(entry["shape"]).astype(numpy.int64))
            for name, entry in header.items()}


def train(folder, mode, threads, steps):
    torch.set_num_threads(threads)
    batches = read_batches(os.path.join(folder, "batches.safetensors"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if mode == "bf16" else torch.float32)
    if os.path.exists(os.path.join(folder, "adapter")):
        import peft
        model = peft.PeftModel.from_pretrained(model, os.path.join(folder, "adapter"), is_trainable=True, autocast_adapter_dtype=mode != "bf16")
    model.config.use_cache = False
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    for step in range(steps):
        begin, processor_begin = time.perf_counter(), time.process_time()
        which = step % len(batches["tokens"])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast"):
            logits = model(input_ids=batches["tokens"][which]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().view(-1, logits.shape[-1]), batches["targets"][which].view(-1))
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"{step} {loss.item():.9g} {time.perf_counter() - begin:.6f} {time.process_time() - processor_begin:.6f}", flush=True)
    print("parameters", sum(p.numel() for p in trained))
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    if len(sys.argv) == 7 and sys.argv[1] == "case" and sys.argv[3] in ("smollm2", "gpt2"):
        make_case(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    elif len(sys.argv) == 6 and sys.argv[1] == "train" and sys.argv[3] in ("fp32", "bf16", "autocast"):
        train(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(__doc__)
