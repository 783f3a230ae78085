// Lists of weights of the families, see weights.hpp.
#include "engine/models/weights.hpp"

#include <cmath>

namespace pgtrain::engine::models {
namespace {

ModelWeight vector(const std::string& name, std::int64_t width, WeightInit init) {
  ModelWeight weight{name, {width}, {{name, width}}};
  weight.init = init;
  return weight;
}

ModelWeight matrix(const std::string& name, std::int64_t rows, std::int64_t columns, WeightInit init = WeightInit::Normal) {
  ModelWeight weight{name, {rows, columns}, {{name, rows}}, true};
  weight.init = init;
  return weight;
}

ModelWeight linear(const std::string& module, std::int64_t rows, std::int64_t columns, bool is_in_out = false, WeightInit init = WeightInit::Normal) {
  ModelWeight weight = matrix(module + ".weight", rows, columns, init);
  weight.is_linear = true, weight.is_in_out = is_in_out;
  return weight;
}

// Several tensors of checkpoints, one below the other; without columns their biases.
ModelWeight stacked(const std::string& name, const std::vector<TensorPart>& parts, std::int64_t columns) {
  std::int64_t rows = 0;
  for (const TensorPart& part : parts) rows += part.rows;
  ModelWeight weight = columns > 0 ? linear(name, rows, columns) : vector(name + ".bias", rows, WeightInit::Zero);
  weight.parts = parts;
  for (TensorPart& part : weight.parts) part.name += columns > 0 ? ".weight" : ".bias";
  return weight;
}

std::vector<ModelWeight> llama_weights(const ModelConfig& config) {
  const std::int64_t q = std::int64_t{config.heads} * config.head_width, kv = std::int64_t{config.kv_heads} * config.head_width;
  std::vector<ModelWeight> out;
  out.push_back(matrix("model.embed_tokens.weight", config.vocab_size, config.width));
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string block = "model.layers." + std::to_string(layer) + ".", attention = block + "self_attn.", mlp = block + "mlp.";
    out.push_back(vector(block + "input_layernorm.weight", config.width, WeightInit::One));
    const std::vector<TensorPart> qkv = {{attention + "q_proj", q}, {attention + "k_proj", kv}, {attention + "v_proj", kv}};
    out.push_back(stacked(attention + "qkv_proj", qkv, config.width));
    if (config.qkv_bias) out.push_back(stacked(attention + "qkv_proj", qkv, 0));
    if (config.qk_norm) {
      out.push_back(vector(attention + "q_norm.weight", config.head_width, WeightInit::One));
      out.push_back(vector(attention + "k_norm.weight", config.head_width, WeightInit::One));
    }
    out.push_back(linear(attention + "o_proj", config.width, q));
    if (config.output_bias) out.push_back(vector(attention + "o_proj.bias", config.width, WeightInit::Zero));
    out.push_back(vector(block + "post_attention_layernorm.weight", config.width, WeightInit::One));
    const std::vector<TensorPart> gate_up = {{mlp + "gate_proj", config.inner_width}, {mlp + "up_proj", config.inner_width}};
    out.push_back(stacked(mlp + "gate_up_proj", gate_up, config.width));
    if (config.mlp_bias) out.push_back(stacked(mlp + "gate_up_proj", gate_up, 0));
    out.push_back(linear(mlp + "down_proj", config.width, config.inner_width));
    if (config.mlp_bias) out.push_back(vector(mlp + "down_proj.bias", config.width, WeightInit::Zero));
  }
  out.push_back(vector("model.norm.weight", config.width, WeightInit::One));
  if (!config.ties_head) out.push_back(matrix("lm_head.weight", config.vocab_size, config.width));
  return out;
}

std::vector<ModelWeight> gpt2_weights(const ModelConfig& config) {
  const std::int64_t width = config.width, inner = config.inner_width;
  const auto block = [](int layer) { return "transformer.h." + std::to_string(layer) + "."; };
  // Matrices first: the optimiser then touches what decays and what does not in one call each.
  std::vector<ModelWeight> out;
  out.push_back(matrix("transformer.wte.weight", config.vocab_size, width));
  out.push_back(matrix("transformer.wpe.weight", config.context, width));
  for (int layer = 0; layer < config.layers; ++layer) {
    out.push_back(linear(block(layer) + "attn.c_attn", width, 3 * width, true));
    out.push_back(linear(block(layer) + "attn.c_proj", width, width, true, WeightInit::ResidualNormal));
    out.push_back(linear(block(layer) + "mlp.c_fc", width, inner, true));
    out.push_back(linear(block(layer) + "mlp.c_proj", inner, width, true, WeightInit::ResidualNormal));
  }
  if (!config.ties_head) out.push_back(matrix("lm_head.weight", config.vocab_size, width));
  const auto add_norm = [&](const std::string& name) {
    out.push_back(vector(name + ".weight", width, WeightInit::One));
    out.push_back(vector(name + ".bias", width, WeightInit::Zero));
  };
  for (int layer = 0; layer < config.layers; ++layer) {
    add_norm(block(layer) + "ln_1");
    out.push_back(vector(block(layer) + "attn.c_attn.bias", 3 * width, WeightInit::Zero));
    out.push_back(vector(block(layer) + "attn.c_proj.bias", width, WeightInit::Zero));
    add_norm(block(layer) + "ln_2");
    out.push_back(vector(block(layer) + "mlp.c_fc.bias", inner, WeightInit::Zero));
    out.push_back(vector(block(layer) + "mlp.c_proj.bias", width, WeightInit::Zero));
  }
  add_norm("transformer.ln_f");
  return out;
}

}  // namespace

std::string TensorPart::module() const { return name.substr(0, name.rfind('.')); }

std::int64_t ModelWeight::count() const {
  std::int64_t out = 1;
  for (const std::int64_t extent : shape) out *= extent;
  return out;
}

std::vector<ModelWeight> model_weights(const ModelConfig& config) { return config.family == Family::Llama ? llama_weights(config) : gpt2_weights(config); }

std::uint64_t count_parameters(const ModelConfig& config) {
  std::uint64_t out = 0;
  for (const ModelWeight& weight : model_weights(config)) out += static_cast<std::uint64_t>(weight.count());
  return out;
}

std::string head_weight(const ModelConfig& config) {
  if (!config.ties_head) return "lm_head.weight";
  return config.family == Family::Llama ? "model.embed_tokens.weight" : "transformer.wte.weight";
}

std::vector<float> rope_table(const ModelConfig& config, std::int64_t positions) {
  const std::vector<float> turns = rope_frequencies(config.rope, config.head_width, positions);
  std::vector<float> table;
  table.reserve(static_cast<std::size_t>(positions * config.head_width));
  for (std::int64_t position = 0; position < positions; ++position) {
    // The angle is rounded to float, as the models were trained with it.
    const auto angle = [&](float turn) { return static_cast<double>(static_cast<float>(position) * turn); };
    for (const float turn : turns) table.push_back(static_cast<float>(std::cos(angle(turn)) * config.rope.attention_factor));
    for (const float turn : turns) table.push_back(static_cast<float>(std::sin(angle(turn)) * config.rope.attention_factor));
  }
  return table;
}

}  // namespace pgtrain::engine::models
