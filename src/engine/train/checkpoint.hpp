// The state of a run between two steps, as one safetensors file: weights, the optimiser's state, the place in the data, counts.
//
// A run continued from it takes the same steps, bit for bit; and its weights alone are a model that can be used. Reading refuses (config_invalid, model_invalid) a checkpoint
// of other options, other data or another model, naming what differs. What lies on the device goes by in pieces: no copy of the model is
// made on the host.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/io/file.hpp"
#include "engine/train/optimizer.hpp"

namespace pgtrain::engine::train {

// What a checkpoint must agree with.
struct RunIdentity {
  std::string options;      // describe_for_resume()
  std::string precision;    // fp32 | bf16
  std::string data_sha256;  // of the samples file, and of the validation samples' where there is one
};

struct RunState {
  std::int64_t step = 0;  // steps taken
  std::uint64_t tokens = 0;
  bool has_loss_before = false;
  double loss_before = 0, last_loss = 0;
  double lowest_loss = 0;                     // held-out, so far
  std::int64_t evaluations_without_gain = 0;  // since it was that low
  std::int64_t evaluated_step = 0;            // of the last evaluation
  std::vector<float> notes;                   // of the objective
  std::vector<std::int64_t> cursor;  // data::TrainingStream
  std::string tokenizer;             // tokenizer.json
};

io::WrittenFile write_checkpoint(const std::string& path, const RunIdentity& identity, const RunState& state, graph::ParameterStore& store, const Optimizer& optimizer);

class CheckpointReader {
 public:
  explicit CheckpointReader(const std::string& path);
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  const std::string& precision() const { return precision_; }
  const RunState& state() const { return state_; }
  void check(const RunIdentity& identity) const;
  void load(graph::ParameterStore& store, const Optimizer& optimizer) const;
  // The weights alone, into a store of a graph for use; `are_all`: each weight of the graph is in the file, else what is not stays as it
  // is. What has no adapters is all frozen there. poll is called between weights.
  void load_weights(graph::ParameterStore& store, bool are_all, const std::function<void()>& poll) const;

 private:
  struct File;
  File* file_;
  std::string precision_;
  RunState state_;
};

}  // namespace pgtrain::engine::train
