#!/usr/bin/env python3
"""PyTorch's side of the engine benchmark: the same model, weights, batches, optimiser and threads as step_loop.cpp, written as
PyTorch's users would: fused attention, fused AdamW, autocast for bf16. Prints what step_loop prints.
    torch_loop.py case CASE.safetensors TEXT_FILE LAYERS WIDTH HEADS CONTEXT BATCH BATCHES
    torch_loop.py train CASE.safetensors fp32|bf16|fp32-compiled|bf16-compiled THREADS STEPS
"""
import json
import math
import resource
import struct
import sys
import time

import numpy
import torch
import torch.nn.functional as functional

VOCABULARY = 257
EPSILON = 1e-5


def write_case(path, text_path, layers, width, heads, context, batch, batches):
    random = numpy.random.default_rng(7)
    tensors = {}

    def normal(name, *shape, deviation=0.02):
        tensors["transformer." + name] = random.normal(0, deviation, shape).astype("<f4")

    def constant(name, value, *shape):
        tensors["transformer." + name] = numpy.full(shape, value, "<f4")

    normal("wte.weight", VOCABULARY, width)
    normal("wpe.weight", context, width)
    for layer in range(layers):
        block = f"h.{layer}."
        for norm in ("ln_1", "ln_2"):
            constant(block + norm + ".weight", 1, width)
            constant(block + norm + ".bias", 0, width)
        for name, rows, columns in (("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width),
                                    ("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width)):
            normal(block + name + ".weight", rows, columns,
                   deviation=0.02 / math.sqrt(2 * layers) if name.endswith("c_proj") else 0.02)
            constant(block + name + ".bias", 0, columns)
    constant("ln_f.weight", 1, width)
    constant("ln_f.bias", 0, width)

    text = numpy.frombuffer(open(text_path, "rb").read(), numpy.uint8)
    begins = random.integers(0, len(text) - context - 1, (batches, batch))
    windows = text[begins[..., None] + numpy.arange(context + 1)].astype("<i4")
    tensors["tokens"], tensors["targets"] = windows[..., :-1].copy(), windows[..., 1:].copy()
    tensors["positions"] = numpy.broadcast_to(numpy.arange(context, dtype="<i4"), (batches, batch, context)).copy()
    tensors["segments"] = numpy.broadcast_to(numpy.arange(batch, dtype="<i4")[:, None], (batches, batch, context)).copy()

    header, offset = {"__metadata__": {key: str(value) for key, value in dict(
        layers=layers, width=width, heads=heads, context=context, vocabulary=VOCABULARY, batch=batch, batches=batches).items()}}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32" if tensor.dtype == numpy.dtype("<f4") else "I32", "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def read_case(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    sizes = {key: int(value) for key, value in header.pop("__metadata__").items()}
    types = {"F32": "<f4", "I32": "<i4"}
    return sizes, {name: torch.from_numpy(numpy.frombuffer(data[slice(*entry["data_offsets"])], types[entry["dtype"]])
                                          .reshape(entry["shape"]).copy()) for name, entry in header.items()}


class Gpt(torch.nn.Module):
    """GPT-2's architecture. Matrices are kept as PyTorch's Linear wants them ([out, in]), which is its fast way."""

    def __init__(self, sizes, tensors):
        super().__init__()
        self.layers, self.width, self.heads = sizes["layers"], sizes["width"], sizes["heads"]
        self.weights = torch.nn.ParameterDict()
        for name, tensor in tensors.items():
            if name.startswith("transformer."):
                is_matrix = ".c_" in name and tensor.ndim == 2
                self.weights[self.key(name[12:])] = torch.nn.Parameter(tensor.t().contiguous() if is_matrix else tensor)

    @staticmethod
    def key(name):
        return name.replace(".", "/")

    def norm(self, x, name):
        return functional.layer_norm(x, (self.width,), self.weights[self.key(name + ".weight")], self.weights[self.key(name + ".bias")], EPSILON)

    def linear(self, x, name):
        return functional.linear(x, self.weights[self.key(name + ".weight")], self.weights[self.key(name + ".bias")])

    def forward(self, tokens, targets):
        batch, length = tokens.shape
        table = self.weights[self.key("wte.weight")]
        x = functional.embedding(tokens, table) + self.weights[self.key("wpe.weight")][:length]
        for layer in range(self.layers):
            block = f"h.{layer}."
            q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2)
                       for part in self.linear(self.norm(x, block + "ln_1"), block + "attn.c_attn").split(self.width, 2))
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.linear(attended.transpose(1, 2).reshape(batch, length, self.width), block + "attn.c_proj")
            inner = functional.gelu(self.linear(self.norm(x, block + "ln_2"), block + "mlp.c_fc"), approximate="tanh")
            x = x + self.linear(inner, block + "mlp.c_proj")
        logits = functional.linear(self.norm(x, "ln_f"), table)
        return functional.cross_entropy(logits.float().view(-1, VOCABULARY), targets.reshape(-1).long())


def train(path, mode, threads, steps):
    torch.set_num_threads(threads)
    sizes, tensors = read_case(path)
    model = Gpt(sizes, tensors)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    call = torch.compile(model) if mode.endswith("compiled") else model
    for step in range(steps):
        begin, processor_begin = time.perf_counter(), time.process_time()
        which = step % sizes["batches"]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode.startswith("bf16")):
            loss = call(tensors["tokens"][which], tensors["targets"][which])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"{step} {loss.item():.9g} {time.perf_counter() - begin:.6f} {time.process_time() - processor_begin:.6f}", flush=True)
    print("parameters", sum(p.numel() for p in model.parameters()))
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    if len(sys.argv) == 10 and sys.argv[1] == "case":
        write_case(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    elif len(sys.argv) == 6 and sys.argv[1] == "train":
        train(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(__doc__)
