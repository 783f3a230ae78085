// Weights in a builder, see graph_weights.hpp.
#include "engine/models/graph_weights.hpp"

#include <algorithm>

namespace pgtrain::engine::models {

using graph::Value;

GraphWeights::GraphWeights(const ModelConfig& config, const Tuning& tuning, graph::Builder& builder)
    : builder_(builder), dropout_(tuning.adapters ? tuning.adapters->dropout : 0) {
  const std::vector<std::string> saved = tuning.adapters ? saved_weights(config, *tuning.adapters) : std::vector<std::string>{};
  for (const ModelWeight& weight : model_weights(config)) {
    const bool trains = tuning.adapters ? std::find(saved.begin(), saved.end(), weight.name) != saved.end() : !tuning.is_frozen;
    values_.emplace(weight.name, trains ? builder.parameter(weight.name, weight.shape, weight.decays) : frozen(weight, tuning.is_quantized));
    is_in_out_.emplace(weight.name, weight.is_in_out);
  }
  if (!tuning.adapters) return;
  for (const AdapterSpec& spec : adapter_specs(config, *tuning.adapters)) {
    const Value down = builder.parameter(spec.module + ".lora_A.weight", {spec.rank, spec.in}, true);
    const Value up = builder.parameter(spec.module + ".lora_B.weight", {spec.out, spec.rank}, true);
    const Value magnitude = tuning.adapters->is_weight_decomposed ? builder.parameter(spec.module + ".lora_magnitude_vector", {spec.out}, true) : Value{};
    uses_[spec.weight].push_back({down, up, spec.column, static_cast<float>(spec.scale), magnitude});
  }
}

Value GraphWeights::frozen(const ModelWeight& weight, bool is_quantized) {
  if (!is_quantized || !weight.is_linear) return builder_.frozen(weight.name, weight.shape);
  std::vector<std::int64_t> rows;
  for (const TensorPart& part : weight.parts) rows.push_back(part.rows);
  return builder_.frozen(weight.name, weight.shape, graph::Storage::Nf4, rows);
}

Value GraphWeights::linear(Value x, const std::string& module, graph::Activation activation) {
  const std::string name = module + ".weight";
  const auto bias = values_.find(module + ".bias");
  const auto uses = uses_.find(name);
  const bool has_adapters = uses != uses_.end();
  const Value adapted = has_adapters && dropout_ > 0 ? builder_.dropout(x, static_cast<float>(dropout_)) : x;
  const Value offset = bias == values_.end() ? Value{} : bias->second;
  const std::vector<graph::Builder::Adapter> adapters = has_adapters ? uses->second : std::vector<graph::Builder::Adapter>{};
  if (is_in_out_.at(name)) return builder_.linear(x, values_.at(name), offset, activation, adapted, adapters);
  return builder_.projection(x, values_.at(name), offset, adapted, adapters);
}

}  // namespace pgtrain::engine::models
