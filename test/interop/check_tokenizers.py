#!/usr/bin/env python3
"""Our tokenizers beside the `tokenizers` package: the same ids, the same decoded text. check_tokenizers.py PROGRAM [SOURCE...]

PROGRAM is built from tokenizer_interop.cpp. Small vocabularies with the true structure of each family (patterns,
normalizers, decoders, templates, added tokens) are trained here by the package, or tokenizer.json files, such as those of
real models, are given as SOURCE. Code points alone, as a user's text, and many mixed texts, also as a template and with
what the file puts around a text, go through both. Without the package the check is skipped by name.
"""
import functools
import importlib.util
import json
import random
import struct
import subprocess
import sys
import tempfile

SPACE_MARK = "\u2581"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
ANY_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
LLAMA3 = ANY_CASE + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN2 = ANY_CASE + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN35 = ANY_CASE + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL)

# Families whose patterns or normal forms are each another's: all code points go through these.
WHOLE = {"gpt2": 97, "llama3": 97, "tekken": 97, "qwen2": 97, "qwen35": 97, "smollm": 97, "nfd": 97, "llama2": 97}

WORDS = ("the we've they'll it's I'd don't DON'T WE'LL o'ſ world Straße STRASSE König été e\u0301te\u0301 naïve привет ПРИВЕТ мир 日本語 テスト 한국어 각 \u1100\u1161\u11a8 שלום "
         "مرحبا नमस्ते हिन्दी ไทย ελληνικά Σίσυφος 😀 👩‍👩‍👧 🇩🇪 ½ ⅧⅨ 12345 3.14 1,234,567 ٣٤٥ foo_bar() {x: [1,2]} -- … «quotes» http://a.b/c?d=e#f ...!!! //\n ,\n\n "
         "\t \n \r\n \n\n \u00a0 \u2003 \u200b \u2028 é ﬁ ǅ ʰª ªA Aª camelCase HTMLParser iPhone ΑΒγ z\u0323\u0307 \u0344 \u0f71\u0f72 q\u0307\u0323 ▁ ▁▁ a▁b <0x41> \x00 \x7f").split(" ")


@functools.cache
def points():
    """All code points that the package's Unicode knows: what a later one made a letter is another character to it."""
    from tokenizers import Regex, pre_tokenizers
    unknown = pre_tokenizers.Split(Regex(r"\p{Cn}"), "removed")
    every = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    return [ord(c) for start in range(0, len(every), 4096) for piece, _ in unknown.pre_tokenize_str("".join(map(chr, every[start:start + 4096]))) for c in piece]


@functools.cache
def lively():
    return [p for p in points() if p < 0x3400 or 0x4E00 <= p < 0x5000 or 0xA000 <= p < 0xAC40 or 0xF700 <= p < 0x13500 or 0x16000 <= p < 0x17000 or 0x1C000 <= p < 0x1FB00]


def every_code_point(step):
    """Each between letters, spaces, digits and quotes, so that its class shows; a line end parts the cases of one text."""
    # Every step-th of what comes in long uniform runs.
    def is_uniform(p):
        return 0x3400 < p < 0x4DBE or 0x4E01 < p < 0x9FFC or 0xAC01 < p < 0xD7A2 or 0xE001 < p < 0xF8FE or 0x17001 < p < 0x187F6 or 0x20001 < p < 0xE0000 or p > 0xE01F0
    chosen = [p for p in points() if not is_uniform(p) or p % step == 0]
    for start in range(0, len(chosen), 256):
        chunk = chosen[start:start + 256]
        yield "".join(f"a{chr(p)}b {chr(p)}1{chr(p)}'{chr(p)} \n" for p in chunk)
        yield "".join(map(chr, chunk))


def make_texts(specials, seed, rounds):
    """Mixtures of words, scripts, spaces, marks and added tokens."""
    generator = random.Random(seed)
    texts = []
    joints = ["", "", " ", " ", "  ", "   ", "\n", " \n ", "\t", "'s ", "'S", "\r\n", "\u00a0", "0", "."]
    inserts = specials[:40] + [s[:-1] for s in specials[:8]] + [s + s for s in specials[:4]]
    for number in range(rounds):
        parts = []
        for _ in range(generator.randrange(1, 60)):
            kind = generator.random()
            if kind < 0.12 and inserts:
                parts.append(generator.choice(inserts))
            elif kind < 0.22:
                parts.append("".join(map(chr, generator.choices(lively(), k=generator.randrange(1, 12)))))
            elif kind < 0.26:
                parts.append(generator.choice([" ", "\n", "\t ", "a", "1", "é", "日", "-", "\u0301", "▁"]) * generator.randrange(1, 70))
            elif kind < 0.32:
                parts.append(generator.choice("aeoquzAEOk") + "".join(generator.choices("\u0300\u0301\u0307\u0323\u0327\u0328\u0345\u1dce\u20d0\u05b0\u093c\u3099", k=generator.randrange(1, 5))))
            else:
                parts.append(generator.choice(WORDS))
            parts.append(generator.choice(joints))
        texts.append("".join(parts) or "x")
    return texts


