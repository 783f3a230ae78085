// The training loop.
#include "engine/train/training_run.hpp"

#include <cmath>
#include <cstdio>

#include "engine/core/error.hpp"
#include "engine/data/streams.hpp"
#include "engine/train/options.hpp"
#include "engine/train/writer.hpp"

namespace pgtrain::engine::train {
namespace {

double seconds_between(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

TrainingRun::TrainingRun(const TrainingOptions& resolved, std::string documents_path, std::string checkpoint_path, std::string work_folder,
                         backend::Backend& backend, Observer& observer)
    : options_(resolved), documents_path_(std::move(documents_path)), checkpoint_path_(std::move(checkpoint_path)),
      work_folder_(std::move(work_folder)), backend_(backend), observer_(observer) {}

void TrainingRun::poll() {
  if (const StopRequest request = observer_.stop_requested(); request != StopRequest::None) throw Leave{request};
}

RunIdentity TrainingRun::identity() const {
  return {describe_for_resume(options_), compute_ == core::DType::Bf16 ? "bf16" : "fp32", data_sha256_};
}

TrainingResult TrainingRun::run() {
  try {
    open_base_model();
    prepare_data();
    prepare_model();
    if (!state_.has_loss_before) evaluate(EvaluationPhase::Before);
    steps_until_done();
    evaluate(EvaluationPhase::After);
    draw_samples();
    executor_.reset();  // exports take copies of tensors on the host, which may be the device's memory
    save_artifacts();
    result_.status = TrainingStatus::Completed;
  } catch (const Leave& leave) {
    result_.artifacts.clear();
    if (leave.why == StopRequest::Pause && is_ready_) save_checkpoint();
    result_.status = leave.why == StopRequest::Pause ? TrainingStatus::Paused : TrainingStatus::Cancelled;
  }
  result_.has_evaluation = state_.has_loss_before && result_.status == TrainingStatus::Completed;
  result_.loss_before = state_.loss_before;
  result_.final_training_loss = state_.last_loss;
  result_.steps = state_.step;
  result_.tokens = state_.tokens;
  result_.seconds = step_seconds_;
  result_.tokens_per_second = step_seconds_ > 0 ? static_cast<double>(attempt_tokens_) / step_seconds_ : 0;
  result_.peak_bytes = backend_.peak_bytes();
  return result_;
}

void TrainingRun::steps_until_done() {
  observer_.task("train", "started");
  started_ = Clock::now();
  while (state_.step < steps_) {
    // After a step, and after a resume between the step and its evaluation.
    evaluate_if_due();
    if (result_.stopped_early) break;
    result_.reached_max_seconds = options_.max_seconds > 0 && seconds_between(started_, Clock::now()) >= options_.max_seconds;
    if (result_.reached_max_seconds) break;
    const Clock::time_point began = Clock::now();
    const StepOutcome outcome = take_step();
    step_seconds_ += seconds_between(began, Clock::now());
    const bool is_last = state_.step == steps_;
    report_progress(outcome, is_last);
    if (is_last) break;
    evaluate_if_due();
    if (options_.checkpoint_every > 0 && state_.step % options_.checkpoint_every == 0) save_checkpoint();
  }
  observer_.task("train", "done");
}

void TrainingRun::evaluate_if_due() {
  if (options_.evaluate_every == 0 || state_.step == 0 || state_.step % options_.evaluate_every != 0 || state_.evaluated_step == state_.step) return;
  evaluate(EvaluationPhase::During);
  state_.evaluated_step = state_.step;
  draw_samples();
}

std::uint64_t TrainingRun::tokens_of_a_step() const {
  return static_cast<std::uint64_t>(options_.batch_size) * static_cast<std::uint64_t>(options_.context) * static_cast<std::uint64_t>(options_.gradient_accumulation);
}

StepOutcome TrainingRun::take_step() {
  if (gradients_of(options_) == graph::Gradients::Added) store_->zero_gradients();
  const StepOutcome outcome = objective_->accumulate(*executor_, state_.step, [this] { poll(); });
  check_finite(outcome.loss, "loss");
  gradient_norm_ = optimizer_->gradient_norm();
  check_finite(gradient_norm_, "gradient norm");
  learning_rate_ = schedule_.rate(state_.step);
  optimizer_->update(state_.step, learning_rate_);
  state_.cursor = objective_->cursor();
  state_.last_loss = outcome.loss;
  state_.tokens += outcome.tokens;
  attempt_tokens_ += outcome.tokens;
  ++state_.step;
  return outcome;
}

void TrainingRun::check_finite(double value, const char* what) const {
  if (std::isfinite(value)) return;
  char last[64] = "none";
  if (state_.step > 0) std::snprintf(last, sizeof last, "%.6f", state_.last_loss);
  throw core::Error("non_finite_loss", std::string("the ") + what + " of step " + std::to_string(state_.step + 1) + " is not a finite number",
                    "Last good loss: " + std::string(last) + " at step " + std::to_string(state_.step) + ".",
                    "Lower learning_rate, lengthen warmup_steps, or compute in precision => fp32.");
}

void TrainingRun::report_progress(const StepOutcome& outcome, bool is_last) {
  const Clock::time_point now = Clock::now();
  if (!is_last && reported_ != Clock::time_point{} && seconds_between(reported_, now) < options_.progress_interval_seconds) return;
  reported_ = now;
  Progress progress;
  progress.step = state_.step, progress.steps = steps_;
  progress.loss = outcome.loss, progress.accuracy = outcome.accuracy;
  progress.learning_rate = learning_rate_, progress.gradient_norm = gradient_norm_;
  progress.tokens = state_.tokens;
  progress.seconds = step_seconds_;
  progress.tokens_per_second = step_seconds_ > 0 ? static_cast<double>(attempt_tokens_) / step_seconds_ : 0;
  progress.peak_bytes = backend_.peak_bytes();
  observer_.progress(progress);
}

void TrainingRun::evaluate(EvaluationPhase phase) {
  if (tokens_->held_out.size() == 0) return;
  observer_.task("evaluate", "started");
  const std::optional<Evaluation> found = objective_->evaluate(*executor_, [this] { poll(); });
  observer_.task("evaluate", "done");
  if (!found) return;
  check_finite(found->loss, "held-out loss after the update");
  if (phase == EvaluationPhase::Before) {
    state_.loss_before = found->loss;
    state_.has_loss_before = true;
  }
  if (phase == EvaluationPhase::After) result_.loss_after = found->loss;
  if (phase != EvaluationPhase::After) {
    const bool is_lower = phase == EvaluationPhase::Before || found->loss < state_.lowest_loss - options_.early_stopping_threshold;
    if (is_lower) state_.lowest_loss = found->loss;
    state_.evaluations_without_gain = is_lower ? 0 : state_.evaluations_without_gain + 1;
    result_.stopped_early = has_stopped_gaining();
  }
  observer_.evaluation(phase, *found, state_.step);
}

bool TrainingRun::has_stopped_gaining() const {
  return options_.early_stopping_patience > 0 && state_.evaluations_without_gain >= options_.early_stopping_patience;
}

void TrainingRun::draw_samples() {
  if (options_.samples == 0) return;
  observer_.task("sample", "started");
  models::Decoder decoder(config_, tuning_, *store_, {.positions = options_.context});
  for (int sample = 0; sample < options_.samples; ++sample) {
    GenerateOptions options;
    options.max_tokens = options_.sample_tokens;
    options.temperature = options_.sample_temperature;
    options.top_k = options_.sample_top_k;
    options.top_p = options_.sample_top_p;
    options.seed = data::draw_bits(options_.seed, data::Stream::Sample, static_cast<std::uint64_t>(state_.step), static_cast<std::uint64_t>(sample));
    const GenerateResult written = write_text(decoder, config_, *tokenizer_, options_.sample_prompt, options, [this] { poll(); return false; });
    observer_.sample(state_.step, options_.sample_prompt, written.text);
  }
  observer_.task("sample", "done");
}

void TrainingRun::save_checkpoint() {
  const std::string path = work_folder_ + "/" + kCheckpointFile;
  const io::WrittenFile file = write_checkpoint(path, identity(), state_, *store_, *optimizer_);
  observer_.checkpoint(state_.step, path, file.bytes, file.sha256);
}

void TrainingRun::save_artifacts() {
  ExportRequest request{.folder = work_folder_, .config = config_, .tuning = tuning_, .base = base_.get(), .store = *store_, .tokenizer = *tokenizer_};
  request.chat_template = chat_template_;
  request.base_name = options_.base_name;
  request.stored_precision = options_.artifact_precision, request.adapter_precision = options_.adapter_precision;
  for (const std::string& form : options_.exports) request.kinds.push_back(parse_exports(form).front());
  request.poll = [this] { poll(); };
  observer_.task("save", "started");
  result_.artifacts = write_exports(request);
  observer_.task("save", "done");
  poll();
  observer_.task("check", "started");
  check_exports(request);
  observer_.task("check", "done");
}

}  // namespace pgtrain::engine::train
