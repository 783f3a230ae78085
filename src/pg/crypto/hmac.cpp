// HMAC, see hmac.hpp. libsodium has SHA-256 and SHA-512; SHA-1 (FIPS 180-4) is written here.
#include "pg/crypto/hmac.hpp"

#include <sodium.h>

#include <array>
#include <bit>
#include <cstdint>

#include "pg/crypto/library.hpp"

namespace pgtrain::pg::crypto {
namespace {

constexpr size_t sha1_block = 64;

void sha1_round(std::array<uint32_t, 5> &state, const unsigned char *block) {
  std::array<uint32_t, 80> w;
  for (size_t i = 0; i < 16; ++i)
    w[i] = static_cast<uint32_t>(block[4 * i]) << 24 | static_cast<uint32_t>(block[4 * i + 1]) << 16 |
           static_cast<uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
  for (size_t i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
  auto [a, b, c, d, e] = state;
  for (size_t i = 0; i < 80; ++i) {
    const uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
    const uint32_t k = i < 20 ? 0x5A827999u : i < 40 ? 0x6ED9EBA1u : i < 60 ? 0x8F1BBCDCu : 0xCA62C1D6u;
    const uint32_t next = std::rotl(a, 5) + f + e + k + w[i];
    e = d;
    d = c;
    c = std::rotl(b, 30);
    b = a;
    a = next;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  sodium_memzero(w.data(), sizeof w);
}

std::string sha1(std::string data) {
  const uint64_t bits = static_cast<uint64_t>(data.size()) * 8;
  data += '\x80';
  data.resize((data.size() + 8 + sha1_block - 1) / sha1_block * sha1_block, '\0');
  for (size_t i = 0; i < 8; ++i) data[data.size() - 1 - i] = static_cast<char>(bits >> (8 * i));
  std::array<uint32_t, 5> state{0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
  for (size_t at = 0; at < data.size(); at += sha1_block) sha1_round(state, reinterpret_cast<const unsigned char *>(data.data()) + at);
  sodium_memzero(data.data(), data.size());
  std::string digest;
  for (const uint32_t word : state)
    for (int shift = 24; shift >= 0; shift -= 8) digest += static_cast<char>(word >> shift);
  return digest;
}

std::string hmac_sha1(std::string_view key, std::string_view message) {
  std::string padded = key.size() > sha1_block ? sha1(std::string(key)) : std::string(key);
  padded.resize(sha1_block, '\0');
  std::string inner = padded, outer = padded;
  for (char &byte : inner) byte ^= 0x36;
  for (char &byte : outer) byte ^= 0x5C;
  inner += message;
  outer += sha1(inner);
  std::string code = sha1(outer);
  for (std::string *secret : {&padded, &inner, &outer}) sodium_memzero(secret->data(), secret->size());
  return code;
}

const unsigned char *bytes(std::string_view text) { return reinterpret_cast<const unsigned char *>(text.data()); }

}  // namespace

size_t digest_size(Hash hash) { return hash == Hash::Sha1 ? 20 : hash == Hash::Sha256 ? 32 : 64; }

std::string hmac(Hash hash, std::string_view key, std::string_view message) {
  initialise();
  if (hash == Hash::Sha1) return hmac_sha1(key, message);
  std::string code(digest_size(hash), '\0');
  auto *out = reinterpret_cast<unsigned char *>(code.data());
  if (hash == Hash::Sha256) {
    crypto_auth_hmacsha256_state state;
    crypto_auth_hmacsha256_init(&state, bytes(key), key.size());
    crypto_auth_hmacsha256_update(&state, bytes(message), message.size());
    crypto_auth_hmacsha256_final(&state, out);
    sodium_memzero(&state, sizeof state);
  } else {
    crypto_auth_hmacsha512_state state;
    crypto_auth_hmacsha512_init(&state, bytes(key), key.size());
    crypto_auth_hmacsha512_update(&state, bytes(message), message.size());
    crypto_auth_hmacsha512_final(&state, out);
    sodium_memzero(&state, sizeof state);
  }
  return code;
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  return a.size() == b.size() && sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace pgtrain::pg::crypto
