#!/usr/bin/env python3
"""Our chat templates beside jinja2's, set up as transformers sets it up: same text or the same refusal. check_templates.py TEMPLATES_INTEROP

TEMPLATES_INTEROP is the program built from templates_interop.cpp. Templates of our own with the structures of real ones meet generated
conversations; random templates and random expressions meet the rest. ROUNDS=n makes n times as many, PGTRAIN_TEST_SEED=n other ones. What we
refuse by name although jinja2 renders it is counted, and is none in the templates with real structures. Exit status 1 on a difference.
"""
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import unicodedata

sys.dont_write_bytecode = True  # nothing is written beside the tests
import template_cases as cases  # noqa: E402

NOW = 1_700_000_000


def environment():
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: time.strftime(form, time.gmtime(NOW))
    return made


class Reference:
    def __init__(self):
        self.environment = environment()
        self.compiled = {}

    def render(self, case, messages=None, add_generation_prompt=None):
        template = case["template"]
        if template not in self.compiled:
            if len(self.compiled) > 500:
                self.compiled.clear()
            self.compiled[template] = self.environment.from_string(template)
        given = json.loads(case.get("variables", "{}"))
        tokens = {name: case[name] for name in ("bos_token", "eos_token") if name in case}
        tools = json.loads(case["tools"]) if "tools" in case else None
        return self.compiled[template].render(
            messages=json.loads(case["messages"]) if messages is None else messages, tools=tools, documents=None,
            add_generation_prompt=case["add_generation_prompt"] if add_generation_prompt is None else add_generation_prompt, **{**tokens, **given})

    def answers(self, case, whole):
        """Byte ranges by the rule of chat_template.hpp; None where it refuses."""
        messages, found = json.loads(case["messages"]), []
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(case, messages[:at], True)
            after = self.render(case, messages[:at + 1], False)
            if case["spans"] == "last" and any(later["role"] == "assistant" for later in messages[at + 1:]):
                continue
            if not after.startswith(before) or not whole.startswith(after):
                return None
            text = after[len(before):]
            if text.rstrip(" \t\r\n").endswith(case["eos_token"]):
                text = text.rstrip(" \t\r\n")
            if text:
                begin = len(before.encode())
                found.append([begin, begin + len(text.encode())])
        return found


class Check:
    def __init__(self, program):
        self.program = program
        self.reference = Reference()
        self.counts = {}
        self.differences = 0
        self.outside = {}

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def differs(self, case, ours, theirs):
        self.differences += 1
        if self.differences <= 10:
            print("DIFFERS", json.dumps(case, ensure_ascii=False), f"\n  ours:   {ours!r}\n  theirs: {theirs!r}")

    def expected(self, case):
        try:
            text = self.reference.render(case)
            text.encode()
            answers = self.reference.answers(case, text) if case["spans"] else None
            return text, answers
        except Exception as error:  # whatever a template provokes in Python
            return error, None

    def run(self, group, made, may_refuse):
        made = list(made)
        lines = "".join(json.dumps(case) + "\n" for case in made)
        answers = subprocess.run([self.program], input=lines, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
        if len(answers) != len(made):
            sys.exit(f"{group}: {len(made)} cases, {len(answers)} answers")
        refused = rendered = failed = 0
        for case, line in zip(made, answers):
            ours = json.loads(line)
            text, spans = self.expected(case)
            if ours.get("outside"):
                refused += 1
                self.outside[ours["error"].split(": ", 1)[-1][:60]] = case["template"][:200]
                if not may_refuse and not isinstance(text, Exception):
                    self.differs(case, ours, text)
            elif isinstance(text, Exception) or (case["spans"] and spans is None):
                failed += 1
                if "error" not in ours:
                    self.differs(case, ours, text)
            else:
                rendered += 1
                if ours.get("text") != text or (case["spans"] and ours["answers"] != spans):
                    self.differs(case, ours, (text, spans))
        print(f"{group}: {len(made)} cases: {rendered} rendered alike, {failed} failed in both, {refused} refused by us, {self.differences} differences so far")
        if rendered < len(made) // 10 and len(sys.argv) == 2:
            sys.exit(f"{group}: too few cases were rendered for the comparison to mean anything")


def main():
    if importlib.util.find_spec("jinja2") is None:
        print("check_templates.py: Skipped\nPython packages not installed: jinja2\n[  SKIPPED ] interop.templates (0 ms)")
        return
    seed = int(os.environ.get("PGTRAIN_TEST_SEED", "1"))
    rounds = float(os.environ.get("ROUNDS", "1"))
    print(f"seed {seed}, Unicode {unicodedata.unidata_version} here")
    generator = random.Random(seed)
    check = Check(sys.argv[1])
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as file:
            template = file.read()
        check.run(path.rsplit("/", 1)[-1], cases.conversations(generator, template, int(200 * rounds)), True)
    if len(sys.argv) == 2:
        for name, template in cases.TEMPLATES.items():
            check.run(name, cases.conversations(generator, template, int(60 * rounds)), False)
        check.run("letters", cases.letters(), False)
        check.run("expressions", cases.expressions(generator, int(3000 * rounds)), True)
        check.run("statements", cases.statements(generator, int(2000 * rounds)), True)
    if os.environ.get("V"):
        for message, template in sorted(check.outside.items()):
            print("refused:", message, "|", repr(template))
    if check.differences:
        sys.exit(1)
    print("[  PASSED  ] 1 tests.")


if __name__ == "__main__":
    main()
