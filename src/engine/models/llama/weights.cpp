// Weights and positions of llama-type decoders, see weights.hpp.
#include "engine/models/llama/weights.hpp"

#include <cmath>

namespace pgtrain::engine::models {
namespace {

// One tensor of rows and columns; a vector has no columns.
LlamaWeight single(const std::string& name, std::int64_t rows, std::int64_t columns) {
  LlamaWeight weight{name, {rows}, {{name, rows}}, columns > 0};
  if (columns > 0) weight.shape.push_back(columns);
  return weight;
}

LlamaWeight stacked(const std::string& name, const std::vector<TensorPart>& parts, std::int64_t columns) {
  std::int64_t rows = 0;
  for (const TensorPart& part : parts) rows += part.rows;
  LlamaWeight weight{name, {rows}, parts, columns > 0};
  if (columns > 0) weight.shape.push_back(columns);
  return weight;
}

}  // namespace

std::vector<LlamaWeight> llama_weights(const ModelConfig& config) {
  const std::int64_t q = std::int64_t{config.heads} * config.head_width, kv = std::int64_t{config.kv_heads} * config.head_width;
  std::vector<LlamaWeight> out;
  out.push_back(single("model.embed_tokens.weight", config.vocab_size, config.width));
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string block = "model.layers." + std::to_string(layer) + ".", attention = block + "self_attn.", mlp = block + "mlp.";
    out.push_back(single(block + "input_layernorm.weight", config.width, 0));
    const auto qkv = [&](const char* kind) {
      return std::vector<TensorPart>{{attention + "q_proj." + kind, q}, {attention + "k_proj." + kind, kv}, {attention + "v_proj." + kind, kv}};
    };
    out.push_back(stacked(attention + "qkv_proj.weight", qkv("weight"), config.width));
    if (config.qkv_bias) out.push_back(stacked(attention + "qkv_proj.bias", qkv("bias"), 0));
    if (config.qk_norm) {
      out.push_back(single(attention + "q_norm.weight", config.head_width, 0));
      out.push_back(single(attention + "k_norm.weight", config.head_width, 0));
    }
    out.push_back(single(attention + "o_proj.weight", config.width, q));
    if (config.output_bias) out.push_back(single(attention + "o_proj.bias", config.width, 0));
    out.push_back(single(block + "post_attention_layernorm.weight", config.width, 0));
    const auto gate_up = [&](const char* kind) {
      return std::vector<TensorPart>{{mlp + "gate_proj." + kind, config.inner_width}, {mlp + "up_proj." + kind, config.inner_width}};
    };
    out.push_back(stacked(mlp + "gate_up_proj.weight", gate_up("weight"), config.width));
    if (config.mlp_bias) out.push_back(stacked(mlp + "gate_up_proj.bias", gate_up("bias"), 0));
    out.push_back(single(mlp + "down_proj.weight", config.width, config.inner_width));
    if (config.mlp_bias) out.push_back(single(mlp + "down_proj.bias", config.width, 0));
  }
  out.push_back(single("model.norm.weight", config.width, 0));
  if (!config.ties_head) out.push_back(single("lm_head.weight", config.vocab_size, config.width));
  return out;
}

std::vector<float> rope_table(const ModelConfig& config, std::int64_t context) {
  const std::vector<float> turns = rope_frequencies(config.rope, config.head_width);
  std::vector<float> table;
  table.reserve(static_cast<std::size_t>(context * config.head_width));
  for (std::int64_t position = 0; position < context; ++position) {
    // The angle is rounded to float, as the models were trained with it.
    const auto angle = [&](float turn) { return static_cast<double>(static_cast<float>(position) * turn); };
    for (const float turn : turns) table.push_back(static_cast<float>(std::cos(angle(turn))));
    for (const float turn : turns) table.push_back(static_cast<float>(std::sin(angle(turn))));
  }
  return table;
}

}  // namespace pgtrain::engine::models
