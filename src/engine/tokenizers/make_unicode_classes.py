#!/usr/bin/env python3
"""Prints unicode_classes.hpp: what the pre-tokenizers ask of a code point, as ranges with one set of bits each.

Run by hand when a newer Unicode is wanted: make_unicode_classes.py > unicode_classes.hpp; needs unicodedata2 and regex
from PyPI. The table is committed so that a build needs no Python and every build splits text alike. The Unicode version
to choose is that of the `tokenizers` package (16 in 0.23): its library for patterns brings its own tables.
"""
import regex
import unicodedata2 as unicodedata

LETTER, NUMBER, MARK, UPPER, LOWER, WORD, NUMERIC, SPACE = (1 << bit for bit in range(8))
# The package's Digits asks the Rust standard library, which is one Unicode ahead of its patterns.
NUMERIC_ONLY = set(range(0x11DE0, 0x11DEA)) | {0x16FF4, 0x16FF5, 0x16FF6}
SPACES = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def bits_of(point):
    if 0xD800 <= point < 0xE000:
        return 0
    category = unicodedata.category(chr(point))
    bits = {"L": LETTER, "N": NUMBER | NUMERIC, "M": MARK | WORD}.get(category[0], 0)
    bits |= {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Nd": WORD, "Pc": WORD}.get(category, 0)
    if category != "Cn" and (regex.match(r"\p{Alphabetic}", chr(point)) or point in (0x200C, 0x200D)):
        bits |= WORD
    if point in NUMERIC_ONLY:
        bits |= NUMERIC
    return bits | (SPACE if point in SPACES else 0)


def ranges():
    start, held = 0, 0
    for point in range(0x110001):
        bits = bits_of(point) if point < 0x110000 else 0
        if bits != held:
            if held:
                yield f"{{0x{start:x}, 0x{point - 1:x}, {held}}}"
            start, held = point, bits


lines, line = [], "   "
for row in ranges():
    if len(line) + len(row) > 146:
        lines.append(line)
        line = "   "
    line += " " + row + ","
lines.append(line)
print(f"""// What code points are to the pre-tokenizers, in Unicode {unicodedata.unidata_version}; the bits are those of char_class.hpp.
//
// Made by make_unicode_classes.py; do not edit.
#pragma once

namespace pgtrain::engine::tokenizers {{

struct ClassRange {{
  char32_t first, last;
  unsigned char bits;
}};

inline constexpr ClassRange kClassRanges[] = {{
""" + "\n".join(lines) + """
};

}  // namespace pgtrain::engine::tokenizers""")
