// Puts base, trained weights and adapters together.
#include "engine/train/merged_weights.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/core/error.hpp"

namespace pgtrain::engine::train {

MergedWeights::MergedWeights(const models::ModelConfig& config, const models::Tuning& tuning, const models::CheckpointSource* base,
                             const graph::ParameterStore& store)
    : base_(base), store_(store), shapes_(models::parameter_shapes(config)) {
  for (const graph::Parameter& parameter : store.parameters()) trained_.emplace(parameter.name, &parameter);
  if (tuning.adapters) {
    is_weight_decomposed_ = tuning.adapters->is_weight_decomposed;
    adapters_ = models::adapter_specs(config, *tuning.adapters);
  }
  std::unordered_map<std::string, Place> by_name;
  for (const models::ModelWeight& weight : models::model_weights(config)) {
    const auto found = trained_.find(weight.name);
    std::int64_t offset = 0, rows = 0;
    for (const models::TensorPart& part : weight.parts) rows += part.rows;
    for (const models::TensorPart& part : weight.parts) {
      Place place{found == trained_.end() ? nullptr : found->second, offset, weight.count() / rows * part.rows, nullptr};
      offset += place.count;
      by_name.emplace(part.name, place);
    }
  }
  for (const models::AdapterSpec& spec : adapters_) by_name.at(spec.module + ".weight").adapter = &spec;
  for (const models::ParameterShape& shape : shapes_) {
    places_.push_back(by_name.at(shape.name));
    if (places_.back().parameter == nullptr && base_ == nullptr)
      throw std::logic_error("tensor " + shape.name + " neither trained nor has a base");
  }
}

std::vector<float> MergedWeights::trained(const std::string& name) const {
  const graph::Parameter& parameter = *trained_.at(name);
  std::vector<float> out(static_cast<std::size_t>(parameter.count));
  store_.download_weight(parameter, 0, parameter.count, out.data());
  return out;
}

std::vector<float> MergedWeights::read(std::size_t index) const {
  const Place& place = places_.at(index);
  std::vector<float> out(static_cast<std::size_t>(place.count));
  if (place.parameter != nullptr)
    store_.download_weight(*place.parameter, place.offset, place.count, out.data());
  else
    base_->read_f32(base_->index_of(shapes_[index].name), out.data());
  if (place.adapter != nullptr) add_adapter(*place.adapter, out);
  if (!std::all_of(out.begin(), out.end(), [](float value) { return std::isfinite(value); }))
    throw core::Error("non_finite_loss", "weight " + shapes_[index].name + " is not finite after training", "",
                      "Lower learning_rate, or train in precision => fp32.");
  return out;
}

// values: [out, in], or [in, out] where the model has it so.
void MergedWeights::add_adapter(const models::AdapterSpec& spec, std::vector<float>& values) const {
  const std::vector<float> down = trained(spec.module + ".lora_A.weight"), up = trained(spec.module + ".lora_B.weight");
  const std::vector<float> lengths = is_weight_decomposed_ ? trained(spec.module + ".lora_magnitude_vector") : std::vector<float>{};
  const auto in = static_cast<std::size_t>(spec.in), out = static_cast<std::size_t>(spec.out), rank = static_cast<std::size_t>(spec.rank);
  const std::size_t row_step = spec.is_in_out ? 1 : in, column_step = spec.is_in_out ? out : 1;
  const auto scale = static_cast<float>(spec.scale);
  std::vector<float> change(in);
  for (std::size_t row = 0; row < out; ++row) {
    std::fill(change.begin(), change.end(), 0.0f);
    for (std::size_t k = 0; k < rank; ++k) {
      const float factor = up[row * rank + k];
      for (std::size_t column = 0; column < in; ++column) change[column] += factor * down[k * in + column];
    }
    float* weights = values.data() + row * row_step;
    double squares = 0;
    for (std::size_t column = 0; column < in; ++column) {
      float& weight = weights[column * column_step];
      weight += scale * change[column];
      squares += double{weight} * double{weight};
    }
    if (lengths.empty()) continue;
    const auto factor = static_cast<float>(double{lengths[row]} / std::sqrt(squares));
    for (std::size_t column = 0; column < in; ++column) weights[column * column_step] *= factor;
  }
}

}  // namespace pgtrain::engine::train
