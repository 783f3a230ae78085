// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011): four random words as a function of a key and a counter.
//
// No state: the same numbers in any order, on any device. Everything random in a run is keyed (seed, stream, position).
#pragma once

#include <array>
#include <cstdint>

namespace pgtrain::engine::core {

inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 2> key, std::array<std::uint32_t, 4> counter) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0], b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
  }
  return counter;
}

}  // namespace pgtrain::engine::core
