// The gpt model as a graph: GPT-2 (pre-norm blocks, learned positions, tanh gelu, tied head) over packed rows.
//
// Inputs, int32 [batch * length] each: tokens, positions (from 0 in every document), segments, targets (-1 = none).
#pragma once

#include "engine/graph/graph.hpp"
#include "engine/models/gpt/config.hpp"

namespace pgtrain::engine::models {

graph::Graph build_gpt(const GptConfig& config, graph::DType compute, std::int64_t batch, std::int64_t length);

}  // namespace pgtrain::engine::models
