#!/usr/bin/env python3
"""Our tokens and loss masks of records beside the `tokenizers` package and jinja2, by the rules of transformers and TRL. check_records.py PROGRAM

PROGRAM is built from records_interop.cpp. Texts, prompts with completions, conversations and preferences are generated for the model
families' tokenizers and for templates with and without {% generation %}. The rules are transformers' return_assistant_tokens_mask, and
TRL's SFTTrainer and DPOTrainer: a text ends with EOS; a completion begins where its tokens part from the prompt's. Two differences are
ours and are checked as such: where a token would reach over the border of a completion, the prompt keeps its own tokens; and what a
template puts behind an answer's end is not learned. Where transformers itself is new enough, its masks are compared too. PGTRAIN_TEST_SEED=n makes
other ones.
"""
import importlib.metadata
import importlib.util
import inspect
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

sys.dont_write_bytecode = True  # nothing is written beside the tests
import check_templates  # noqa: E402
import check_tokenizers as vocabularies  # noqa: E402

# Stand for the ends of {% generation %} in a rendered text; no generated text holds them.
OPENS, CLOSES = "\U0010fff0", "\U0010fff1"

CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
CHATML_GENERATION = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
                     "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
HEADERS = ("{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
           "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
INSTRUCTIONS = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}")
INSTRUCTIONS_GENERATION = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %} {{ m.content }}{{ eos_token }}{% endgeneration %}"
                           "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}")
PLAIN = ("{% for m in messages %}### {{ m.role | capitalize }}:\n{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n\n{% endfor %}"
         "{% if add_generation_prompt %}### Assistant:\n{% endif %}")

# family: (bos, eos, templates)
SETUPS = {
    "gpt2": (None, "<|endoftext|>", [PLAIN]),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", [HEADERS]),
    "llama3_merges": ("<|begin_of_text|>", "<|end_of_text|>", [HEADERS, PLAIN]),
    "qwen2": (None, "<|im_end|>", [CHATML, CHATML_GENERATION, PLAIN]),
    "smollm": ("<|im_start|>", "<|im_end|>", [CHATML, CHATML_GENERATION]),
    "llama2": ("<s>", "</s>", [INSTRUCTIONS, INSTRUCTIONS_GENERATION, PLAIN]),
    "mistral_first": ("<s>", "</s>", [INSTRUCTIONS, INSTRUCTIONS_GENERATION]),
}


class Rendering:
    """A template with its tokenizer, as transformers puts them together."""

    def __init__(self, document, template, bos, eos):
        import tokenizers
        self.tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
        self.bos, self.eos = bos, eos
        environment = check_templates.environment()
        for extension in environment.extensions.values():
            if hasattr(extension, "_mark"):
                extension._mark = lambda caller: OPENS + caller() + CLOSES
        self.template = environment.from_string(template)
        self.has_generation = "{% generation %}" in template
        self.specials = [t["content"] for t in document["added_tokens"] if t["special"]]

    def render(self, messages, add_generation_prompt=False, keeps_marks=False):
        tokens = {name: value for name, value in (("bos_token", self.bos), ("eos_token", self.eos)) if value is not None}
        text = self.template.render(messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **tokens)
        return text if keeps_marks else text.replace(OPENS, "").replace(CLOSES, "")

    def answers(self, messages, last=False):
        """The text, and the bounds of the answers in it."""
        text, spans = self.render(messages), []
        if self.has_generation:
            marked, at = self.render(messages, keeps_marks=True), 0
            for i, part in enumerate(marked.split(OPENS)):
                if i > 0:
                    spans.append((at, at + part.index(CLOSES)))
                at += len(part.replace(CLOSES, ""))
        else:
            for i, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                before, after = self.render(messages[:i], True), self.render(messages[:i + 1])
                assert after.startswith(before) and text.startswith(after)
                stripped = after.rstrip(" \t\r\n")
                end = len(stripped) if len(stripped) >= len(before) and stripped.endswith(tuple(self.specials)) else len(after)
                spans.append((len(before), end))
        return text, spans[-1:] if last else spans

    def encode(self, text, adds_special=False):
        return self.tokenizer.encode(text, add_special_tokens=adds_special)

    def conversation(self, messages, last=False):
        text, spans = self.answers(messages, last)
        encoding = self.encode(text)
        mask = [0] * len(encoding.ids)
        for start, end in spans:
            # Letters that the vocabulary lacks have no token.
            held = [token for token in map(encoding.char_to_token, range(start, end)) if token is not None]
            if held:
                mask[held[0]:held[-1] + 1] = [1] * (held[-1] + 1 - held[0])
        return encoding.ids, mask

    def text(self, text):
        ids = self.encode(text + self.eos, True).ids
        return ids, [1] * len(ids)

    def completion(self, prompt, completion):
        joint = self.encode(prompt + completion + self.eos, True)
        asked = self.encode(prompt, True).ids
        shared = next((i for i, (a, b) in enumerate(zip(asked, joint.ids)) if a != b), min(len(asked), len(joint.ids)))
        if shared == len(asked):
            return joint.ids, [0] * shared + [1] * (len(joint.ids) - shared)
        answered = self.encode(completion).ids
        with_bos = len(asked) - len(self.encode(prompt).ids)
        alone = asked[with_bos:] + answered
        if self.tokenizer.decode(alone, skip_special_tokens=True) == self.tokenizer.decode(self.encode(prompt + completion).ids, skip_special_tokens=True):
            return asked + answered + [self.tokenizer.token_to_id(self.eos)], [0] * len(asked) + [1] * (len(answered) + 1)
        return joint.ids, [int(i >= with_bos and end > len(prompt)) for i, (_, end) in enumerate(joint.offsets)]


