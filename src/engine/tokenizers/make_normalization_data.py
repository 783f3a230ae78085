#!/usr/bin/env python3
"""Prints normalization_data.hpp: canonical decompositions and combining classes.

Run by hand: make_normalization_data.py > normalization_data.hpp; needs unicodedata2 and tokenizers from PyPI. The
package's normalizers know an older Unicode than its patterns do and a model saw text through them, so only what they
know is kept: what the package does with a code point decides, the values are Unicode's, which never change.
"""
import unicodedata2 as unicodedata
from tokenizers import normalizers

nfd = normalizers.NFD()


def known_class(point):
    value = unicodedata.combining(chr(point))
    if value == 0:
        return 0
    text = "a\u0301" + chr(point) if value < 230 else "a" + chr(point) + "\u0334"
    return value if nfd.normalize_str(text) == unicodedata.normalize("NFD", text) else 0


def table(rows, width=146):
    lines, line = [], "   "
    for row in rows:
        if len(line) + len(row) > width:
            lines.append(line)
            line = "   "
        line += " " + row + ","
    return "\n".join(lines + [line])


pairs, classes = [], []
for point in range(0x110000):
    if 0xD800 <= point < 0xE000 or 0xAC00 <= point < 0xD7A4:
        continue
    text = chr(point)
    parts = unicodedata.decomposition(text)
    if parts and not parts.startswith("<") and nfd.normalize_str(text) != text:
        first, second = (parts.split() + ["0"])[:2]
        composes = unicodedata.normalize("NFC", text) == text
        pairs.append(f"{{0x{point:x}, 0x{first.lower()}, 0x{second.lower()}, {'true' if composes else 'false'}}}")
    value = known_class(point)
    if value and classes and classes[-1][1] == point - 1 and classes[-1][2] == value:
        classes[-1][1] = point
    elif value:
        classes.append([point, point, value])

print("""// Canonical decompositions (one step) and combining classes, as the normalizers of the `tokenizers` package know them.
//
// Made by make_normalization_data.py; do not edit. Hangul syllables are computed, not listed.
#pragma once

namespace pgtrain::engine::tokenizers {

struct Decomposition {
  char32_t from, first, second;  // second 0 = one code point
  bool composes;                 // first and second become `from` again in NFC
};

struct CombiningRange {
  char32_t first, last;
  unsigned char combining_class;
};

inline constexpr Decomposition kDecompositions[] = {
""" + table(pairs) + """
};

inline constexpr CombiningRange kCombiningRanges[] = {
""" + table(f"{{0x{a:x}, 0x{b:x}, {c}}}" for a, b, c in classes) + """
};

}  // namespace pgtrain::engine::tokenizers""")
