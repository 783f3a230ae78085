// text.cpp: rules for text on the pipe: UTF-8 without NUL, plain file names, hexadecimal digests.
// A database of encoding UTF8 refuses anything else, and a name with a slash could leave the job folder.
#include "protocol/message.hpp"

namespace pgtrain::protocol {

namespace {

// Length of the well-formed UTF-8 sequence at `position` (RFC 3629: shortest form, no surrogates), 0 if there is none.
size_t sequence_length(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) { return position + i < text.size() ? static_cast<unsigned char>(text[position + i]) : 0u; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned first = byte(0);
  if (first < 0x80) return first == 0 ? 0 : 1;
  if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    if (first == 0xe0 && byte(1) < 0xa0) return 0;
    if (first == 0xed && byte(1) > 0x9f) return 0;
    return follows(1) && follows(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    if (first == 0xf0 && byte(1) < 0x90) return 0;
    if (first == 0xf4 && byte(1) > 0x8f) return 0;
    return follows(1) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

std::string clean_utf8(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const size_t length = sequence_length(text, position);
    if (length == 0) {
      clean.append("\xef\xbf\xbd");
      ++position;
    } else {
      clean.append(text.substr(position, length));
      position += length;
    }
  }
  return clean;
}

bool is_clean_utf8(std::string_view text) {
  for (size_t position = 0; position < text.size();) {
    const size_t length = sequence_length(text, position);
    if (length == 0) return false;
    position += length;
  }
  return true;
}

bool is_safe_file_name(std::string_view name) {
  if (name.empty() || name.size() > 128 || name.front() == '.') return false;
  for (const char c : name) {
    const bool allowed = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (!allowed) return false;
  }
  return true;
}

bool is_sha256_hex(std::string_view text) {
  if (text.size() != 64) return false;
  for (const char c : text)
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  return true;
}

}  // namespace pgtrain::protocol
