// Runs a compiled graph on a device: parameters in flat buffers, activations in one arena, nothing allocated in a step. Where the device can
// record, runs that are alike are replayed.
//
// plan_memory() says every byte before anything is allocated. Several executors (training, evaluation) may share one
// ParameterStore. Called by train and by tests; one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/graph/graph.hpp"

namespace pgtrain::engine::graph {

enum class Mode { Train, Evaluate };
// What a training graph forgets of what its backward reads, and computes again just before. Cheap: what one pass over memory makes from
// what is kept (norms, gates, gelu, dropout). Blocks: of each block all but the sum that leaves it, for about a third more time. The
// same bits at every level. Statistics of rows are always kept.
enum class Recompute { None, Cheap, Blocks };

// Where gradients lie. Added: in the store's own memory, and each backward adds to them, as several micro-batches to a step want it.
// Replaced: each backward makes them anew, in memory that they share with the activations that it is done with: they are there
// from its end to the executor's next run. The same bits.
enum class Gradients { Added, Replaced };

struct MemoryUse {
  std::uint64_t weight_bytes = 0;      // floats, or floats in halves; frozen weights in either storage
  std::uint64_t gradient_bytes = 0, optimizer_bytes = 0;
  std::uint64_t activation_bytes = 0;  // the arena and the inputs, less what they share with gradients
  std::uint64_t workspace_bytes = 0;   // what the backend holds for itself
  std::uint64_t total() const { return weight_bytes + gradient_bytes + optimizer_bytes + activation_bytes + workspace_bytes; }
};
// What the optimiser of a run holds, and what the largest of its products takes of the backend.
struct OptimizerMemory {
  std::uint64_t bytes = 0, matmul_bytes = 0;
};
MemoryUse plan_memory(const Graph& graph, Mode mode, const backend::Backend& backend, const OptimizerMemory& optimizer = {}, Recompute recompute = Recompute::None,
                      Gradients gradients = Gradients::Added);

// Weights and gradients of what trains, in the order of graph.parameters: gradients in one flat float buffer, weights in another, or with
// bf16 in two of 16 bits each, of which products read the upper one (backend::Halves). Beside them what is frozen, in the compute type.
class ParameterStore {
 public:
  // Evaluate, or gradients that are Replaced: without memory for gradients of its own.
  ParameterStore(const Graph& graph, backend::Backend& backend, Mode mode, Gradients gradients = Gradients::Added);
  ~ParameterStore();
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  const std::vector<Parameter>& parameters() const { return parameters_; }  // that train
  std::int64_t count() const { return count_; }                             // their elements
  const std::vector<Parameter>& frozen() const { return frozen_parameters_; }
  // Puts one frozen parameter's values in place; host holds parameter.count floats. Those that are held in 4 bits are quantised here.
  void upload_frozen(const Parameter& parameter, const float* host);
  // The values of a frozen parameter as the operations read them.
  std::vector<float> frozen_values(const Parameter& parameter) const;
  // A weight that is held in 4 bits as numbers of the compute type, [out, in] whatever its own layout is; `to` has room for
  // parameter.count of them.
  void dequantize(const Parameter& parameter, void* to) const;
  // Host copies in the flat order, in pieces.
  void upload_weights(const float* host) { upload(0, count_, host); }
  void upload_weight(const Parameter& parameter, const float* host) { upload(parameter.offset, parameter.count, host); }  // one that trains
  void upload_weight(const Parameter& parameter, std::int64_t first, std::int64_t count, const float* host) { upload(parameter.offset + first, count, host); }
  void download_weights(float* host) const { download(0, count_, host); }
  // Elements first ... first + count - 1 of one that trains.
  void download_weight(const Parameter& parameter, std::int64_t first, std::int64_t count, float* host) const { download(parameter.offset + first, count, host); }
  void download_gradients(float* host) const;
  void zero_gradients();

  float* weights() { return weights_; }  // null where they lie in halves
  backend::Halves halves(std::int64_t offset) const { return high_ == nullptr ? backend::Halves{} : backend::Halves{high_ + offset, low_ + offset}; }
  // One that trains as floats on the device: where they lie, or put together in `room`; and back, after they were changed there.
  float* floats(const Parameter& parameter, float* room) const;
  void keep_floats(const Parameter& parameter, const float* from);
  float* gradients() { return lent_ != nullptr ? lent_ : gradients_; }
  void lend_gradients(float* memory) { lent_ = memory; }  // by the executor that makes them
  // What the operations read: frozen weights, upper halves with bf16, else the floats. Not for what is held in 4 bits.
  const void* compute_pointer(const Parameter& parameter) const;
  std::uint64_t quantized() const { return quantized_count_; }  // how often something was: what dequantize() gives the device changes with it
  DType compute() const { return compute_; }
  backend::Backend& backend() { return backend_; }

 private:
  void release_all() noexcept;
  void upload(std::int64_t first, std::int64_t count, const float* host);
  void download(std::int64_t first, std::int64_t count, float* host) const;
  void upload_nf4(const Parameter& parameter, const float* host);
  std::vector<float> nf4_host_values(const Parameter& parameter) const;

  backend::Backend& backend_;
  DType compute_;
  std::vector<Parameter> parameters_, frozen_parameters_;
  std::int64_t count_ = 0;
  float *weights_ = nullptr, *gradients_ = nullptr, *lent_ = nullptr;
  core::Bf16* high_ = nullptr;
  std::uint16_t* low_ = nullptr;
  char *frozen_ = nullptr, *quantized_ = nullptr;
  std::uint64_t quantized_count_ = 0;
  std::unordered_map<std::uint64_t, float> offsets_;  // of the scales of a part in 4 bits, by the place of its codes
};

class Executor {
 public:
  Executor(const Graph& graph, ParameterStore& store, Mode mode, Recompute recompute = Recompute::None, Gradients gradients = Gradients::Added);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void set_input(const std::string& name, const std::int32_t* host);  // all of it, as long as Builder::input said
  void set_dropout(std::uint64_t seed, std::uint64_t draw);  // equal ones drop alike; a draw for each forward_backward()
  // Row r's loss counts weights[r] times in the gradients of the runs that follow, not in the losses that are told; one weight a
  // target. Null: all 1, as it is at first. With sums of losses that are functions of rows (preferences), these are their slopes.
  void set_row_weights(const float* host);
  // Without adapters the runs that follow are those of the model that was adapted, which is the reference of preferences.
  void use_adapters(bool are_used);
  // Losses only, Evaluate or Train. As a run of forward_backward() sees them: drops what set_dropout said, which needs Train.
  void forward(bool drops = false);
  void forward_backward(float loss_scale); // adds loss_scale * d(sum of losses) to the store's gradients, or replaces them by it
  // Of the last run; these wait for the device. The loss and the hit (1 where the target's logit was the highest, of equals the
  // first) of each row, 0 where the target is -1; and their sums over all rows.
  double loss_sum();
  double hit_sum();
  void download_losses(std::vector<float>& host);
  void download_hits(std::vector<float>& host);
  std::uint64_t arena_bytes() const;

  struct Plan;  // execution.hpp

 private:
  std::unique_ptr<Plan> plan_;
};

}  // namespace pgtrain::engine::graph
