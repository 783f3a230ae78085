// The model that a run made, tensor by tensor under transformers' names, in float: what trained from the store, the rest from the base
// model's own files, with W + scale B A where adapters are (and DoRA's lengths).
//
// The base is read at its own precision and not as it lay on the device, so that a run in bf16 or over 4-bit weights adds its change to the
// weights that everybody has. Needs memory for one tensor and its adapter. Called by exports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/models/adapters.hpp"
#include "engine/models/checkpoint_source.hpp"

namespace pgtrain::engine::train {

class MergedWeights {
 public:
  // base: null when everything trained. All must outlive this.
  MergedWeights(const models::ModelConfig& config, const models::Tuning& tuning, const models::CheckpointSource* base,
                const graph::ParameterStore& store);

  const std::vector<models::ParameterShape>& shapes() const { return shapes_; }
  // Tensor `index` of shapes(). non_finite_loss when a value is none.
  std::vector<float> read(std::size_t index) const;

 private:
  struct Place {
    const graph::Parameter* parameter = nullptr;  // where it trained; null: in the base
    std::int64_t offset = 0, count = 0;           // within that parameter
    const models::AdapterSpec* adapter = nullptr;
  };
  void add_adapter(const models::AdapterSpec& spec, std::vector<float>& values) const;
  std::vector<float> trained(const std::string& name) const;

  const models::CheckpointSource* base_;
  const graph::ParameterStore& store_;
  bool is_weight_decomposed_ = false;
  std::vector<models::ParameterShape> shapes_;
  std::vector<models::AdapterSpec> adapters_;
  std::unordered_map<std::string, const graph::Parameter*> trained_;
  std::vector<Place> places_;  // as shapes_
};

}  // namespace pgtrain::engine::train
