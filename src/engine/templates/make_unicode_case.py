#!/usr/bin/env python3
"""Prints unicode_case.hpp: how Python changes the case of code points and which of them repr() prints as they are.

Run by hand when a newer Unicode is wanted: make_unicode_case.py > unicode_case.hpp. The table is committed so that a build
needs no Python and every build renders alike.
"""
import sys
import unicodedata

POINTS = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]


def ranges(holds):
    found = []
    for point in range(0x110000):
        if holds(chr(point)):
            if found and found[-1][1] == point - 1:
                found[-1][1] = point
            else:
                found.append([point, point])
    return found


def runs(method):
    """[first, last, stride, difference] of the code points that become one other."""
    found, several = [], []
    for point in POINTS:
        changed = getattr(chr(point), method)()
        if changed == chr(point):
            continue
        if len(changed) > 1:
            several.append((point, changed))
            continue
        difference = ord(changed) - point
        last = found[-1] if found else None
        if last and last[3] == difference and (point - last[1] == last[2] or (last[0] == last[1] and point - last[1] <= 2)):
            last[2], last[1] = point - last[1], point
        else:
            found.append([point, point, 1, difference])
    return found, several


def is_cased(character):
    return (character + "a").title().endswith("a")


def is_ignored(character):
    """Between a cased letter and a final sigma."""
    return ("a" + character + "Σ").lower().endswith("ς") and not (character + "Σ").lower().endswith("ς")


def table(kind, name, rows):
    lines, line = [], "   "
    for row in rows:
        text = " {" + ", ".join(row) + "},"
        if len(line) + len(text) > 138:
            lines.append(line)
            line = "   "
        line += text
    lines.append(line)
    return f"inline constexpr {kind} {name}[] = {{\n" + "\n".join(lines) + "\n};\n"


def range_table(name, holds):
    return table("PointRange", name, [(hex(a), hex(b)) for a, b in ranges(holds)])


def case_tables(name, method):
    single, several = runs(method)
    strings = [(hex(p), "U\"" + "".join(f"\\U{ord(c):08x}" for c in text) + "\"") for p, text in several]
    return table("CaseRun", f"k{name}Runs", [(hex(a), hex(b), str(c), str(d)) for a, b, c, d in single]) + "\n" + table("LongCase", f"k{name}Long", strings)


sys.stdout.write(
    f"// Case and printability of code points in Unicode {unicodedata.unidata_version}, as Python's str has them.\n"
    "//\n// Made by make_unicode_case.py; do not edit.\n#pragma once\n\nnamespace pgtrain::engine::templates {\n\n"
    "struct PointRange {\n  char32_t first, last;\n};\n\n// Every `stride`th of these becomes itself plus `difference`.\n"
    "struct CaseRun {\n  char32_t first, last;\n  int stride, difference;\n};\n\nstruct LongCase {\n  char32_t from;\n  const char32_t* to;\n};\n\n"
    + range_table("kUnprintable", lambda c: not c.isprintable()) + "\n" + range_table("kCased", is_cased) + "\n"
    + range_table("kCaseIgnored", is_ignored) + "\n" + case_tables("Upper", "upper") + "\n" + case_tables("Lower", "lower") + "\n"
    + case_tables("Title", "title") + "\n}  // namespace pgtrain::engine::templates\n")
