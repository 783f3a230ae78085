// Describes a llama-type decoder to the graph builder.
#include "engine/models/family_graphs.hpp"
#include "engine/models/graph_weights.hpp"

namespace pgtrain::engine::models {
namespace {

using graph::Builder;
using graph::Value;

class LlamaBuilder {
 public:
  LlamaBuilder(const ModelConfig& config, const Tuning& tuning, graph::DType compute, std::int64_t batch, std::int64_t length)
      : config_(config), builder_(compute), weights_(config, tuning, builder_), batch_(batch), length_(length), heads_{config.heads, config.kv_heads, config.head_width} {}

  graph::Graph build() {
    const std::int64_t rows = batch_ * length_;
    const Value tokens = builder_.input("tokens", rows);
    positions_ = builder_.input("positions", rows);
    segments_ = builder_.input("segments", rows);
    const Value targets = builder_.input("targets", rows);
    table_ = builder_.constant(length_, config_.head_width, rope_table(config_, length_));

    stream_ = builder_.embedding(weights_["model.embed_tokens.weight"], tokens);
    normed_ = builder_.rms_norm(stream_, weights_["model.layers.0.input_layernorm.weight"], epsilon());
    for (int layer = 0; layer < config_.layers; ++layer) {
      const std::string block = "model.layers." + std::to_string(layer) + ".";
      builder_.begin_block(layer);
      join(attention(block + "self_attn.", layer), block + "post_attention_layernorm.weight");
      const Value hidden = builder_.swiglu(weights_.linear(normed_, block + "mlp.gate_up_proj"));
      join(weights_.linear(hidden, block + "mlp.down_proj"),
           layer + 1 < config_.layers ? "model.layers." + std::to_string(layer + 1) + ".input_layernorm.weight" : "model.norm.weight");
    }
    builder_.begin_block(-1);
    builder_.linear_cross_entropy(normed_, weights_[head_weight(config_)], targets);
    return std::move(builder_).finish();
  }

 private:
  float epsilon() const { return static_cast<float>(config_.norm_epsilon); }

  Value attention(const std::string& block, int layer) {
    Value qkv = weights_.linear(normed_, block + "qkv_proj");
    if (config_.qk_norm) qkv = builder_.head_norm(qkv, weights_[block + "q_norm.weight"], weights_[block + "k_norm.weight"], heads_, epsilon());
    const Value turned = builder_.rope(qkv, positions_, table_, heads_);
    return weights_.linear(builder_.attention(turned, segments_, batch_, length_, heads_, config_.window_of(layer)), block + "o_proj");
  }

  // Each residual addition is done together with the norm that reads it.
  void join(Value branch, const std::string& norm) {
    const auto joined = builder_.add_rms_norm(stream_, branch, weights_[norm], epsilon());
    stream_ = joined.sum;
    normed_ = joined.norm;
  }

  const ModelConfig& config_;
  Builder builder_;
  GraphWeights weights_;
  const std::int64_t batch_, length_;
  const Builder::Heads heads_;
  Value positions_, segments_, table_, stream_, normed_;
};

}  // namespace

graph::Graph build_llama(const ModelConfig& config, const Tuning& tuning, graph::DType compute, std::int64_t batch, std::int64_t length) {
  return LlamaBuilder(config, tuning, compute, batch, length).build();
}

}  // namespace pgtrain::engine::models