def words(generator, least=1):
    joints = ["", " ", " ", "  ", "\n", "\n\n", "\t", "."]
    return "".join(generator.choice(vocabularies.WORDS) + generator.choice(joints) for _ in range(generator.randrange(least, 12)))


def talk(generator):
    messages = [{"role": "system", "content": words(generator)}] if generator.random() < 0.3 else []
    for _ in range(generator.randrange(1, 4)):
        messages += [{"role": "user", "content": words(generator)}, {"role": "assistant", "content": generator.choice(["", " ", "\n", "\n\n"]) + words(generator)}]
    if generator.random() < 0.2:
        messages.append({"role": "user", "content": words(generator)})
    return messages


def clean(text):
    """Without what a tokenizer of the families takes for a mark of its own, or what JSON columns cannot hold."""
    text = text.replace("\0", "").replace("[INST]", "").replace("<0x41>", "")
    # A mark that joins the letter before it belongs to both sides once it is normalized: whose it is, is a convention.
    return text[next((at for at, letter in enumerate(text) if not unicodedata.category(letter).startswith("M")), len(text)):]


def make_records(generator, theirs, count):
    """Records with what is expected of each: a list of (ids, mask), the mask None where only the ids are compared."""
    def scrub(messages):
        return [{**m, "content": clean(m["content"])} for m in messages]

    for _ in range(count):
        text = clean(words(generator)) or "x"
        yield {"text": text}, [theirs.text(text)]
        prompt, completion = clean(words(generator, 0)), clean(words(generator, 0)) or "x"
        cut = next((at for at in range(generator.randrange(0, len(text)), len(text)) if not unicodedata.category(text[at]).startswith("M")), 0)
        yield {"prompt": prompt, "completion": completion}, [theirs.completion(prompt, completion)]
        yield {"prompt": text[:cut], "completion": text[cut:]}, [theirs.completion(text[:cut], text[cut:])]
        yield {"prompt": prompt, "chosen": completion, "rejected": text}, [theirs.completion(prompt, completion), theirs.completion(prompt, text)]
        messages = scrub(talk(generator))
        yield {"messages": messages}, [theirs.conversation(messages)]
        if messages[-1]["role"] != "assistant":
            messages = messages[:-1]
        other = {"role": "assistant", "content": clean(words(generator))}
        yield {"prompt": messages[:-1], "completion": messages[-1:]}, [theirs.conversation(messages, True)]
        expected = [theirs.conversation(messages, True), theirs.conversation(messages[:-1] + [other], True)]
        yield {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": [other]}, expected
        if other != messages[-1]:
            yield {"chosen": messages, "rejected": messages[:-1] + [other]}, expected


def compare_with_transformers(theirs, document, template, generator):
    """transformers' own masks, where it makes them. Number of conversations that it was asked about."""
    import tokenizers
    import transformers
    if not theirs.has_generation or "return_assistant_tokens_mask" not in inspect.signature(transformers.PreTrainedTokenizerBase.apply_chat_template).parameters:
        return 0
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(document)), bos_token=theirs.bos, eos_token=theirs.eos)
    for _ in range(20):
        messages = [{**m, "content": clean(m["content"])} for m in talk(generator)]
        made = fast.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        assert (made["input_ids"], made["assistant_masks"]) == theirs.conversation(messages), messages
    return 20


