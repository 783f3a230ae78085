// Random tokens (sessions, refresh, invites, API keys) and the hash under which they are stored. A token has 256 random bits,
// so its plain BLAKE2b hash cannot be searched and needs neither salt nor cost. Standard library and libsodium only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pgtrain::pg::crypto {

// 43 characters of URL-safe base64: 32 random bytes.
std::string new_token();

// 32 bytes to store and to look up by.
std::string hash_token(std::string_view token);

// A number that stands for a text in a small table.
uint64_t short_hash(std::string_view text);

}  // namespace pgtrain::pg::crypto
