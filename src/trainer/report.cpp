// report.cpp: engine events to protocol messages.
#include "trainer/report.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "engine/core/error.hpp"

namespace pgtrain::trainer {

using namespace protocol;
namespace train = engine::train;

void Reporter::task(const std::string& name, const std::string& state) {
  channel_.worked();
  channel_.send(up::Task{name, state == "started" ? TaskState::Started : state == "done" ? TaskState::Finished : TaskState::Failed});
}

// The plan was sent before the engine began; here it only tells that the engine is at work.
void Reporter::plan(const train::MemoryPlan&) { channel_.worked(); }

void Reporter::progress(const train::Progress& now) {
  channel_.worked();
  channel_.send(up::Progress{now.step, now.steps, now.loss, now.learning_rate, now.gradient_norm, now.tokens, now.tokens_per_second,
                             now.seconds, now.peak_bytes, now.accuracy});
}

void Reporter::data(const train::DataFacts& facts) {
  channel_.worked();
  channel_.send(up::Data{facts.samples, facts.held_out_samples, facts.tokens, facts.learned_tokens, facts.truncated_samples, facts.truncated_tokens,
                         facts.steps, static_cast<uint64_t>(facts.steps) * tokens_per_step_});
  if (is_evaluated_ && facts.held_out_samples == 0)
    channel_.send(up::Log{LogLevel::Warning, "the only sample is trained on, so that nothing is held out and the run has no evaluation: give more samples or a validation dataset"});
}

void Reporter::evaluation(train::EvaluationPhase phase, const train::Evaluation& found, std::int64_t step) {
  channel_.worked();
  const EvaluationPhase said = phase == train::EvaluationPhase::Before   ? EvaluationPhase::Before
                               : phase == train::EvaluationPhase::During ? EvaluationPhase::During
                                                                         : EvaluationPhase::After;
  channel_.send(up::Evaluation{said, step, found.loss, found.tokens, found.accuracy, found.samples});
}

void Reporter::sample(std::int64_t step, const std::string& prompt, const std::string& text) {
  channel_.worked();
  channel_.send(up::Sample{step, prompt, text});
}

void Reporter::checkpoint(std::int64_t step, const std::string& path, std::uint64_t bytes, const std::string& sha256) {
  channel_.worked();
  channel_.wait_until_stored();
  const std::string name = "checkpoint-" + std::to_string(step) + ".safetensors";
  const size_t slash = path.rfind('/');
  const std::string target = slash == std::string::npos ? name : path.substr(0, slash + 1) + name;
  if (std::rename(path.c_str(), target.c_str()) != 0)
    throw engine::core::Error("io_error", "cannot rename " + path + " to " + target, std::strerror(errno),
                              "Look at the space and the rights of the job folder.");
  channel_.announce(up::File{FileKind::Checkpoint, name, step, bytes, sha256});
}

train::StopRequest Reporter::stop_requested() {
  channel_.worked();
  switch (channel_.stop_requested()) {
    case Stop::Cancel:
      return train::StopRequest::Cancel;
    case Stop::Pause:
      return train::StopRequest::Pause;
    default:
      return train::StopRequest::None;
  }
}

namespace {

void report_cut_text(Channel& channel, const train::TrainingResult& result) {
  if (result.truncated_documents == 0) return;
  channel.send(up::Log{LogLevel::Warning, std::to_string(result.truncated_documents) + " samples were longer than the context: " +
                                              std::to_string(result.truncated_tokens) + " tokens were cut off and not trained on"});
}

}  // namespace

void report_result(Channel& channel, const train::TrainingResult& result) {
  report_cut_text(channel, result);
  for (const train::Artifact& artifact : result.artifacts)
    channel.announce(up::File{FileKind::Artifact, artifact.name, result.steps, artifact.bytes, artifact.sha256});
  channel.wait_until_stored();
  up::Done done;
  done.status = result.status == train::TrainingStatus::Completed   ? DoneStatus::Completed
                : result.status == train::TrainingStatus::Cancelled ? DoneStatus::Cancelled
                                                                    : DoneStatus::Paused;
  if (channel.stop_requested() == Stop::Cancel) done.status = DoneStatus::Cancelled;
  if (result.reached_max_seconds) channel.send(up::Log{LogLevel::Info, "max_seconds was reached after " + std::to_string(result.steps) + " steps"});
  if (result.stopped_early)
    channel.send(up::Log{LogLevel::Info, "training ended after " + std::to_string(result.steps) + " steps: the held-out loss fell no more"});
  if (result.has_evaluation) {
    done.loss_before = result.loss_before;
    if (result.status == train::TrainingStatus::Completed) done.loss_after = result.loss_after;
  }
  done.steps = result.steps;
  done.tokens = result.tokens;
  done.seconds = result.seconds;
  done.tokens_per_second = result.tokens_per_second;
  done.peak_bytes = result.peak_bytes;
  channel.send(done);
}

FailureCode failure_code(const std::string& engine_code) {
  static constexpr std::pair<const char*, FailureCode> codes[] = {
      {"config_invalid", FailureCode::ConfigInvalid},  {"data_invalid", FailureCode::DataInvalid},
      {"out_of_memory", FailureCode::OutOfMemory},     {"device_fault", FailureCode::DeviceFault},
      {"non_finite_loss", FailureCode::NonFiniteLoss}, {"model_missing", FailureCode::ModelMissing},
      {"model_invalid", FailureCode::ArtifactInvalid}, {"io_error", FailureCode::IoError}};
  for (const auto& [name, code] : codes)
    if (engine_code == name) return code;
  return FailureCode::InternalError;
}

std::string show_bytes(uint64_t bytes) {
  static constexpr const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(units)) value /= 1024, ++unit;
  char text[40];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

}  // namespace pgtrain::trainer
