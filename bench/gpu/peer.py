#!/usr/bin/env python3
"""The same GPT-2 training step in PyTorch, as its users would write it: bf16 autocast, flash attention through
scaled_dot_product_attention, fused AdamW, optionally torch.compile. Arguments as of `measure`, then eager or compile.
Prints one line of JSON; run beside ours by run.sh, alternately, on the same card."""
import json
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

WARM_UP = 5


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in self.qkv(self.ln_1(x)).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, layers, width, heads, vocabulary, context):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for p in self.parameters():
            nn.init.normal_(p, std=0.02) if p.dim() > 1 else None

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    device, layers, width, heads, vocabulary, context, batch, precision, steps, mode = sys.argv[1:]
    layers, width, heads, vocabulary, context, batch, steps = map(int, (layers, width, heads, vocabulary, context, batch, steps))
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("highest")  # fp32 means fp32 on both sides
    model = Gpt(layers, width, heads, vocabulary, context).to(device)
    forward = torch.compile(model) if mode == "compile" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device != "cpu")
    kind = torch.device(device).type
    seconds, loss = [], None
    for step in range(WARM_UP + steps):
        tokens = torch.randint(vocabulary, (batch, context + 1), device=device)
        if kind == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = forward(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        if kind == "cuda":
            torch.cuda.synchronize()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(json.dumps({
        "program": f"pytorch {torch.__version__} {mode}",
        "device": torch.cuda.get_device_name() if kind == "cuda" else "cpu",
        "layers": layers, "width": width, "vocabulary": vocabulary, "context": context, "batch": batch, "precision": precision,
        "tokens_per_second": round(batch * context / median), "step_ms": round(median * 1e3, 3), "slowest_ms": round(max(seconds) * 1e3, 3),
        "peak_mib": torch.cuda.max_memory_allocated() >> 20 if kind == "cuda" else None, "loss": round(value, 4),
    }))


if __name__ == "__main__":
    main()
