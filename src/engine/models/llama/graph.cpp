// Describes a llama-type decoder to the graph builder.
#include "engine/models/llama/graph.hpp"

#include <algorithm>
#include <cmath>
#include <unordered_map>

namespace pgtrain::engine::models {

using graph::Builder;
using graph::Value;

double AdapterOptions::scale() const { return alpha / (is_rank_stabilised ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank)); }

std::vector<std::string> llama_linear_modules() { return {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}; }

std::vector<AdapterSpec> llama_adapters(const ModelConfig& config, const AdapterOptions& options) {
  std::vector<AdapterSpec> out;
  for (const LlamaWeight& weight : llama_weights(config)) {
    if (weight.shape.size() != 2) continue;
    std::int64_t column = 0;
    for (const TensorPart& part : weight.parts) {
      const std::string module = part.name.substr(0, part.name.rfind('.'));
      if (std::find(options.targets.begin(), options.targets.end(), module.substr(module.rfind('.') + 1)) != options.targets.end())
        out.push_back({module, weight.shape[1], part.rows, column});
      column += part.rows;
    }
  }
  return out;
}

namespace {

class LlamaBuilder {
 public:
  LlamaBuilder(const ModelConfig& config, const std::optional<AdapterOptions>& adapters, graph::DType compute, std::int64_t batch, std::int64_t length)
      : config_(config), adapters_(adapters), builder_(compute), batch_(batch), length_(length), heads_{config.heads, config.kv_heads, config.head_width} {}

  graph::Graph build() {
    declare_weights();
    const std::int64_t rows = batch_ * length_;
    const float epsilon = static_cast<float>(config_.norm_epsilon);
    const Value tokens = builder_.input("tokens", rows);
    positions_ = builder_.input("positions", rows);
    segments_ = builder_.input("segments", rows);
    const Value targets = builder_.input("targets", rows);
    table_ = builder_.constant(length_, config_.head_width, rope_table(config_, length_));

    stream_ = builder_.embedding(weight("model.embed_tokens.weight"), tokens);
    normed_ = builder_.rms_norm(stream_, weight("model.layers.0.input_layernorm.weight"), epsilon);
    for (int layer = 0; layer < config_.layers; ++layer) {
      const std::string block = "model.layers." + std::to_string(layer) + ".";
      join(attention(block + "self_attn.", layer), block + "post_attention_layernorm.weight");
      const Value hidden = builder_.swiglu(linear(normed_, block + "mlp.gate_up_proj"));
      join(linear(hidden, block + "mlp.down_proj"),
           layer + 1 < config_.layers ? "model.layers." + std::to_string(layer + 1) + ".input_layernorm.weight" : "model.norm.weight");
    }
    builder_.linear_cross_entropy(normed_, weight(config_.ties_head ? "model.embed_tokens.weight" : "lm_head.weight"), targets);
    return std::move(builder_).finish();
  }

 private:
  void declare_weights() {
    for (const LlamaWeight& given : llama_weights(config_))
      weights_.emplace(given.name, adapters_ ? builder_.frozen(given.name, given.shape) : builder_.parameter(given.name, given.shape, given.decays));
    if (!adapters_) return;
    const auto scale = static_cast<float>(adapters_->scale());
    for (const AdapterSpec& spec : llama_adapters(config_, *adapters_)) {
      const Value down = builder_.parameter(spec.module + ".lora_A.weight", {adapters_->rank, spec.in}, true);
      const Value up = builder_.parameter(spec.module + ".lora_B.weight", {spec.out, adapters_->rank}, true);
      uses_[projection_of(spec.module)].push_back({down, up, spec.column, scale});
    }
  }

  // The matrix in which a module's rows lie.
  static std::string projection_of(const std::string& module) {
    const std::size_t dot = module.rfind('.') + 1;
    const std::string last = module.substr(dot);
    if (last == "q_proj" || last == "k_proj" || last == "v_proj") return module.substr(0, dot) + "qkv_proj";
    if (last == "gate_proj" || last == "up_proj") return module.substr(0, dot) + "gate_up_proj";
    return module;
  }

  Value weight(const std::string& name) const { return weights_.at(name); }

  Value linear(Value x, const std::string& name) {
    const auto bias = weights_.find(name + ".bias");
    const auto uses = uses_.find(name);
    const bool has_adapters = uses != uses_.end();
    const Value adapted = has_adapters && adapters_->dropout > 0 ? builder_.dropout(x, static_cast<float>(adapters_->dropout)) : x;
    return builder_.projection(x, weight(name + ".weight"), bias == weights_.end() ? Value{} : bias->second, adapted, has_adapters ? uses->second : std::vector<Builder::Adapter>{});
  }

  Value attention(const std::string& block, int layer) {
    Value qkv = linear(normed_, block + "qkv_proj");
    if (config_.qk_norm)
      qkv = builder_.head_norm(qkv, weight(block + "q_norm.weight"), weight(block + "k_norm.weight"), heads_, static_cast<float>(config_.norm_epsilon));
    const Value turned = builder_.rope(qkv, positions_, table_, heads_);
    return linear(builder_.attention(turned, segments_, batch_, length_, heads_, config_.window > 0 && config_.slides[static_cast<std::size_t>(layer)] ? config_.window : 0), block + "o_proj");
  }

  // Each residual addition is done together with the norm that reads it.
  void join(Value branch, const std::string& norm) {
    const auto joined = builder_.add_rms_norm(stream_, branch, weight(norm), static_cast<float>(config_.norm_epsilon));
    stream_ = joined.sum;
    normed_ = joined.norm;
  }

  const ModelConfig& config_;
  const std::optional<AdapterOptions>& adapters_;
  Builder builder_;
  const std::int64_t batch_, length_;
  const Builder::Heads heads_;
  std::unordered_map<std::string, Value> weights_;
  std::unordered_map<std::string, std::vector<Builder::Adapter>> uses_;  // by projection
  Value positions_, segments_, table_, stream_, normed_;
};

}  // namespace

graph::Graph build_llama(const ModelConfig& config, const std::optional<AdapterOptions>& adapters, graph::DType compute, std::int64_t batch, std::int64_t length) {
  return LlamaBuilder(config, adapters, compute, batch, length).build();
}

}  // namespace pgtrain::engine::models
