// Tokens and their hashes, see token.hpp.
#include "pg/crypto/token.hpp"

#include <sodium.h>

#include <array>
#include <cstring>

#include "pg/crypto/library.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::crypto {

void initialise() {
  static const bool ready = sodium_init() >= 0;
  if (!ready) throw Error(code::Internal, "libsodium cannot be used", "The system gives no random numbers.");
}

std::string new_token() {
  initialise();
  std::array<unsigned char, 32> random{};
  randombytes_buf(random.data(), random.size());
  constexpr int variant = sodium_base64_VARIANT_URLSAFE_NO_PADDING;
  std::string token(sodium_base64_ENCODED_LEN(random.size(), variant), '\0');
  sodium_bin2base64(token.data(), token.size(), random.data(), random.size(), variant);
  token.resize(std::strlen(token.c_str()));
  sodium_memzero(random.data(), random.size());
  return token;
}

std::string hash_token(std::string_view token) {
  initialise();
  std::string hash(crypto_generichash_BYTES, '\0');
  crypto_generichash(reinterpret_cast<unsigned char *>(hash.data()), hash.size(),
                     reinterpret_cast<const unsigned char *>(token.data()), token.size(), nullptr, 0);
  return hash;
}

uint64_t short_hash(std::string_view text) {
  const std::string hash = hash_token(text);
  uint64_t number = 0;
  std::memcpy(&number, hash.data(), sizeof number);
  return number;
}

}  // namespace pgtrain::pg::crypto
