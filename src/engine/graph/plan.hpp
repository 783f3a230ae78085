// What compile() makes of a graph: a flat list of steps and one arena in which every buffer has a fixed place.
// Internal to src/engine/graph; executor.cpp runs it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/graph/graph.hpp"
#include "engine/graph/rebuild.hpp"

namespace pgtrain::engine::graph {

// A stretch of the arena that is in use from step `first` to step `last`.
struct Buffer {
  std::uint64_t bytes = 0;
  std::int32_t first = INT32_MAX, last = -1;
  std::uint64_t offset = 0;
  bool is_placed = false;  // where it has to be
};

// Gradients [first, first + count) of the flat ones that share the arena: nothing is in them before `step`.
struct Birth {
  std::int32_t step = 0;
  std::int64_t first = 0, count = 0;
};

struct Step {
  enum class Kind : std::uint8_t { Forward, Backward, AddGradients };
  Kind kind = Kind::Forward;
  Again again = Again::No;  // a forward step that the backward needs once more
  std::int32_t node = -1;
  // Buffers of gradients, -1 where there is none. AddGradients: out = a + b.
  std::int32_t dout = -1, dsum = -1, dx = -1, scratch = -1;
  bool dx_accumulates = false;
  // Of a projection with adapters: the gradient of what they read, when that is not x, and of their low-rank products.
  std::int32_t dadapted = -1, dlow = -1;
  std::int32_t dmixed = -1;  // of a decomposed weight: the gradient of what is scaled
  std::int32_t weight = -1;  // a place for the numbers of a weight in 4 bits, while the step runs
  bool dadapted_accumulates = false;
  std::int32_t out = -1, a = -1, b = -1;
  std::int64_t count = 0;
};

struct ExecutionPlan {
  std::vector<Buffer> buffers;
  std::vector<std::int32_t> value_buffer;  // by value id; -1 for parameters
  // Where a value is found once the forward has come to its end: elsewhere when it is computed again.
  std::vector<std::int32_t> later_buffer;
  std::vector<Step> steps;
  std::vector<Birth> births;  // in order of steps; then the arena begins with the gradients. Empty: they lie elsewhere
  std::uint64_t arena_bytes = 0;
};

// Rows of logits that a linear_cross_entropy holds at once, and the distance between them in elements.
std::int64_t logits_rows(const Graph& graph, const Node& node);
std::int64_t logits_pitch(const Graph& graph, const Node& node);

// Floats that the products of a decomposed adapter's down matrix with itself take, padded so that what follows is aligned.
inline std::int64_t gram_floats(std::int64_t rank) { return (rank * rank + 63) / 64 * 64; }

inline std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 255) / 256 * 256; }

// Gives every buffer its offset, and the arena its size.
void place(ExecutionPlan& plan);

ExecutionPlan compile(const Graph& graph, Mode mode, Recompute recompute = Recompute::None, Gradients gradients = Gradients::Added);

}  // namespace pgtrain::engine::graph
