// Describes a gpt model to the graph builder.
#include "engine/models/gpt/graph.hpp"

#include <string>
#include <unordered_map>

namespace pgtrain::engine::models {

graph::Graph build_gpt(const GptConfig& config, graph::DType compute, std::int64_t batch, std::int64_t length) {
  graph::Builder builder(compute);
  std::unordered_map<std::string, graph::Value> weights;
  for (const GptParameter& parameter : gpt_parameters(config))
    weights.emplace(parameter.name, builder.parameter(parameter.name, parameter.shape, parameter.decays));
  const auto weight = [&](const std::string& name) { return weights.at("transformer." + name); };
  const auto linear = [&](graph::Value x, const std::string& name, graph::Activation activation = graph::Activation::None) {
    return builder.linear(x, weight(name + ".weight"), weight(name + ".bias"), activation);
  };
  const std::int64_t rows = batch * length;
  const float epsilon = static_cast<float>(config.layer_norm_epsilon);
  const graph::Value tokens = builder.input("tokens", rows), positions = builder.input("positions", rows);
  const graph::Value segments = builder.input("segments", rows), targets = builder.input("targets", rows);

  graph::Value stream = builder.add(builder.embedding(weight("wte.weight"), tokens), builder.embedding(weight("wpe.weight"), positions));
  graph::Value normed = builder.layer_norm(stream, weight("h.0.ln_1.weight"), weight("h.0.ln_1.bias"), epsilon);
  // Each residual addition is done together with the norm that reads it, so a block ends with its successor's first norm.
  const auto join = [&](graph::Value branch, const std::string& norm) {
    const auto joined = builder.add_layer_norm(stream, branch, weight(norm + ".weight"), weight(norm + ".bias"), epsilon);
    stream = joined.sum;
    normed = joined.norm;
  };
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string block = "h." + std::to_string(layer) + ".";
    const graph::Value qkv = linear(normed, block + "attn.c_attn");
    join(linear(builder.attention(qkv, segments, batch, length, {config.heads, config.heads, config.head_width()}), block + "attn.c_proj"), block + "ln_2");
    const graph::Value hidden = linear(normed, block + "mlp.c_fc", graph::Activation::Gelu);
    join(linear(hidden, block + "mlp.c_proj"), layer + 1 < config.layers ? "h." + std::to_string(layer + 1) + ".ln_1" : "ln_f");
  }
  builder.linear_cross_entropy(normed, weight("wte.weight"), targets);
  return std::move(builder).finish();
}

}  // namespace pgtrain::engine::models
