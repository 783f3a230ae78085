// Chooses the family's graph, see model.hpp.
#include "engine/models/model.hpp"

#include "engine/core/error.hpp"
#include "engine/models/family_graphs.hpp"

namespace pgtrain::engine::models {

graph::Graph build_model(const ModelConfig& config, const Tuning& tuning, graph::DType compute, std::int64_t batch, std::int64_t length) {
  if (tuning.is_quantized && !tuning.adapters)
    throw core::Error("config_invalid", "a model in 4 bits trains through adapters only", "", "Choose method qlora, or full without quantisation.");
  return config.family == Family::Llama ? build_llama(config, tuning, compute, batch, length) : build_gpt2(config, tuning, compute, batch, length);
}

}  // namespace pgtrain::engine::models
