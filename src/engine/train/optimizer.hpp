// The optimisers over the flat buffers of a model: AdamW, AdamW with moments of 8 bits, and Muon; decay on matrices only, clipping by
// the global norm.
//
// The moments are the optimiser's own memory, one stretch of the device that optimizer_memory() sizes before it is taken. state()
// names its parts: a checkpoint stores and restores them as they lie, and the run continues bit for bit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/io/safetensors.hpp"

namespace pgtrain::engine::train {

// Muon (Keller Jordan 2024): the momentum of each hidden matrix, as its projection stores it, is made orthogonal by five Newton-Schulz
// iterations and taken sqrt(max(1, outputs / inputs)) times; everything else is AdamW's.
enum class OptimizerKind { AdamW, AdamW8bit, Muon };
OptimizerKind parse_optimizer(const std::string& name);  // adamw | adamw_8bit | muon

struct OptimizerOptions {
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double gradient_clip = 1.0;  // 0 = off
  OptimizerKind kind = OptimizerKind::AdamW;
  core::DType moments = core::DType::F32;  // of AdamW: F32 or Bf16; nothing to AdamW8bit, which has its own
  double muon_momentum = 0.95;             // Nesterov's
  // The rate of Muon's matrices is this many times AdamW's: the 0.02 beside 3e-4 of its author's example.
  double muon_rate_ratio = 0.02 / 3e-4;
};

// What it will hold, and the most that one of its products takes of the backend; config_invalid where the kind has nothing to do.
graph::OptimizerMemory optimizer_memory(const graph::Graph& graph, const OptimizerOptions& options, const backend::Backend& backend);

// A part of the state, as it lies on the device.
struct StateTensor {
  std::string name;
  io::StoredType type = io::StoredType::F32;
  std::vector<std::uint64_t> shape;
  void* memory = nullptr;
  std::uint64_t bytes = 0;
};

class Optimizer {
 public:
  Optimizer(graph::ParameterStore& store, const OptimizerOptions& options);
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Length of the store's gradient before clipping; waits for the device. To be called before update().
  double gradient_norm();
  // step counts from 0. Muon leaves its own values in the store's gradients.
  void update(std::int64_t step, double learning_rate);
  std::vector<StateTensor> state() const;

 private:
  struct Layout;
  struct Place;
  friend graph::OptimizerMemory optimizer_memory(const graph::Graph&, const OptimizerOptions&, const backend::Backend&);
  static Layout lay_out(const std::vector<graph::Parameter>& parameters, const OptimizerOptions& options, core::DType compute);

  template <class Call>
  void fill(Call& call, const Place& place, std::int64_t step, double learning_rate) const;
  void update_adamw(std::size_t first, std::size_t next, std::int64_t step, double learning_rate);
  void update_8bit(const Place& place, std::int64_t step, double learning_rate);
  void update_muon(double learning_rate);
  void orthogonalize(void* x, void* spare, std::int64_t rows, std::int64_t columns);
  char* at(std::uint64_t offset) const { return memory_ + offset; }

  graph::ParameterStore& store_;
  const OptimizerOptions options_;
  const std::unique_ptr<const Layout> layout_;
  char* memory_ = nullptr;
  float squares_ = 0;  // of the last gradient_norm()
};

}  // namespace pgtrain::engine::train
