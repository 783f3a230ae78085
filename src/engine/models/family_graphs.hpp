// The graphs of the families; internal to models/, others call build_model().
#pragma once

#include "engine/graph/graph.hpp"
#include "engine/models/adapters.hpp"

namespace pgtrain::engine::models {

graph::Graph build_llama(const ModelConfig& config, const Tuning& tuning, graph::DType compute, std::int64_t batch, std::int64_t length);
graph::Graph build_gpt2(const ModelConfig& config, const Tuning& tuning, graph::DType compute, std::int64_t batch, std::int64_t length);

}  // namespace pgtrain::engine::models
