// What a language model is: family, sizes, and everything that changes its arithmetic, read from config.json as transformers 4 and
// 5 write it, or from the metadata of a GGUF file (gguf_model.hpp).
//
// Reading refuses, by field, each value that would be computed differently here, with the list of what is supported; keys that
// are not known change nothing and are passed over. Called by checkpoint_source, by the graphs of the families and by exports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/models/rope.hpp"

namespace pgtrain::engine::models {

enum class Family { Llama, Gpt2 };

struct ModelConfig {
  Family family = Family::Llama;
  std::string model_type;  // llama, mistral, qwen2, qwen3, gpt2
  int layers = 0, width = 0, heads = 0, kv_heads = 0, head_width = 0, inner_width = 0, context = 0, vocab_size = 0;
  double norm_epsilon = 1e-6, initializer_range = 0.02;
  bool ties_head = false;    // the output matrix is the token embedding
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool qk_norm = false;      // an RMS norm over each head of q and k, before rotation
  Rope rope;
  int window = 0;            // tokens that a sliding layer sees, the current one included; 0 = no layer slides
  std::vector<bool> slides;  // per layer
  std::optional<int> bos, pad;
  std::vector<int> eos;      // the first is the model's own, the others end its answers too
  std::string stored_type;   // float32, float16, bfloat16, or empty
  std::vector<std::string> dropped;  // dropout rates above 0, as "attn_pdrop 0.1": read for a warning, nothing is dropped by them here

  int window_of(int layer) const { return window > 0 && slides[static_cast<std::size_t>(layer)] ? window : 0; }  // 0 = sees everything

  static ModelConfig from_json(std::string_view text, const std::string& name);
  std::string to_json() const;  // read by transformers 4 and 5
  // model_invalid when sizes contradict each other. Called by both readers.
  void check(const std::string& name) const;
};

// A GPT-2 that is made from nothing.
ModelConfig fresh_gpt2(int layers, int width, int heads, int context, int vocab_size, int end_of_text);

// Tensors of the checkpoint, named as transformers names them, in the order of the computation. Matrices are [out, in], but for
// gpt2's, which are [in, out]. A tied head is not listed.
struct ParameterShape {
  std::string name;
  std::vector<std::uint64_t> shape;
};
std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);

// The supported-models table of the documentation and of messages.
struct SupportedModel {
  const char *model_type, *models, *config_forms;
};
const std::vector<SupportedModel>& supported_models();
std::string supported_model_types();  // "gpt2, llama, ..."

}  // namespace pgtrain::engine::models
