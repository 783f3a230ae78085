// The random numbers of a run, each drawn from Philox by (seed, purpose, position): the same ones on every device, in
// whatever order they are asked for, and after a resume.
#pragma once

#include <cstdint>

namespace pgtrain::engine::data {

enum class Stream : std::uint32_t { HeldOut = 1, Order = 2, Weights = 3, Sample = 4 };

std::uint64_t draw_bits(std::uint64_t seed, Stream stream, std::uint64_t major, std::uint64_t minor);
double draw_uniform(std::uint64_t seed, Stream stream, std::uint64_t major, std::uint64_t minor);  // [0, 1)
// Without bias: 64 random bits scaled to limit, whose remainder is at most limit / 2^64.
std::uint64_t draw_below(std::uint64_t seed, Stream stream, std::uint64_t major, std::uint64_t minor, std::uint64_t limit);

}  // namespace pgtrain::engine::data
