// Sealing of secrets: XChaCha20-Poly1305 (IETF) with a key of its own for each row, derived from a root key and the row's identity,
// which is the associated data too: sealed bytes that are moved to another row do not open. Nothing that SQL can call returns plain
// text: what `open` gives is for workers and for C functions that compare. Standard library and libsodium only; throws pg::Error.
//
// Sealed: version (1 byte), id of the root key (8), nonce (24), ciphertext, tag (16).
#pragma once

#include <string>
#include <string_view>

#include "pg/crypto/key_ring.hpp"
#include "pg/crypto/locked.hpp"

namespace pgtrain::pg::crypto {

inline constexpr size_t plain_bytes_max = 16384;
inline constexpr size_t sealed_overhead = 1 + 8 + 24 + 16;

// Plain text that was opened: locked memory, wiped by its destructor.
using Opened = LockedBytes;

// `identity` is "table/column/row key". Throws PT503 when there is no root key.
std::string seal(std::string_view plain, std::string_view identity);
std::string seal(const KeyRing &ring, std::string_view plain, std::string_view identity);

// Throws PT503 when its root key is missing, PT422 when the bytes are no sealed ones, were changed, or belong to another row.
Opened open(std::string_view sealed, std::string_view identity);
Opened open(const KeyRing &ring, std::string_view sealed, std::string_view identity);

// The same under a new nonce and the current root key.
std::string seal_again(std::string_view sealed, std::string_view identity);

// The root key that sealed bytes need. Throws PT422 when they are none.
KeyId key_of(std::string_view sealed);

}  // namespace pgtrain::pg::crypto
