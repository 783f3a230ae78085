// Argon2id through libsodium, see password.hpp.
#include "pg/crypto/password.hpp"

#include <sodium.h>

#include <array>

#include "pg/crypto/library.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::crypto {
namespace {

[[noreturn]] void no_memory(PasswordCost cost) {
  throw Error(code::OutOfMemory, "cannot compute a password hash",
              "Argon2id needs " + std::to_string(cost.memory_bytes / 1024) + " kB.", "Lower pgtrain.password_memory.");
}

}  // namespace

std::string hash_password(std::string_view password, PasswordCost cost) {
  initialise();
  std::array<char, crypto_pwhash_STRBYTES> stored{};
  if (crypto_pwhash_str_alg(stored.data(), password.data(), password.size(), cost.passes, cost.memory_bytes,
                            crypto_pwhash_ALG_ARGON2ID13) != 0)
    no_memory(cost);
  return stored.data();
}

bool verify_password(const std::string &stored, std::string_view password) {
  initialise();
  if (stored.size() >= crypto_pwhash_STRBYTES) return false;
  return crypto_pwhash_str_verify(stored.c_str(), password.data(), password.size()) == 0;
}

bool verify_nothing(std::string_view password, PasswordCost cost) {
  initialise();
  std::array<unsigned char, 32> key{};
  std::array<unsigned char, crypto_pwhash_SALTBYTES> salt{};
  randombytes_buf(salt.data(), salt.size());
  if (crypto_pwhash(key.data(), key.size(), password.data(), password.size(), salt.data(), cost.passes, cost.memory_bytes,
                    crypto_pwhash_ALG_ARGON2ID13) != 0)
    no_memory(cost);
  sodium_memzero(key.data(), key.size());
  return false;
}

bool needs_rehash(const std::string &stored, PasswordCost cost) {
  initialise();
  return crypto_pwhash_str_needs_rehash(stored.c_str(), cost.passes, cost.memory_bytes) != 0;
}

}  // namespace pgtrain::pg::crypto
