// Passwords: Argon2id through libsodium. Standard library and libsodium only; throws pg::Error.
#pragma once

#include <string>
#include <string_view>

namespace pgtrain::pg::crypto {

// Cost of one hash: passes over `memory_bytes`.
struct PasswordCost {
  unsigned long long passes;
  size_t memory_bytes;
};

// The string to store: algorithm, parameters, random salt and hash.
std::string hash_password(std::string_view password, PasswordCost cost);

// Compares in constant time.
bool verify_password(const std::string &stored, std::string_view password);

// Does the work of a verification and says no: an unknown user must take as long as a known one.
bool verify_nothing(std::string_view password, PasswordCost cost);

// Whether the stored string was made with another cost.
bool needs_rehash(const std::string &stored, PasswordCost cost);

}  // namespace pgtrain::pg::crypto
