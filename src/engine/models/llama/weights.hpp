// The weights of a llama-type decoder (Llama 2 and 3, Mistral, Qwen2, Qwen2.5, Qwen3, SmolLM) as they lie on a device, and the angles of
// its positions. Called by the graph, the decoder, and by what loads and writes weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/models/model_config.hpp"

namespace pgtrain::engine::models {

// A stretch of rows of a weight that is a tensor of its own in checkpoints: q, k and v lie in one matrix here, gate and up in another.
struct TensorPart {
  std::string name;
  std::int64_t rows = 0;
};
struct LlamaWeight {
  std::string name;                 // its own name in the graph; the part's when it is one tensor
  std::vector<std::int64_t> shape;  // [out, in], or [width]
  std::vector<TensorPart> parts;    // in order of rows; a vector's rows are its elements
  bool decays = false;
};
// Every weight once, in the order of the forward pass.
std::vector<LlamaWeight> llama_weights(const ModelConfig& config);

// [context, head_width]: cosines of half a head, then sines, for positions from 0.
std::vector<float> rope_table(const ModelConfig& config, std::int64_t context);

}  // namespace pgtrain::engine::models
