// The root keys: read from text (a file or the output of a command, see key_source.hpp), each known by an id that is derived from
// the key itself, so that a wrong key is recognised. One of them is current: it seals what is new, the others still open.
// Standard library and libsodium only; throws pg::Error. Called by seal.cpp, and by secrets/ which decides where keys come from.
//
// The text: one key a line, 64 hexadecimal digits, oldest first; `#` begins a comment. The last line is current unless another
// one says so by the word `current` behind its key.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pg/crypto/locked.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::crypto {

inline constexpr size_t root_key_bytes = 32;
inline constexpr size_t keys_max = 64;  // more keys than anybody rotates through in years

using KeyId = std::array<unsigned char, 8>;
using RootKey = std::span<const unsigned char, root_key_bytes>;

// 16 hexadecimal digits, as shown to administrators and in errors.
std::string to_text(const KeyId &id);

class KeyRing {
 public:
  KeyRing() = default;
  // `origin` names the text in errors, which never quote it.
  KeyRing(std::string_view text, const std::string &origin);
  // Of one new key.
  static KeyRing random();

  bool empty() const { return ids_.empty(); }
  const std::vector<KeyId> &ids() const { return ids_; }
  bool contains(const KeyId &id) const;
  // Throws when the key is not there.
  RootKey key(const KeyId &id) const;
  // Throws when there is none.
  const KeyId &current_id() const;
  // Whether the keys are locked in memory now; asks again, because a fork loses the lock.
  bool lock() { return keys_.lock(); }
  // The text that makes the same ring.
  LockedBytes to_lines() const;

 private:
  RootKey at(size_t index) const;

  LockedBytes keys_;
  std::vector<KeyId> ids_;
  size_t current_ = 0;
};

// The error for a server without root keys.
Error no_root_key(const std::string &detail);

// The ring of this process. `source` is asked at each use, so that it can bring in changed keys; it throws, with what to do, when
// there are none. Without a source every use is refused.
using KeyRingSource = const KeyRing &(*)();
void set_key_ring_source(KeyRingSource source);
const KeyRing &key_ring();

}  // namespace pgtrain::pg::crypto
