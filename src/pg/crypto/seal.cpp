// Sealing and opening, see seal.hpp.
#include "pg/crypto/seal.hpp"

#include <sodium.h>

#include <cstring>

#include "pg/crypto/library.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::crypto {
namespace {

constexpr char version = 1;
constexpr char key_context[] = "pgtrain row key";
constexpr size_t nonce_bytes = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
constexpr size_t tag_bytes = crypto_aead_xchacha20poly1305_ietf_ABYTES;
constexpr size_t head_bytes = 1 + std::tuple_size_v<KeyId>;  // what the tag covers besides the identity
static_assert(sealed_overhead == head_bytes + nonce_bytes + tag_bytes);
static_assert(crypto_aead_xchacha20poly1305_ietf_KEYBYTES == root_key_bytes);

const unsigned char *bytes(std::string_view text) { return reinterpret_cast<const unsigned char *>(text.data()); }
unsigned char *bytes(std::string &text) { return reinterpret_cast<unsigned char *>(text.data()); }

LockedBytes row_key(RootKey root, std::string_view identity) {
  LockedBytes key(root_key_bytes);
  crypto_generichash_state state;
  crypto_generichash_init(&state, root.data(), root.size(), key.size());
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char *>(key_context), sizeof key_context);
  crypto_generichash_update(&state, bytes(identity), identity.size());
  crypto_generichash_final(&state, key.data(), key.size());
  sodium_memzero(&state, sizeof state);
  return key;
}

std::string associated_data(std::string_view sealed, std::string_view identity) {
  return std::string(sealed.substr(0, head_bytes)).append(identity);
}

[[noreturn]] void not_sealed(const char *why) {
  throw Error(code::InvalidData, "these bytes are no sealed secret", why, "Restore the row from a backup, or store the secret anew.");
}

}  // namespace

std::string seal(const KeyRing &ring, std::string_view plain, std::string_view identity) {
  initialise();
  if (plain.size() > plain_bytes_max)
    throw Error(code::InvalidParameter, "the secret is too long",
                "It has " + std::to_string(plain.size()) + " bytes; there may be " + std::to_string(plain_bytes_max) + ".",
                "Keep what is that long elsewhere, encrypted, and store its key here.");
  const KeyId &id = ring.current_id();
  std::string sealed(sealed_overhead + plain.size(), '\0');
  sealed[0] = version;
  std::memcpy(sealed.data() + 1, id.data(), id.size());
  unsigned char *nonce = bytes(sealed) + head_bytes;
  randombytes_buf(nonce, nonce_bytes);
  const LockedBytes key = row_key(ring.key(id), identity);
  const std::string covered = associated_data(sealed, identity);
  crypto_aead_xchacha20poly1305_ietf_encrypt(nonce + nonce_bytes, nullptr, bytes(plain), plain.size(), bytes(std::string_view(covered)),
                                             covered.size(), nullptr, nonce, key.data());
  return sealed;
}

KeyId key_of(std::string_view sealed) {
  if (sealed.empty()) not_sealed("They are empty.");
  if (sealed[0] != version) not_sealed("Their version is not one that this release of pgtrain knows.");
  if (sealed.size() < sealed_overhead) not_sealed("They are cut short.");
  if (sealed.size() > sealed_overhead + plain_bytes_max) not_sealed("They are longer than any sealed secret.");
  KeyId id;
  std::memcpy(id.data(), sealed.data() + 1, id.size());
  return id;
}

Opened open(const KeyRing &ring, std::string_view sealed, std::string_view identity) {
  initialise();
  const KeyId id = key_of(sealed);
  const LockedBytes key = row_key(ring.key(id), identity);
  const std::string covered = associated_data(sealed, identity);
  const unsigned char *nonce = bytes(sealed) + head_bytes;
  Opened plain(sealed.size() - sealed_overhead);
  if (crypto_aead_xchacha20poly1305_ietf_decrypt(plain.data(), nullptr, nullptr, nonce + nonce_bytes, plain.size() + tag_bytes,
                                                 bytes(std::string_view(covered)), covered.size(), nonce, key.data()) != 0)
    throw Error(code::InvalidData, "a sealed secret does not open",
                "Its root key " + to_text(id) + " is there, but the bytes were changed or were sealed for another row than " +
                    std::string(identity) + ".",
                "Restore the row from a backup, or store the secret anew.");
  return plain;
}

std::string seal(std::string_view plain, std::string_view identity) { return seal(key_ring(), plain, identity); }

Opened open(std::string_view sealed, std::string_view identity) { return open(key_ring(), sealed, identity); }

std::string seal_again(std::string_view sealed, std::string_view identity) {
  const Opened plain = open(sealed, identity);
  return seal(plain.view(), identity);
}

}  // namespace pgtrain::pg::crypto
