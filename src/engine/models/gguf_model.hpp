// What llama.cpp calls things: configurations and tensors of the architectures llama (mistral among them), qwen2, qwen3 and gpt2
// in GGUF's words, in both directions.
//
// Its llama converter stores the rows of q and k in pairs that are rotated together, transformers in halves; gpt2's matrices lie
// transposed. Called by checkpoint_source (reading) and by the GGUF export.
#pragma once

#include <string>
#include <vector>

#include "engine/io/gguf.hpp"
#include "engine/models/model_config.hpp"

namespace pgtrain::engine::models {

// model_invalid by field, as ModelConfig::from_json. The tokens come from tokenizer.ggml.*_token_id.
ModelConfig config_from_gguf(const io::GgufFile& file);
// What llama.cpp has no words for and would compute otherwise; empty when there is nothing.
std::string gguf_obstacle(const ModelConfig& config);
// The model as a GGUF file has it: llama.cpp lets every llama model see everything before a token and knows no dynamic rotation, so the
// context ends with the window, and where such a rotation begins to change something; numbers are floats.
ModelConfig gguf_config(ModelConfig config);
// Every field but those of the tokenizer.
void write_gguf_metadata(io::GgufWriter& writer, const ModelConfig& config, const std::string& model_name);

enum class GgufLayout { Same, Pairs, Transposed };

// Where a parameter lies in a GGUF file.
struct GgufPlace {
  std::string name;
  GgufLayout layout = GgufLayout::Same;
  std::vector<std::uint64_t> shape;  // there
};
GgufPlace gguf_place(const ModelConfig& config, const ParameterShape& parameter);

// Where element (row, column) of the GGUF tensor lies in the parameter. Pairs need the width of a head.
std::uint64_t parameter_row(GgufLayout layout, std::uint64_t row, std::uint64_t head_width);
// A whole parameter in the order of its GGUF tensor; values and out hold shape's product.
void to_gguf_layout(const GgufPlace& place, int head_width, const float* values, float* out);

// Llama 3.1's scaling has no metadata in GGUF but a tensor, rope_freqs.weight: by what each frequency is divided.
inline constexpr const char* kRopeFactors = "rope_freqs.weight";
std::vector<float> rope_factors(const Rope& rope, int head_width);

}  // namespace pgtrain::engine::models