def corpus(generator):
    return [" ".join(generator.choice(WORDS) for _ in range(60)) + "\nThe quick brown fox; the lazy dog's there. 2024-01-02" for _ in range(300)]


def byte_level(pattern=None, digits=False):
    steps = [{"type": "Digits", "individual_digits": True}] if digits else []
    if pattern:
        steps.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pattern is None})
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def added(id, content, special=True, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special, **flags}


def template(name, id):
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]}}}


BYTE_LEVEL_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def assemble(model, normalizer, pre_tokenizer, decoder, post_processor, tokens):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}


def train_byte_level(pre_tokenizer, normalizer, size=900, drops=()):
    """The model part: vocabulary and merges, as the package learns them with this pre-tokenizer."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers
    learner = tokenizers.Tokenizer.from_str(json.dumps(assemble({"type": "BPE", "vocab": {}, "merges": []}, normalizer, pre_tokenizer, None, None, [])))
    alphabet = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c not in drops]
    learner.train_from_iterator(corpus(random.Random(5)), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    # Each byte beyond ASCII merges with its neighbours in every_code_point, so that a cut between the two shows.
    high = [c for c in alphabet if c not in drops and not "!" <= c <= "~" and c not in "ĠĊ"]
    for left, right in [(a, c) for a in "aĠ1'" for c in high] + [(c, b) for c in high for b in "bĠ1'"]:
        if left + right not in model["vocab"]:
            model["vocab"][left + right] = len(model["vocab"])
            model["merges"].append([left, right] if isinstance(model["merges"][0], list) else f"{left} {right}")
    return model


def train_characters(size=900, byte_fallback=True):
    """Like a converted SentencePiece model: three special tokens, bytes, characters, merges."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(corpus(random.Random(6)), trainers.BpeTrainer(vocab_size=size, limit_alphabet=90, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else [])
    names += [t for t in sorted(learnt["vocab"], key=learnt["vocab"].get) if t not in names]
    return {**learnt, "vocab": {t: i for i, t in enumerate(names)}, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": byte_fallback}


def families():
    gpt2 = train_byte_level(byte_level(), None)
    end = len(gpt2["vocab"])
    yield "gpt2", assemble(gpt2, None, byte_level(), BYTE_LEVEL_DECODER, None, [added(end, "<|endoftext|>")])
    yield "flags", assemble(gpt2, None, {**byte_level(), "add_prefix_space": True}, BYTE_LEVEL_DECODER, None, [
        added(end, "<|endoftext|>"), added(end + 1, "<mask>", lstrip=True), added(end + 2, "[R]", rstrip=True, special=False),
        added(end + 3, "word", single_word=True, special=False), added(end + 4, "<|end"), added(end + 5, "été", special=False, normalized=True),
        added(end + 6, " ", special=False, single_word=True), added(end + 7, "</", special=False, lstrip=True, rstrip=True)])
    for name, pattern, ignores in (("llama3", LLAMA3, True), ("tekken", TEKKEN, True), ("llama3_merges", LLAMA3, False)):
        model = train_byte_level(byte_level(pattern), None)
        end = len(model["vocab"])
        post = {"type": "Sequence", "processors": [{**BYTE_LEVEL_DECODER, "trim_offsets": False}, template("<|begin_of_text|>", end)]}
        names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"] + [f"<|reserved_special_token_{i}|>" for i in range(30)]
        yield name, assemble({**model, "ignore_merges": ignores}, None, byte_level(pattern), BYTE_LEVEL_DECODER, post, [added(end + i, n) for i, n in enumerate(names)])
    for name, pattern in (("qwen2", QWEN2), ("qwen35", QWEN35)):
        model = train_byte_level(byte_level(pattern), {"type": "NFC"})
        end = len(model["vocab"])
        tokens = [added(end + i, n, special=not n.startswith(("<t", "</t"))) for i, n in
                  enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|box_start|>", "<tool_call>", "</tool_call>", "<think>", "</think>"])]
        yield name, assemble(model, {"type": "NFC"}, byte_level(pattern), BYTE_LEVEL_DECODER, {**BYTE_LEVEL_DECODER, "trim_offsets": False}, tokens)
    # SmolLM's vocabulary lacks some bytes, which are then left out of a text.
    model = train_byte_level(byte_level(digits=True), None, drops="ĀāĂăĄĆñòôõö÷")
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"]
    model["vocab"] = {**{n: i for i, n in enumerate(names)}, **{t: i + len(names) for t, i in model["vocab"].items()}}
    yield "smollm", assemble(model, None, byte_level(digits=True), BYTE_LEVEL_DECODER, None, [added(i, n) for i, n in enumerate(names)])
    yield "nfd", assemble(gpt2, {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFD"}]}, byte_level(),
                          BYTE_LEVEL_DECODER, None, [added(len(gpt2["vocab"]), "<|endoftext|>")])
    yield from character_families()


def character_families():
    marks = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE_MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}]}
    bytes_decoder = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    specials = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
    model = train_characters()
    yield "llama2", assemble(model, marks, None, bytes_decoder, template("<s>", 1), specials)
    first = {"type": "Metaspace", "replacement": SPACE_MARK, "prepend_scheme": "first", "split": False}
    yield "mistral_first", assemble(model, None, first, bytes_decoder, template("<s>", 1), specials + [added(len(model["vocab"]), "[INST]"), added(len(model["vocab"]) + 1, "[/INST]")])
    always = {"type": "Metaspace", "replacement": SPACE_MARK, "prepend_scheme": "always", "split": True}
    few = train_characters(byte_fallback=False)
    yield "metaspace_unknown", assemble(few, None, always, always, template("<s>", 1), specials)
    yield "unknown_apart", assemble({**few, "fuse_unk": False}, marks, None, None, None, specials)
    # Some bytes only: an unknown character waits behind the bytes that follow it.
    some = train_characters()
    for b in range(0xE0, 0xF8):
        del some["vocab"][f"<0x{b:02X}>"]
    some["vocab"] = {t: i for i, t in enumerate(some["vocab"])}
    yield "some_bytes", assemble(some, marks, None, bytes_decoder, None, specials)


