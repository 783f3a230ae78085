// The weights of a model as they lie on a device, and which tensors of a checkpoint they are made of: q, k and v of llama-type models
// are one matrix here, gate and up another.
//
// Called by the graphs and decoders of the families, and by what loads, draws and writes weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/models/model_config.hpp"

namespace pgtrain::engine::models {

// How a model that is made from nothing begins.
enum class WeightInit { Normal, ResidualNormal, Zero, One };

// A stretch of rows of a weight that is a tensor of its own in checkpoints.
struct TensorPart {
  std::string name;
  std::int64_t rows = 0;            // a vector's rows are its elements
  std::string module() const;       // the name without ".weight" or ".bias"
};
struct ModelWeight {
  std::string name;                 // its own name in the graph; the part's when it is one tensor
  std::vector<std::int64_t> shape;  // [out, in], [in, out] or [width]
  std::vector<TensorPart> parts;    // in order of rows
  bool decays = false;
  bool is_linear = false;           // of a linear layer in a block: what adapters are put beside, and what is quantised
  bool is_in_out = false;           // a matrix [in, out], as GPT-2 has them; it is one part
  WeightInit init = WeightInit::Zero;
  std::int64_t count() const;
};
// Every weight once, a tied head not at all. A fresh model's weight draws from a random stream of its own place in this list.
std::vector<ModelWeight> model_weights(const ModelConfig& config);
std::uint64_t count_parameters(const ModelConfig& config);

// The name of the head's matrix, which may be the embedding's.
std::string head_weight(const ModelConfig& config);

// [positions, head_width]: cosines of half a head, then sines, times yarn's attention factor. A dynamic rotation is that of a text as
// long as the table, so it is the same for every text of a run and for the whole of an answer.
std::vector<float> rope_table(const ModelConfig& config, std::int64_t positions);

}  // namespace pgtrain::engine::models
