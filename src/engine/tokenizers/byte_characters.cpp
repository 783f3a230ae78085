// The table of byte_characters.hpp and its reverse.
#include "engine/tokenizers/byte_characters.hpp"

#include <array>

#include "engine/core/utf8.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

const std::array<char32_t, 256>& byte_characters() {
  static const auto table = [] {
    std::array<char32_t, 256> out{};
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      out[byte] = is_printable ? static_cast<char32_t>(byte) : next++;
    }
    return out;
  }();
  return table;
}

}  // namespace

std::string spell(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) core::append_utf8(out, byte_characters()[static_cast<unsigned char>(c)]);
  return out;
}

bool unspell(std::string_view text, std::string& out) {
  static const auto reverse = [] {
    std::array<int, 512> table;
    table.fill(-1);
    for (int byte = 0; byte < 256; ++byte) table[byte_characters()[byte]] = byte;
    return table;
  }();
  out.clear();
  for (std::size_t at = 0; at < text.size();) {
    const core::CodePoint point = core::decode_utf8(text, at);
    if (point.bytes == 0 || point.value >= reverse.size() || reverse[point.value] < 0) return false;
    out += static_cast<char>(reverse[point.value]);
    at += point.bytes;
  }
  return true;
}

}  // namespace pgtrain::engine::tokenizers
