// SHA-256 through libsodium, see digest.hpp.
#include "pg/crypto/digest.hpp"

#include <sodium.h>

#include "pg/crypto/library.hpp"

namespace pgtrain::pg::crypto {

Digest sha256(std::string_view first, std::string_view second) {
  initialise();
  static_assert(crypto_hash_sha256_BYTES == 32);
  Digest digest{};
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  crypto_hash_sha256_update(&state, reinterpret_cast<const unsigned char *>(first.data()), first.size());
  crypto_hash_sha256_update(&state, reinterpret_cast<const unsigned char *>(second.data()), second.size());
  crypto_hash_sha256_final(&state, digest.data());
  return digest;
}

}  // namespace pgtrain::pg::crypto
