// One run from samples to artifacts; the body of train(). Internal to train/.
//
// Order: open the base model, read the data, learn or load the tokenizer, tokenize, build the model, load its weights or draw them,
// evaluate, step, evaluate, sample, save, check. A stop request is looked at in every loop; between micro-batches a pause puts the state
// of the last whole step into a checkpoint. What comes before the first step is in training_setup.cpp.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "engine/data/load.hpp"
#include "engine/graph/executor.hpp"
#include "engine/io/file.hpp"
#include "engine/models/checkpoint_source.hpp"
#include "engine/models/model.hpp"
#include "engine/train/checkpoint.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/measured_backend.hpp"
#include "engine/train/objective.hpp"
#include "engine/train/optimizer.hpp"
#include "engine/train/schedule.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

core::DType choose_precision(const TrainingOptions& options, const backend::Backend& backend);
// The model of a run whose data has not been read: with a vocabulary as large as it may become.
models::ModelConfig planned_model(const TrainingOptions& resolved);
MemoryPlan plan_model(const TrainingOptions& resolved, const models::ModelConfig& config, core::DType compute, const backend::Backend& backend);
graph::Recompute recompute_of(const MemoryPlan& plan);
graph::Gradients gradients_of(const TrainingOptions& options);
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

  void open_base_model();
  void prepare_data();
  std::string hash_samples(const io::MappedFile& file);
  data::Documents read_samples(const io::MappedFile& file);
  void prepare_tokenizer(const data::Documents& documents);
  void learn_tokenizer(const data::Documents& documents);
  void tokenize(const data::Documents& documents, const data::Documents* validation);
  void prepare_model();
  void begin_anew();
  void resume();
  void steps_until_done();              // or until max_seconds or early stopping ends them
  StepOutcome take_step();
  void evaluate_if_due();
  bool has_stopped_gaining() const;
  std::uint64_t tokens_of_a_step() const;
  void evaluate(EvaluationPhase phase);
  void draw_samples();
  void save_checkpoint();
  void save_artifacts();
  void report_progress(const StepOutcome& outcome, bool is_last);
  void check_finite(double value, const char* what) const;
  void poll();                          // throws Leave
  RunIdentity identity() const;

  TrainingOptions options_;
  const std::string documents_path_, checkpoint_path_, work_folder_;
  MeasuredBackend backend_;
  Observer& observer_;

  std::unique_ptr<models::CheckpointSource> base_;
  std::unique_ptr<CheckpointReader> resumed_;
  core::DType compute_ = core::DType::F32;
  std::string data_sha256_;
  std::optional<tokenizers::Tokenizer> tokenizer_;
  std::string chat_template_;
  std::optional<data::SplitTokens> tokens_;
  std::unique_ptr<Objective> objective_;
  models::ModelConfig config_;
  models::Tuning tuning_;
  std::unique_ptr<graph::ParameterStore> store_;
  std::unique_ptr<graph::Executor> executor_;
  std::unique_ptr<Optimizer> optimizer_;

  std::int64_t steps_ = 0;
  Schedule schedule_;
  RunState state_;                       // of the last whole step; cursor included
  bool is_ready_ = false;                // a checkpoint can be written
  double gradient_norm_ = 0, learning_rate_ = 0, step_seconds_ = 0;
  std::uint64_t attempt_tokens_ = 0;
  Clock::time_point started_ = Clock::now(), reported_{};
  TrainingResult result_;
};

}  // namespace pgtrain::engine::train
