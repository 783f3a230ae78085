// One run from samples to artifacts; the body of train(). Internal to train/.
//
// Order: read the data, learn or load the tokenizer, tokenize, build the model, load the checkpoint or draw weights,
// evaluate, step, evaluate, sample, save, check. A stop request is looked at in every loop; between micro-batches a
// pause puts the state of the last whole step into a checkpoint.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/data/load.hpp"
#include "engine/data/packing.hpp"
#include "engine/graph/executor.hpp"
#include "engine/io/file.hpp"
#include "engine/models/model_config.hpp"
#include "engine/train/checkpoint.hpp"
#include "engine/train/measured_backend.hpp"
#include "engine/train/optimizer.hpp"
#include "engine/train/schedule.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

core::DType choose_precision(const TrainingOptions& options, const backend::Backend& backend);
OptimizerOptions optimizer_options(const TrainingOptions& options);
MemoryPlan plan_model(const TrainingOptions& resolved, const models::ModelConfig& config, core::DType compute, const backend::Backend& backend);
// out_of_memory with the numbers when the plan is over the limit of the options or of the device.
void check_fits(const TrainingOptions& resolved, const MemoryPlan& plan, const backend::Backend& backend);

class TrainingRun {
 public:
  TrainingRun(const TrainingOptions& resolved, std::string documents_path, std::string checkpoint_path, std::string work_folder,
              backend::Backend& backend, Observer& observer);
  TrainingResult run();

 private:
  using Clock = std::chrono::steady_clock;
  struct Leave {
    StopRequest why;
  };

  void prepare_data();
  void prepare_tokenizer(const data::Documents& documents);
  void prepare_model();
  bool steps_until_done();              // false: max_seconds was reached
  double take_step();                   // mean loss of the step
  std::uint64_t predictions_of_a_step() const;
  double evaluate();
  void report_evaluation(EvaluationPhase phase, double loss);
  void draw_samples();
  void save_checkpoint();
  void report_progress(double loss, bool is_last);
  void check_finite(double value, const char* what) const;
  void poll();                          // throws Leave
  void set_inputs(const data::Batch& batch);
  RunIdentity identity() const;

  const TrainingOptions options_;
  const std::string documents_path_, checkpoint_path_, work_folder_;
  MeasuredBackend backend_;
  Observer& observer_;

  std::unique_ptr<CheckpointReader> resumed_;
  core::DType compute_ = core::DType::F32;
  std::string data_sha256_;
  std::optional<tokenizers::Tokenizer> tokenizer_;
  std::optional<data::SplitTokens> tokens_;
  std::optional<data::TrainingStream> stream_;
  std::vector<data::Batch> evaluation_;
  models::ModelConfig config_;
  std::unique_ptr<graph::ParameterStore> store_;
  std::unique_ptr<graph::Executor> executor_;
  std::unique_ptr<Optimizer> optimizer_;

  Schedule schedule_;
  RunState state_;                       // of the last whole step; cursor included
  data::Batch batch_;
  bool is_ready_ = false;                // a checkpoint can be written
  double gradient_norm_ = 0, learning_rate_ = 0, step_seconds_ = 0;
  std::uint64_t attempt_tokens_ = 0;
  Clock::time_point started_ = Clock::now(), reported_{};
  TrainingResult result_;
};

}  // namespace pgtrain::engine::train
