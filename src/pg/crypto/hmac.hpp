// HMAC (RFC 2104) with the three hashes that one-time codes use. SHA-1 is here for them alone: authenticator programs default to
// it, and as the base of an HMAC it is unbroken. Standard library and libsodium only.
#pragma once

#include <string>
#include <string_view>

namespace pgtrain::pg::crypto {

enum class Hash { Sha1, Sha256, Sha512 };

// Bytes of a digest: 20, 32 or 64.
size_t digest_size(Hash hash);

// The code of `message` under `key`, digest_size bytes.
std::string hmac(Hash hash, std::string_view key, std::string_view message);

// Whether two texts are equal, in a time that depends on their lengths only.
bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace pgtrain::pg::crypto
