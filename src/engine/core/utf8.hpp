// UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF.
//
// Used by the readers of documents and JSON, by the pre-tokenizer, and to keep generated text valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pgtrain::engine::core {

struct CodePoint {
  char32_t value = 0;
  int bytes = 0;  // 0 = not valid here
};

inline CodePoint decode_utf8(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(at);
  if (first < 0x80) return {first, 1};
  int length = 0;
  char32_t value = 0, least = 0;
  if (first >= 0xC2 && first <= 0xDF) length = 2, value = first & 0x1F, least = 0x80;
  else if ((first & 0xF0) == 0xE0) length = 3, value = first & 0x0F, least = 0x800;
  else if (first >= 0xF0 && first <= 0xF4) length = 4, value = first & 0x07, least = 0x10000;
  else return {};
  if (text.size() - at < static_cast<std::size_t>(length)) return {};
  for (int i = 1; i < length; ++i) {
    const unsigned next = byte(at + i);
    if ((next & 0xC0) != 0x80) return {};
    value = value << 6 | (next & 0x3F);
  }
  if (value < least || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return {};
  return {value, length};
}

// Offset of the first byte that is not part of a valid sequence; npos when all is well.
inline std::size_t first_invalid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode_utf8(text, at);
    if (point.bytes == 0) return at;
    at += point.bytes;
  }
  return std::string_view::npos;
}

inline void append_utf8(std::string& out, char32_t value) {
  if (value < 0x80) {
    out += static_cast<char>(value);
  } else if (value < 0x800) {
    out += static_cast<char>(0xC0 | value >> 6);
    out += static_cast<char>(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    out += static_cast<char>(0xE0 | value >> 12);
    out += static_cast<char>(0x80 | (value >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (value & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | value >> 18);
    out += static_cast<char>(0x80 | (value >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (value >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (value & 0x3F));
  }
}

// Each byte that starts no valid sequence becomes U+FFFD.
inline std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode_utf8(text, at);
    if (point.bytes == 0) {
      append_utf8(out, 0xFFFD);
      ++at;
    } else {
      out.append(text.substr(at, point.bytes));
      at += point.bytes;
    }
  }
  return out;
}

// Length of text without a sequence that was begun at its end and may still be completed.
inline std::size_t complete_utf8_prefix(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const unsigned char byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const std::size_t wanted = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return wanted > back ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace pgtrain::engine::core
