"""Tokens a second of llama.cpp, greedy, the prompt not counted: llama_loop.py GGUF f16|bf16 THREADS TOKENS FOLDER

Makes the model of that type in FOLDER from any GGUF first. Prints one figure, then the text. Called by bench/generate.sh."""
import os
import sys
import time

import llama_cpp

source, kind, threads, tokens, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
path = f"{folder}/model-{kind}.gguf"
if not os.path.exists(path):
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize, options.nthread = {"f16": 1, "bf16": 32}[kind], True, threads
    llama_cpp.llama_model_quantize(source.encode(), path.encode(), options)
model = llama_cpp.Llama(path, n_threads=threads, n_ctx=512, verbose=False)
times, text = [], ""
for piece in model.create_completion("The capital of France is", max_tokens=tokens, temperature=0, stream=True):
    text += piece["choices"][0]["text"]
    times.append(time.perf_counter())
print(f"{(len(times) - 1) / (times[-1] - times[0]):.1f}\n{text}")
