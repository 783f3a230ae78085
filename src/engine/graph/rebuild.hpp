// What a training graph forgets after its forward, and how it comes back just before the backward reads it, see Recompute.
// Internal to src/engine/graph; compile() asks.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/graph/graph.hpp"

namespace pgtrain::engine::graph {

// How a node runs once more. Part: only its last pass, over what is kept: the norm of a sum that is there, the gelu of a product.
enum class Again : std::uint8_t { No, Part, Whole };

struct Rebuilding {
  std::vector<Again> ways;           // by node
  std::vector<std::int32_t> makers;  // by value: the node that makes it, -1 for what is given
  std::vector<bool> is_forgotten;    // by value
};

// The activations that a node reads when it runs so.
std::vector<std::int32_t> reads_of(const Node& node, Again way);

// `is_read_later`: by value, whether the backward reads it.
Rebuilding find_rebuilding(const Graph& graph, Recompute recompute, const std::vector<bool>& is_read_later);

}  // namespace pgtrain::engine::graph
