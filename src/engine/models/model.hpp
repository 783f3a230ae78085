// The facade over the families: what train, exports and tests need to know of a model, whatever its architecture.
//
// A configuration comes from a checkpoint or from fresh_gpt2(); build_model() makes its graph over packed rows, whose inputs are, int32
// [batch * length] each: tokens, positions (from 0 in every document), segments, targets (-1 = none). Without adapters every weight
// trains; with them MODULE.lora_A.weight [rank, in] and MODULE.lora_B.weight [out, rank], and what modules_to_save chose.
#pragma once

#include "engine/graph/graph.hpp"
#include "engine/models/adapters.hpp"
#include "engine/models/load.hpp"
#include "engine/models/model_config.hpp"
#include "engine/models/weights.hpp"

namespace pgtrain::engine::models {

graph::Graph build_model(const ModelConfig& config, const Tuning& tuning, graph::DType compute, std::int64_t batch, std::int64_t length);

}  // namespace pgtrain::engine::models
