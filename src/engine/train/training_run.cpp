// The training loop.
#include "engine/train/training_run.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/core/utf8.hpp"
#include "engine/data/streams.hpp"
#include "engine/models/gpt2/decoder.hpp"
#include "engine/models/model.hpp"
#include "engine/tokenizers/bpe_trainer.hpp"
#include "engine/train/artifacts.hpp"
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
      work_folder_(std::move(work_folder)), backend_(backend), observer_(observer) {
  schedule_ = {options_.schedule, options_.learning_rate, options_.min_learning_rate_ratio, options_.warmup_steps, options_.steps};
}

void TrainingRun::poll() {
  if (const StopRequest request = observer_.stop_requested(); request != StopRequest::None) throw Leave{request};
}

RunIdentity TrainingRun::identity() const {
  return {describe_for_resume(options_), compute_ == core::DType::Bf16 ? "bf16" : "fp32", data_sha256_};
}

TrainingResult TrainingRun::run() {
  try {
    prepare_data();
    prepare_model();
    if (!state_.has_loss_before && !evaluation_.empty()) {
      state_.loss_before = evaluate();
      state_.has_loss_before = true;
      report_evaluation(EvaluationPhase::Before, state_.loss_before);
    }
    result_.reached_max_seconds = !steps_until_done();
    if (!evaluation_.empty()) {
      result_.loss_after = evaluate();
      report_evaluation(EvaluationPhase::After, result_.loss_after);
    }
    draw_samples();
    observer_.task("save", "started");
    result_.artifacts = write_artifacts(work_folder_, config_, *tokenizer_, *store_, options_.artifact_precision);
    observer_.task("save", "done");
    poll();
    observer_.task("check", "started");
    check_artifacts(work_folder_, config_, *tokenizer_, *store_, options_.artifact_precision);
    observer_.task("check", "done");
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

void TrainingRun::prepare_data() {
  observer_.task("read_data", "started");
  const io::MappedFile file(documents_path_);
  const data::Documents documents(file.bytes(), [this] { poll(); });
  core::Sha256 hash;
  constexpr std::size_t kHashedAtOnce = std::size_t{16} << 20;
  for (std::size_t at = 0; at < file.bytes().size(); at += kHashedAtOnce) {
    hash.update(file.bytes().data() + at, std::min(kHashedAtOnce, file.bytes().size() - at));
    poll();
  }
  data_sha256_ = hash.hex();
  result_.documents = documents.size();
  observer_.task("read_data", "done");

  if (!checkpoint_path_.empty()) resumed_ = std::make_unique<CheckpointReader>(checkpoint_path_);
  const bool follows_checkpoint = resumed_ != nullptr && options_.precision == "auto";
  compute_ = follows_checkpoint ? (resumed_->precision() == "bf16" ? core::DType::Bf16 : core::DType::F32) : choose_precision(options_, backend_);
  if (resumed_ != nullptr) resumed_->check(identity());

  prepare_tokenizer(documents);
  observer_.task("tokenize", "started");
  tokens_.emplace(data::tokenize_texts(documents, *tokenizer_, {options_.held_out_fraction, options_.seed, work_folder_, [this] { poll(); }}));
  result_.held_out_documents = tokens_->held_out_samples;
  const data::LongSamples rule = data::parse_long_samples(options_.long_samples);
  const data::Fit fit = data::fit_samples(tokens_->training, options_.context, rule);
  result_.truncated_documents = fit.documents;
  result_.truncated_tokens = fit.tokens;
  stream_.emplace(tokens_->training, data::StreamOptions{options_.batch_size, options_.context, options_.seed, rule});
  evaluation_ = data::evaluation_batches(tokens_->held_out, options_.batch_size, options_.context, options_.evaluation_batches);
  observer_.task("tokenize", "done");
}

void TrainingRun::prepare_tokenizer(const data::Documents& documents) {
  if (resumed_ != nullptr) {
    tokenizer_ = tokenizers::Tokenizer::from_json(resumed_->state().tokenizer, "tokenizer in " + checkpoint_path_);
  } else if (options_.tokenizer == "byte") {
    tokenizer_ = tokenizers::Tokenizer::bytes();
  } else {
    observer_.task("train_tokenizer", "started");
    // The held-out documents are not looked at, or the evaluation would know its own words.
    const std::vector<bool> is_held_out = data::choose_held_out(documents.size(), options_.held_out_fraction, options_.seed);
    std::vector<std::string_view> texts;
    documents.for_each([&](std::size_t index, std::string_view text) {
      if (!is_held_out[index]) texts.push_back(text);
    });
    if (documents.size() == 1) texts[0] = texts[0].substr(0, static_cast<std::size_t>((1.0 - options_.held_out_fraction) * static_cast<double>(texts[0].size())));
    tokenizers::BpeTrainingOptions bpe;
    bpe.vocab_size = options_.vocab_size;
    bpe.keep_alive = [this] { poll(); };
    tokenizer_ = tokenizers::train_bpe(texts, bpe);
    observer_.task("train_tokenizer", "done");
  }
  config_ = model_config(options_, tokenizer_->vocab_size(), tokenizer_->end_of_text());
  if (tokenizer_->vocab_size() > options_.vocab_size)
    throw core::Error("model_invalid", checkpoint_path_ + ": its tokenizer has more tokens than vocab_size", "", "Resume from a checkpoint that this run wrote.");
}

void TrainingRun::prepare_model() {
  observer_.task("build_model", "started");
  const MemoryPlan plan = plan_model(options_, config_, compute_, backend_);
  observer_.plan(plan);
  check_fits(options_, plan, backend_);
  result_.parameters = plan.parameters;
  const graph::Graph graph = models::build_model(config_, {}, compute_, options_.batch_size, options_.context);
  store_ = std::make_unique<graph::ParameterStore>(graph, backend_, graph::Mode::Train);
  executor_ = std::make_unique<graph::Executor>(graph, *store_, graph::Mode::Train);
  optimizer_ = std::make_unique<Optimizer>(*store_, optimizer_options(options_));
  if (resumed_ != nullptr) {
    resumed_->load(*store_, *optimizer_);
    state_ = resumed_->state();
    if (state_.step > options_.steps || state_.tokens != static_cast<std::uint64_t>(state_.step) * predictions_of_a_step())
      throw core::Error("model_invalid", checkpoint_path_ + ": says " + std::to_string(state_.step) + " steps and " + std::to_string(state_.tokens) + " tokens of a run of " +
                        std::to_string(options_.steps) + " steps of " + std::to_string(predictions_of_a_step()), "", "Resume from a checkpoint that this run wrote.");
    stream_->restore(state_.cursor);
    resumed_.reset();
  } else {
    models::draw_weights(config_, options_.seed, *store_, [this] { poll(); });
    state_.cursor = stream_->cursor();
    state_.tokenizer = tokenizer_->to_json();
  }
  is_ready_ = true;
  observer_.task("build_model", "done");
}

void TrainingRun::set_inputs(const data::Batch& batch) {
  executor_->set_input("tokens", batch.inputs.data());
  executor_->set_input("positions", batch.positions.data());
  executor_->set_input("segments", batch.segments.data());
  executor_->set_input("targets", batch.targets.data());
}

bool TrainingRun::steps_until_done() {
  observer_.task("train", "started");
  started_ = Clock::now();
  while (state_.step < options_.steps) {
    if (options_.max_seconds > 0 && seconds_between(started_, Clock::now()) >= options_.max_seconds) {
      observer_.task("train", "done");
      return false;
    }
    const Clock::time_point began = Clock::now();
    const double loss = take_step();
    step_seconds_ += seconds_between(began, Clock::now());
    report_progress(loss, state_.step == options_.steps);
    const bool is_last = state_.step == options_.steps;
    if (!is_last && options_.evaluate_every > 0 && state_.step % options_.evaluate_every == 0) {
      if (!evaluation_.empty()) report_evaluation(EvaluationPhase::During, evaluate());
      draw_samples();
    }
    if (!is_last && options_.checkpoint_every > 0 && state_.step % options_.checkpoint_every == 0) save_checkpoint();
  }
  observer_.task("train", "done");
  return true;
}

std::uint64_t TrainingRun::predictions_of_a_step() const {
  return static_cast<std::uint64_t>(options_.batch_size) * static_cast<std::uint64_t>(options_.context) * static_cast<std::uint64_t>(options_.gradient_accumulation);
}

double TrainingRun::take_step() {
  // Every cell of a training batch counts, so the mean over the step is known before its first product.
  const std::uint64_t predictions = predictions_of_a_step();
  store_->zero_gradients();
  double loss_sum = 0;
  for (int micro = 0; micro < options_.gradient_accumulation; ++micro) {
    poll();
    stream_->next(batch_);
    set_inputs(batch_);
    executor_->forward_backward(static_cast<float>(1.0 / static_cast<double>(predictions)));
    loss_sum += executor_->loss_sum();
  }
  const double loss = loss_sum / static_cast<double>(predictions);
  check_finite(loss, "loss");
  gradient_norm_ = optimizer_->gradient_norm();
  check_finite(gradient_norm_, "gradient norm");
  learning_rate_ = schedule_.rate(state_.step);
  optimizer_->update(state_.step, learning_rate_);
  state_.cursor = stream_->cursor();
  state_.last_loss = loss;
  state_.tokens += predictions;
  attempt_tokens_ += predictions;
  ++state_.step;
  return loss;
}

void TrainingRun::check_finite(double value, const char* what) const {
  if (std::isfinite(value)) return;
  char last[64] = "none";
  if (state_.step > 0) std::snprintf(last, sizeof last, "%.6f", state_.last_loss);
  throw core::Error("non_finite_loss", std::string("the ") + what + " of step " + std::to_string(state_.step + 1) + " is not a finite number",
                    "Last good loss: " + std::string(last) + " at step " + std::to_string(state_.step) + ".",
                    "Lower learning_rate, lengthen warmup_steps, or compute in precision => fp32.");
}

void TrainingRun::report_progress(double loss, bool is_last) {
  const Clock::time_point now = Clock::now();
  if (!is_last && reported_ != Clock::time_point{} && seconds_between(reported_, now) < options_.progress_interval_seconds) return;
  reported_ = now;
  Progress progress;
  progress.step = state_.step, progress.steps = options_.steps;
  progress.loss = loss, progress.learning_rate = learning_rate_, progress.gradient_norm = gradient_norm_;
  progress.tokens = state_.tokens;
  progress.seconds = step_seconds_;
  progress.tokens_per_second = step_seconds_ > 0 ? static_cast<double>(attempt_tokens_) / step_seconds_ : 0;
  progress.peak_bytes = backend_.peak_bytes();
  observer_.progress(progress);
}

double TrainingRun::evaluate() {
  observer_.task("evaluate", "started");
  double loss_sum = 0;
  std::uint64_t predictions = 0;
  for (const data::Batch& batch : evaluation_) {
    poll();
    set_inputs(batch);
    executor_->forward();
    loss_sum += executor_->loss_sum();
    predictions += batch.predictions;
  }
  const double loss = loss_sum / static_cast<double>(predictions);
  check_finite(loss, "held-out loss after the update");
  observer_.task("evaluate", "done");
  return loss;
}

void TrainingRun::report_evaluation(EvaluationPhase phase, double loss) {
  std::uint64_t predictions = 0;
  for (const data::Batch& batch : evaluation_) predictions += batch.predictions;
  observer_.evaluation(phase, loss, predictions, state_.step);
}

void TrainingRun::draw_samples() {
  if (options_.samples == 0) return;
  observer_.task("sample", "started");
  models::GptDecoder decoder(config_, *store_);
  for (int sample = 0; sample < options_.samples; ++sample) {
    GenerateOptions options;
    options.prompt = options_.sample_prompt;
    options.max_tokens = options_.sample_tokens;
    options.temperature = options_.sample_temperature;
    options.top_k = options_.sample_top_k;
    options.top_p = options_.sample_top_p;
    options.seed = data::draw_bits(options_.seed, data::Stream::Sample, static_cast<std::uint64_t>(state_.step), static_cast<std::uint64_t>(sample));
    const GenerateResult written = write_text(decoder, config_, *tokenizer_, options, [this] { poll(); return false; });
    observer_.sample(state_.step, options_.sample_prompt, written.text);
  }
  observer_.task("sample", "done");
}

void TrainingRun::save_checkpoint() {
  const std::string path = work_folder_ + "/" + kCheckpointFile;
  const io::WrittenFile file = write_checkpoint(path, identity(), state_, *store_, *optimizer_);
  observer_.checkpoint(state_.step, path, file.bytes, file.sha256);
}

}  // namespace pgtrain::engine::train
