// Random bytes and characters, see random.hpp.
#include "pg/crypto/random.hpp"

#include <sodium.h>

#include <cstdint>

#include "pg/crypto/library.hpp"

namespace pgtrain::pg::crypto {

void random_bytes(unsigned char *out, size_t size) {
  initialise();
  randombytes_buf(out, size);
}

std::string random_text(size_t length, std::string_view char_set) {
  initialise();
  std::string text;
  while (text.size() < length) text += char_set[randombytes_uniform(static_cast<uint32_t>(char_set.size()))];
  return text;
}

std::string to_hexadecimal(std::string_view bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text += digits[static_cast<unsigned char>(byte) >> 4];
    text += digits[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

}  // namespace pgtrain::pg::crypto
