// report.hpp: the engine's observer that turns what happens in a run into messages, and hands checkpoints over.
#pragma once

#include "engine/train/training.hpp"
#include "trainer/channel.hpp"

namespace pgtrain::trainer {

class Reporter : public engine::train::Observer {
 public:
  /// tokens_per_step: what a full step looks at. is_evaluated: whether samples were to be held out.
  Reporter(Channel& channel, uint64_t tokens_per_step, bool is_evaluated) : channel_(channel), tokens_per_step_(tokens_per_step), is_evaluated_(is_evaluated) {}

  void task(const std::string& name, const std::string& state) override;
  void plan(const engine::train::MemoryPlan& plan) override;
  void data(const engine::train::DataFacts& facts) override;
  void progress(const engine::train::Progress& progress) override;
  void evaluation(engine::train::EvaluationPhase phase, const engine::train::Evaluation& found, std::int64_t step) override;
  void sample(std::int64_t step, const std::string& prompt, const std::string& text) override;
  /// Renames the file to checkpoint-STEP.safetensors, so that the engine's next one does not replace it while it is
  /// being stored; waits for the one before, so that at most two lie in the folder.
  void checkpoint(std::int64_t step, const std::string& path, std::uint64_t bytes, const std::string& sha256) override;
  engine::train::StopRequest stop_requested() override;

 private:
  Channel& channel_;
  const uint64_t tokens_per_step_;
  const bool is_evaluated_;
};

/// Announces the files of a completed run and reports how it went; waits until they are stored.
void report_result(Channel& channel, const engine::train::TrainingResult& result);

/// Failure code of the protocol for an engine's error code.
protocol::FailureCode failure_code(const std::string& engine_code);

/// Bytes as people read them: 1.4 GiB.
std::string show_bytes(uint64_t bytes);

}  // namespace pgtrain::trainer