def write_texts(path, texts):
    with open(path, "wb") as file:
        for text in texts:
            data = text.encode()
            file.write(struct.pack("<I", len(data)) + data)


def read_results(path, count):
    with open(path, "rb") as file:
        data = file.read()
    at = 0

    def number():
        nonlocal at
        value, = struct.unpack_from("<I", data, at)
        at += 4
        return value

    def text():
        nonlocal at
        size = number()
        at += size
        return data[at - size:at].decode()

    for _ in range(count):
        size = number()
        ids = list(struct.unpack_from(f"<{size}i", data, at))
        at += 4 * size
        yield ids, text(), text()
    assert at == len(data)


def compare(program, source, theirs, texts, folder, name, modes):
    """Number of differing texts. theirs: the package's tokenizer for what our program reads from source."""
    write_texts(f"{folder}/texts", texts)
    differing, tokens, said = 0, 0, ""
    for mode in modes:
        done = subprocess.run([program, source, f"{folder}/texts", mode, f"{folder}/out"], capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr}")
            return 1
        said = done.stdout.strip()
        theirs.encode_special_tokens = mode == "content"
        encodings = theirs.encode_batch(texts, add_special_tokens=mode == "special")
        without = theirs.decode_batch([e.ids for e in encodings], skip_special_tokens=True)
        whole = theirs.decode_batch([e.ids for e in encodings], skip_special_tokens=False)
        for text, encoding, a, b, ours in zip(texts, encodings, without, whole, read_results(f"{folder}/out", len(texts)), strict=True):
            tokens += len(encoding.ids)
            if (encoding.ids, a, b) != ours:
                differing += 1
                if differing <= 3:
                    show_difference(name, mode, text, (encoding.ids, a, b), ours)
    print(f"{name}: {len(texts)} texts, {sum(map(len, texts))} code points, {' '.join(modes)}: {tokens} tokens, {differing} texts differ; {said}")
    return differing


def show_difference(name, mode, text, theirs, ours):
    at = next((i for i, (a, b) in enumerate(zip(theirs[0], ours[0])) if a != b), min(len(theirs[0]), len(ours[0])))
    print(f"{name} {mode}: token {at}: theirs {theirs[0][at:at + 6]}, ours {ours[0][at:at + 6]}; decoded alike: {theirs[1] == ours[1]}, {theirs[2] == ours[2]}; text {text[:60]!r}")


def check(program, name, source, folder, rounds, step):
    import tokenizers
    theirs = tokenizers.Tokenizer.from_file(source)
    document = json.load(open(source))
    texts = make_texts([t["content"] for t in document["added_tokens"]], name, rounds)
    differing = compare(program, source, theirs, texts, folder, name, ["content", "template", "special"])
    if step:
        differing += compare(program, source, theirs, list(every_code_point(step)), folder, name, ["content"])
    if open(f"{folder}/out.json", "rb").read() != open(source, "rb").read():
        print(f"{name}: tokenizer.json was not given back as it was")
        differing += 1
    return differing


def main():
    program, sources = sys.argv[1], sys.argv[2:]
    if importlib.util.find_spec("tokenizers") is None:
        print("check_tokenizers.py: Skipped\nPython packages not installed: tokenizers\n[  SKIPPED ] interop.tokenizers (0 ms)\n[  PASSED  ] 0 tests.")
        return 0
    differing, cases = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        made = []
        if not sources:
            for name, document in families():
                made.append((name, f"{folder}/{name}.json"))
                with open(made[-1][1], "w") as file:
                    json.dump(document, file, ensure_ascii=False)
        for name, source in made + [(s, s) for s in sources]:
            differing += check(program, name, source, folder, 2000 if sources else 300, 3 if sources else WHOLE.get(name, 0))
            cases += 1
    if not differing:
        print(f"[  PASSED  ] {cases} tests.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