def run(program, folder, document, template, theirs, records, loss_on):
    def write(name, text):
        with open(f"{folder}/{name}", "w") as file:
            file.write(text)

    config = {name: value for name, value in (("bos_token", theirs.bos), ("eos_token", theirs.eos)) if value is not None}
    write("tokenizer.json", json.dumps(document))
    write("config.json", json.dumps(config))
    write("template", template)
    vocabularies.write_texts(f"{folder}/samples", [json.dumps(record, ensure_ascii=generator_is_even) for generator_is_even, record in zip([True, False] * len(records), records)])
    subprocess.run([program, f"{folder}/tokenizer.json", f"{folder}/config.json", f"{folder}/template", f"{folder}/samples", loss_on, f"{folder}/out"], check=True)
    return json.load(open(f"{folder}/out"))


def trimmed(document):
    """Offsets that cover spaces: a mask is about all of a text."""
    return json.loads(json.dumps(document).replace('"trim_offsets": true', '"trim_offsets": false'))


def main():
    program = sys.argv[1]
    absent = [name for name in ("tokenizers", "jinja2", "transformers") if importlib.util.find_spec(name) is None]
    if absent:
        print(f"check_records.py: Skipped\nPython packages not installed: {' '.join(absent)}\n[  SKIPPED ] interop.records (0 ms)\n[  PASSED  ] 0 tests.")
        return 0
    seed = int(os.environ.get("PGTRAIN_TEST_SEED", "1"))
    print(f"PGTRAIN_TEST_SEED={seed}")
    generator = random.Random(seed)
    differing, cases, compared, asked = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, document in vocabularies.families():
            if name not in SETUPS:
                continue
            if document["model"].get("ignore_merges") and importlib.metadata.version("tokenizers").startswith("0.19."):
                continue  # that version's offsets of whole words are wrong
            bos, eos, templates = SETUPS[name]
            document = trimmed(document)
            for template in templates:
                theirs = Rendering(document, template, bos, eos)
                asked += compare_with_transformers(theirs, document, template, generator)
                made = list(make_records(generator, theirs, 40))
                records = [record for record, _ in made]
                for loss_on in ("answers", "all"):
                    ours = run(program, folder, document, template, theirs, records, loss_on)
                    for (record, expected), result in zip(made, ours, strict=True):
                        for (ids, mask), got in zip(expected, [result[key] for key in ("sequence", "rejected") if key in result], strict=True):
                            wanted = mask if loss_on == "answers" or "rejected" in record else [1] * len(ids)
                            compared += 1
                            if got["ids"] != ids or got["learned"][1:] != wanted[1:]:
                                differing += 1
                                if differing <= 5:
                                    at = next((i for i, (a, b) in enumerate(zip(zip(ids, wanted), zip(got["ids"], got["learned"]))) if i > 0 and a != b), min(len(ids), len(got["ids"])))
                                    print(f"{name}, template {templates.index(template)}, {loss_on}: {json.dumps(record)}\n  token {at}: theirs {list(zip(ids, wanted))[at - 1:at + 4]}, ours {list(zip(got['ids'], got['learned']))[at - 1:at + 4]}")
                cases += 1
    print(f"{compared} sequences compared, {differing} differ; {asked} conversations by transformers' own masks")
    if not differing:
        print(f"[  PASSED  ] {cases} tests.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
