// Draws keyed by seed: counter = (minor, minor high, major, stream); major is a step or an epoch and stays below 2^32.
#include "engine/data/streams.hpp"

#include "engine/core/philox.hpp"

namespace pgtrain::engine::data {

std::uint64_t draw_bits(std::uint64_t seed, Stream stream, std::uint64_t major, std::uint64_t minor) {
  const auto words = core::philox({static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
                                  {static_cast<std::uint32_t>(minor), static_cast<std::uint32_t>(minor >> 32), static_cast<std::uint32_t>(major),
                                   static_cast<std::uint32_t>(stream)});
  return std::uint64_t{words[1]} << 32 | words[0];
}

double draw_uniform(std::uint64_t seed, Stream stream, std::uint64_t major, std::uint64_t minor) {
  return static_cast<double>(draw_bits(seed, stream, major, minor) >> 11) * 0x1p-53;
}

std::uint64_t draw_below(std::uint64_t seed, Stream stream, std::uint64_t major, std::uint64_t minor, std::uint64_t limit) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(draw_bits(seed, stream, major, minor)) * limit >> 64);
}

}  // namespace pgtrain::engine::data
