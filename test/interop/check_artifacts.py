#!/usr/bin/env python3
"""Our model folders in Hugging Face's hands: same tokens, same logits. check_artifacts.py ENGINE_INTEROP

ENGINE_INTEROP is the program built from engine_interop.cpp. Each library that is missing skips its part with a line
that the check runner counts; `pip install tokenizers transformers torch` in a virtual environment gives all of them. Exit status 1 on
a difference, 0 when all that could run agreed.
"""
import importlib.util
import json
import random
import struct
import subprocess
import sys
import tempfile


def make_texts():
    """Prose in several scripts, code, white space of all kinds, and every code point once."""
    generator = random.Random(11)
    words = ("the we've they'll it's I'd don't world Straße König été naïve привет мир 日本語 テスト 한국어 שלום مرحبا नमस्ते ไทย "
             "ελληνικά 😀 👩‍👩‍👧 ½ ⅧⅨ 12345 3.14 foo_bar() {x: [1,2]} -- … «quotes» \t \n\n  \u00a0 \u2003 \u200b é ﬁ").split(" ")
    texts = ["The old king sees two birds today; they've seen the moon. Король видит 日本語 и 12 птиц."]
    for _ in range(300):
        texts.append("".join(generator.choice(words) + generator.choice([" ", "  ", "", "\n", " \n ", "'s ", "\t"]) for _ in range(generator.randrange(1, 40))).strip("\0") or "x")
    points = [p for p in range(1, 0x110000) if not 0xD800 <= p < 0xE000]
    for start in range(0, len(points), 4096):
        chunk = points[start:start + 4096]
        texts.append("".join(map(chr, chunk)))
        texts.append(" ".join(map(chr, generator.sample(chunk, min(len(chunk), 512)))))
    return texts


def is_missing(case, packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        print(f"check_artifacts.py: Skipped\nPython packages not installed: {' '.join(absent)}\n[  SKIPPED ] interop.{case} (0 ms)")
    return bool(absent)


def check_tokens(folder, texts):
    import tokenizers
    for name in ("byte", "bpe"):
        theirs = tokenizers.Tokenizer.from_file(f"{folder}/{name}/tokenizer.json")
        ours = json.load(open(f"{folder}/{name}/ids.json"))
        differing = 0
        for text, ids in zip(texts, ours, strict=True):
            encoded = theirs.encode(text).ids
            if encoded != ids or theirs.decode(encoded) != text:
                differing += 1
                if differing <= 3:
                    print(f"{name}: differs on {text[:60]!r}")
        print(f"{name}: {len(texts)} texts, {sum(map(len, ours))} tokens, {differing} texts differ (tokenizers {tokenizers.__version__})")
        if differing:
            sys.exit(1)


def check_logits(folder):
    import torch
    import transformers
    for name in ("byte", "bpe"):
        model, report = transformers.GPT2LMHeadModel.from_pretrained(f"{folder}/{name}", output_loading_info=True)
        unwanted = [key for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]]
        if unwanted:
            print(name, {key: report[key] for key in unwanted})
            sys.exit(1)
        ours = torch.tensor(json.load(open(f"{folder}/{name}/logits.json")))
        ids = json.load(open(f"{folder}/{name}/ids.json"))[0][:len(ours)]
        with torch.no_grad():
            theirs = model.eval()(torch.tensor([ids])).logits[0]
        error = ((ours - theirs).norm() / theirs.norm()).item()
        print(f"{name}: logits of {len(ids)} tokens, relative difference {error:.2e} (transformers {transformers.__version__})")
        if not error < 1e-5:
            sys.exit(1)


def main():
    checks = []
    if not is_missing("tokens", ["tokenizers"]):
        checks.append(lambda folder, texts: check_tokens(folder, texts))
    if not is_missing("logits", ["torch", "transformers"]):
        checks.append(lambda folder, texts: check_logits(folder))
    if checks:
        texts = make_texts()
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/texts.samples", "wb") as file:
                for text in texts:
                    data = text.encode()
                    file.write(struct.pack("<I", len(data)) + data)
            subprocess.run([sys.argv[1], folder], check=True)
            for check in checks:
                check(folder, texts)
    print(f"[  PASSED  ] {len(checks)} tests.")


main()
