// The shape of a gpt model (GPT-2's architecture) and its config.json as transformers' GPT2LMHeadModel reads it.
//
// Called by train (presets, plan), graph.cpp (to build it) and decode.cpp. Reading refuses, by field, every value that
// we would compute differently.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::engine::models {

struct GptConfig {
  int layers = 0, width = 0, heads = 0, context = 0, vocab_size = 0;
  double layer_norm_epsilon = 1e-5;
  int end_of_text = 256;

  int head_width() const { return width / heads; }
  std::uint64_t parameters() const;
  std::string to_json(const std::string& stored_precision) const;  // fp32 | bf16
  static GptConfig from_json(std::string_view text, const std::string& name);
};

enum class GptInit { Normal, ResidualNormal, Zero, One };

struct GptParameter {
  std::string name;                   // as transformers calls it
  std::vector<std::int64_t> shape;    // matrices are [in, out]
  GptInit init = GptInit::Zero;
  bool decays = false;                // weight decay touches matrices only
};
// In the order in which they lie in the flat buffers. The head is wte itself and so is not listed.
std::vector<GptParameter> gpt_parameters(const GptConfig& config);

// Weights of a fresh model: normal with deviation 0.02, the projections into the residual stream 0.02 / sqrt(2 layers).
// index is the parameter's place in gpt_parameters(): each has its own random stream.
void initialize_gpt_parameter(const GptConfig& config, const GptParameter& parameter, std::size_t index, std::uint64_t seed, float* out);

}  // namespace pgtrain::engine::models
