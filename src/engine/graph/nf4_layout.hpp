// Where the parts of weights in 4 bits lie in the one block of memory that a ParameterStore has for them: the code book of the
// scales first, then of each parameter, part by part: codes, quantised scales, scales of the scales. Internal to src/engine/graph.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/nf4_format.hpp"
#include "engine/graph/graph.hpp"

namespace pgtrain::engine::graph {

constexpr std::uint64_t kNf4First = 256 * sizeof(float);  // what the code book takes

struct Nf4Part {
  std::int64_t first = 0, count = 0;           // elements of the parameter
  std::uint64_t codes = 0, scales = 0, nested = 0;  // bytes from the beginning of the memory
  std::uint64_t end = 0;
};

inline std::vector<Nf4Part> nf4_parts(const Parameter& parameter) {
  const auto aligned = [](std::int64_t bytes) { return (static_cast<std::uint64_t>(bytes) + 63) / 64 * 64; };
  std::vector<Nf4Part> parts;
  Nf4Part next{.end = static_cast<std::uint64_t>(parameter.offset)};
  for (const std::int64_t rows : parameter.part_rows) {
    next.first += next.count;
    next.count = rows * parameter.shape[1];
    const std::int64_t blocks = (next.count + backend::kNf4Block - 1) / backend::kNf4Block, nested = (blocks + backend::kNf4NestedBlock - 1) / backend::kNf4NestedBlock;
    next.codes = next.end;
    next.scales = next.codes + aligned((next.count + 1) / 2);
    next.nested = next.scales + aligned(blocks);
    next.end = next.nested + aligned(nested * static_cast<std::int64_t>(sizeof(float)));
    parts.push_back(next);
  }
  return parts;
}

inline std::uint64_t nf4_end(const Parameter& parameter) { return nf4_parts(parameter).back().end; }

}  // namespace pgtrain::engine::graph
