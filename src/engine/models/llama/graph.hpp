// A llama-type decoder as a graph over packed rows, trained whole or through adapters.
//
// Inputs, int32 [batch * length] each: tokens, positions (from 0 in every document), segments, targets (-1 = none).
#pragma once

#include <optional>

#include "engine/graph/graph.hpp"
#include "engine/models/adapters.hpp"
#include "engine/models/llama/weights.hpp"

namespace pgtrain::engine::models {

// Modules that adapters can be put beside: every linear layer but the head.
std::vector<std::string> llama_linear_modules();
// The adapters of a model, in the order of the forward pass.
std::vector<AdapterSpec> llama_adapters(const ModelConfig& config, const AdapterOptions& options);

// Without adapters every weight trains. With them the trained parameters are MODULE.lora_A.weight [rank, in] and
// MODULE.lora_B.weight [out, rank].
graph::Graph build_llama(const ModelConfig& config, const std::optional<AdapterOptions>& adapters, graph::DType compute, std::int64_t batch, std::int64_t length);

}  // namespace pgtrain::engine::models
