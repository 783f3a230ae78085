// Describes a GPT-2 (pre-norm blocks, learned positions, tanh gelu) to the graph builder.
#include "engine/models/family_graphs.hpp"
#include "engine/models/graph_weights.hpp"

namespace pgtrain::engine::models {

graph::Graph build_gpt2(const ModelConfig& config, const Tuning& tuning, graph::DType compute, std::int64_t batch, std::int64_t length) {
  graph::Builder builder(compute);
  GraphWeights weights(config, tuning, builder);
  const auto weight = [&](const std::string& name) { return weights["transformer." + name]; };
  const auto linear = [&](graph::Value x, const std::string& name, graph::Activation activation = graph::Activation::None) {
    return weights.linear(x, "transformer." + name, activation);
  };
  const std::int64_t rows = batch * length;
  const float epsilon = static_cast<float>(config.norm_epsilon);
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
    builder.begin_block(layer);
    const graph::Value qkv = linear(normed, block + "attn.c_attn");
    join(linear(builder.attention(qkv, segments, batch, length, {config.heads, config.heads, config.head_width}), block + "attn.c_proj"), block + "ln_2");
    const graph::Value hidden = linear(normed, block + "mlp.c_fc", graph::Activation::Gelu);
    join(linear(hidden, block + "mlp.c_proj"), layer + 1 < config.layers ? "h." + std::to_string(layer + 1) + ".ln_1" : "ln_f");
  }
  builder.begin_block(-1);
  builder.linear_cross_entropy(normed, weights[head_weight(config)], targets);
  return std::move(builder).finish();
}

}  // namespace pgtrain::engine::models
