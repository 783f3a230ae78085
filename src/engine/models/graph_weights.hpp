// Declares the weights and adapters of a model to a graph builder, and uses them; shared by the families' graphs.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "engine/graph/graph.hpp"
#include "engine/models/adapters.hpp"

namespace pgtrain::engine::models {

class GraphWeights {
 public:
  GraphWeights(const ModelConfig& config, const Tuning& tuning, graph::Builder& builder);

  graph::Value operator[](const std::string& name) const { return values_.at(name); }
  // x through the linear layer `module`, with its bias where it has one and its adapters where it has some.
  graph::Value linear(graph::Value x, const std::string& module, graph::Activation activation = graph::Activation::None);

 private:
  graph::Value frozen(const ModelWeight& weight, bool is_quantized);

  graph::Builder& builder_;
  const double dropout_;
  std::unordered_map<std::string, graph::Value> values_;
  std::unordered_map<std::string, bool> is_in_out_;                             // by weight
  std::unordered_map<std::string, std::vector<graph::Builder::Adapter>> uses_;  // by weight
};

}  // namespace pgtrain::engine::models
