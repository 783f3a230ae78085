#!/usr/bin/env python3
"""llm.c's trainer for CPUs on the benchmark's GPT-2: the same weights, batch, length and threads as step_loop.cpp, in float, the only
type that it has. Prints what peft_loop.py prints.
    llmc_loop.py LLMC CASE THREADS STEPS
LLMC is a checkout of karpathy/llm.c. Its train_gpt2.c is compiled with its Makefile's flags for another batch and length than the ones
that are written in it; it takes the batches in an order of its own, and its step has no clipping. Processor time is not told by step:
what the program took in all, its measurement of the loss before the first step left out of neither, over the steps.
"""
import json
import os
import re
import resource
import struct
import subprocess
import sys

import numpy


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "I32": "<i4"}
    return {name: numpy.frombuffer(data[slice(*entry["data_offsets"])], types[entry["dtype"]]).reshape(entry["shape"]) for name, entry in header.items()}


def write_checkpoint(path, case):
    """Header, then every kind of parameter with its layers side by side; matrices are [out, in], the vocabulary is filled up with zeros."""
    weights = {name.removeprefix("transformer."): value for name, value in read_safetensors(f"{case}/model.safetensors").items()}
    vocabulary, width = weights["wte.weight"].shape
    layers = sum(re.fullmatch(r"h\.\d+\.ln_1\.weight", name) is not None for name in weights)
    padded = -(-vocabulary // 128) * 128
    header = numpy.zeros(256, "<i4")
    header[:8] = 20240326, 3, len(weights["wpe.weight"]), vocabulary, layers, width // 64, width, padded
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(numpy.pad(weights["wte.weight"], ((0, padded - vocabulary), (0, 0))).tobytes())
        file.write(weights["wpe.weight"].tobytes())
        for kind in ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias",
                     "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"):
            for layer in range(layers):
                file.write(weights[f"h.{layer}.{kind}"].T.tobytes())
        for name in ("ln_f.weight", "ln_f.bias"):
            file.write(weights[name].tobytes())


def write_tokens(path, tokens):
    header = numpy.zeros(256, "<i4")
    header[:3] = 20240520, 1, tokens.size
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(header.tobytes() + tokens.astype("<u2").tobytes())


def build(llmc, folder, batch, length):
    with open(f"{llmc}/train_gpt2.c", encoding="utf-8") as file:
        source = file.read()
    for name, value in {"B": batch, "T": length}.items():
        source, count = re.subn(rf"int {name} = \d+;", f"int {name} = {value};", source)
        if count != 1:
            sys.exit(f"{llmc}/train_gpt2.c says its {name} otherwise than in the versions known here")
    with open(f"{folder}/train_gpt2.c", "w", encoding="utf-8") as file:
        file.write(source)
    subprocess.run(["cc", "-Ofast", "-march=native", "-fopenmp", "-DOMP", "-Wno-unused-result", "-Wno-ignored-pragmas", "-Wno-unknown-attributes", f"-I{llmc}", "-o", f"{folder}/train_gpt2",
                    f"{folder}/train_gpt2.c", "-lm"], check=True)


def main(llmc, case, threads, steps):
    folder = f"{case}/llmc"
    tokens = read_safetensors(f"{case}/batches.safetensors")["tokens"]
    if not os.path.exists(f"{folder}/train_gpt2"):
        os.makedirs(folder, exist_ok=True)
        write_checkpoint(f"{folder}/gpt2_124M.bin", case)
        for part in ("train", "val"):
            write_tokens(f"{folder}/dev/data/tinyshakespeare/tiny_shakespeare_{part}.bin", tokens.reshape(-1))
        build(llmc, folder, *tokens.shape[1:])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = subprocess.Popen(["stdbuf", "-oL", "./train_gpt2"], cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    told = []
    for line in program.stdout:
        found = re.fullmatch(r"step (\d+): train loss (\S+) \(took (\S+) ms\)\s*", line)
        if found:
            told.append((int(found[1]), float(found[2]), float(found[3]) / 1000))
            if len(told) == steps:
                break
    program.kill()
    program.wait()
    if len(told) < steps:
        sys.exit("llm.c's program ended before its time")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for step, loss, seconds in told:
        print(f"{step} {loss:.9g} {seconds:.6f} {(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime) / steps:.6f}")
    print("peak", used.ru_maxrss * 1024)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
