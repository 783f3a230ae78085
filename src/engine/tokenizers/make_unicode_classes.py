#!/usr/bin/env python3
"""Prints unicode_classes.hpp: which code points are letters (L*) and numbers (N*), as ranges.

Run by hand when a newer Unicode is wanted: make_unicode_classes.py > unicode_classes.hpp. The table is committed so
that a build needs no Python and every build splits text alike.
"""
import sys
try:
    import unicodedata2 as unicodedata  # from PyPI: newer than what comes with Python
except ImportError:
    import unicodedata


def ranges(kind):
    found, start = [], None
    for point in range(0x110000):
        inside = unicodedata.category(chr(point))[0] == kind
        if inside and start is None:
            start = point
        if not inside and start is not None:
            found.append((start, point - 1))
            start = None
    if start is not None:
        found.append((start, 0x10FFFF))
    return found


def table(name, kind):
    rows = [f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(kind)]
    lines, line = [], "   "
    for row in rows:
        if len(line) + len(row) > 136:
            lines.append(line)
            line = "   "
        line += " " + row + ","
    lines.append(line)
    return f"inline constexpr CodePointRange {name}[] = {{\n" + "\n".join(lines) + "\n};\n"


sys.stdout.write(
    f"""// Code points that are letters and numbers in Unicode {unicodedata.unidata_version}: what \\p{{L}} and \\p{{N}} mean to the pre-tokenizer.
//
// Made by make_unicode_classes.py; do not edit.
#pragma once

namespace pgtrain::engine::tokenizers {{

struct CodePointRange {{
  char32_t first, last;
}};

{table("kLetters", "L")}
{table("kNumbers", "N")}
}}  // namespace pgtrain::engine::tokenizers
"""
)
