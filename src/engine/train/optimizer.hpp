// AdamW over the flat buffers of a model: decay on matrices only, clipping by the global norm.
#pragma once

#include <cstdint>

#include "engine/graph/executor.hpp"

namespace pgtrain::engine::train {

struct OptimizerOptions {
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double gradient_clip = 1.0;  // 0 = off
};

class Optimizer {
 public:
  Optimizer(graph::ParameterStore& store, const OptimizerOptions& options);
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Length of the store's gradient before clipping; waits for the device. To be called before update().
  double gradient_norm();
  // step counts from 0.
  void update(std::int64_t step, double learning_rate);

 private:
  graph::ParameterStore& store_;
  const OptimizerOptions options_;
  float* squared_norm_ = nullptr;  // on the device
};

}  // namespace pgtrain::engine::train
