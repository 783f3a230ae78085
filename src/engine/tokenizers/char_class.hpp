// What a code point is to the pre-tokenizers: one byte of bits, found by two array look-ups.
//
// Bytes that are no valid UTF-8 are a character of one byte without any bit. Callers: pretokenizer, added_tokens, normalizer.
#pragma once

#include <cstddef>
#include <string_view>

#include "engine/core/utf8.hpp"

namespace pgtrain::engine::tokenizers {

enum CharBits : unsigned char {
  kLetter = 1,    // \p{L}
  kNumber = 2,    // \p{N}
  kMark = 4,      // \p{M}
  kUpper = 8,     // \p{Lu}\p{Lt}
  kLower = 16,    // \p{Ll}
  kWord = 32,     // \w
  kNumeric = 64,  // what the package's Digits cuts at
  kSpace = 128,   // \s
};

unsigned char class_of(char32_t point);

struct Character {
  char32_t value;
  unsigned char bits;
  int bytes;
};

inline constexpr char32_t kNoCharacter = 0xFFFFFFFF;

extern const unsigned char* const kAsciiClasses;

inline Character character_at(std::string_view text, std::size_t at) {
  const unsigned char byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) return {byte, kAsciiClasses[byte], 1};
  const core::CodePoint point = core::decode_utf8(text, at);
  if (point.bytes == 0) return {kNoCharacter, 0, 1};
  return {point.value, class_of(point.value), point.bytes};
}

// Begin of the character that ends at byte `end`; end > 0.
inline std::size_t character_before(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  for (int back = 0; back < 3 && at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80; ++back) --at;
  const core::CodePoint point = core::decode_utf8(text, at);
  return point.bytes != 0 && at + static_cast<std::size_t>(point.bytes) == end ? at : end - 1;
}

}  // namespace pgtrain::engine::tokenizers
