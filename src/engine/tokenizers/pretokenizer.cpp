// The scanner. Classes of code points below 128 come from a table, the rest by binary search in the Unicode ranges.
#include "engine/tokenizers/pretokenizer.hpp"

#include <algorithm>
#include <array>
#include <iterator>

#include "engine/core/utf8.hpp"
#include "engine/tokenizers/unicode_classes.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

enum class Class : unsigned char { Space, Letter, Number, Other };

template <std::size_t N>
bool contains(const CodePointRange (&ranges)[N], char32_t point) {
  const auto* after = std::upper_bound(std::begin(ranges), std::end(ranges), point,
                                       [](char32_t value, const CodePointRange& range) { return value < range.first; });
  return after != std::begin(ranges) && point <= std::prev(after)->last;
}

// White_Space of Unicode, which is what \s means there.
bool is_space(char32_t point) {
  return (point >= 0x9 && point <= 0xD) || point == 0x20 || point == 0x85 || point == 0xA0 || point == 0x1680 ||
         (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 || point == 0x202F || point == 0x205F || point == 0x3000;
}

Class class_of_slow(char32_t point) {
  if (is_space(point)) return Class::Space;
  if (contains(kLetters, point)) return Class::Letter;
  return contains(kNumbers, point) ? Class::Number : Class::Other;
}

struct Scanned {
  Class kind;
  int bytes;
};

Scanned scan(std::string_view text, std::size_t at) {
  static const auto ascii = [] {
    std::array<Class, 128> table{};
    for (char32_t point = 0; point < 128; ++point) table[point] = class_of_slow(point);
    return table;
  }();
  const unsigned char byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) return {ascii[byte], 1};
  const core::CodePoint point = core::decode_utf8(text, at);
  if (point.bytes == 0) return {Class::Other, 1};
  return {class_of_slow(point.value), point.bytes};
}

std::size_t contraction_end(std::string_view text, std::size_t at) {
  static constexpr std::string_view kEndings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
  for (const std::string_view ending : kEndings)
    if (text.substr(at, ending.size()) == ending) return at + ending.size();
  return at;
}

std::size_t run_end(std::string_view text, std::size_t at, Class kind) {
  while (at < text.size()) {
    const Scanned next = scan(text, at);
    if (next.kind != kind) break;
    at += next.bytes;
  }
  return at;
}

}  // namespace

std::size_t next_piece_end(std::string_view text, std::size_t at) {
  if (text[at] == '\'')
    if (const std::size_t end = contraction_end(text, at); end != at) return end;
  const Scanned first = scan(text, at);
  if (first.kind != Class::Space) return run_end(text, at, first.kind);
  if (text[at] == ' ' && at + 1 < text.size()) {
    const Scanned second = scan(text, at + 1);
    if (second.kind != Class::Space) return run_end(text, at + 1, second.kind);
  }
  // \s+(?!\S): all of the run at the end of the text, else all but its last character, which then leads the next
  // piece; a run of one falls through to \s+.
  std::size_t end = at, last = at;
  while (end < text.size()) {
    const Scanned next = scan(text, end);
    if (next.kind != Class::Space) break;
    last = end;
    end += next.bytes;
  }
  return end == text.size() || last == at ? end : last;
}

}  // namespace pgtrain::engine::tokenizers
