// messages.hpp: one filled example of every message, shared by the golden, the cutting and the hostile tests, and
// comparison of messages by their fields.
#pragma once

#include <bit>
#include <random>
#include <string>
#include <vector>

#include "protocol/message.hpp"
#include "support/seed.hpp"

namespace pgtrain::protocol::test {

inline std::string sha_of(char digit) { return std::string(64, digit); }

/// Every message of a direction with all fields set to values that differ from their defaults.
inline std::vector<DownMessage> down_examples() {
  down::Hello hello;
  hello.build = "b1";
  down::Job job;
  job.run_id = 0x0102030405060708;
  job.attempt = 2;
  job.kind = JobKind::Generate;
  job.device = "cpu";
  job.threads = 3;
  job.memory_limit_bytes = 1 << 20;
  job.heartbeat_ms = 250;
  job.grace_ms = 500;
  job.config = {{"size", "nano"}, {"steps", "7"}};
  job.data = {"data.samples", 9, sha_of('a')};
  job.validation = {"v.samples", 15, ""};
  job.resume = {"checkpoint.safetensors", 10, ""};
  job.model = {{"config.json", 11, sha_of('b')}};
  job.base = {{"model.gguf", 12, ""}};
  job.base_config = "{}";
  job.base_name = "base";
  job.submitted_at = 14;
  job.generate = {{"Hi ☃"}, PromptKind::Messages, 5, 0.5, 40, 0.25, 0.125, 1.5, {"\n"}, 77};
  return {hello, job, down::Cancel{}, down::Pause{}, down::Ack{"model.safetensors"}};
}

inline std::vector<UpMessage> up_examples() {
  up::Plan plan{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, "a CPU", "bf16", "blocks", 12, 13};
  return {up::Hello{protocol_version, "b2", "cpu: 2 cores"},
          plan,
          up::Data{1, 2, 3, 4, 5, 6, 7, 8},
          up::Piece{3, "snow ☃", "stop", 4, 5},
          up::Description{"{}"},
          up::Speed{0.25, 0.5, 3},
          up::Task{"read_data", TaskState::Finished},
          up::Progress{1, 2, 3.5, 0.001, 0.5, 4, 5.5, 6.5, 7, 0.75},
          up::Metric{3, "gradient_norm", -1.5, 6},
          up::Evaluation{EvaluationPhase::After, 9, 2.5, 1000, 0.5, 20},
          up::Sample{4, "Once", "upon\ta time"},
          up::File{FileKind::Artifact, "model.safetensors", 7, 123456789012, sha_of('0')},
          up::Heartbeat{42, 1 << 30},
          up::Log{LogLevel::Warning, "careful"},
          up::Failed{FailureCode::OutOfMemory, "m", "d", "h"},
          up::Done{DoneStatus::Paused, 4.5, 3.5, 10, 20, 1.5, 13.25, 30}};
}

/// The frame of a message held in a variant.
template <class Variant>
std::string frame_of(const Variant& message) {
  return std::visit([](const auto& inner) { return encode(inner); }, message);
}

/// Cuts a frame's bytes into type and payload, as a reader would.
inline Frame cut(const std::string& bytes) { return {bytes.at(0), bytes.substr(frame_header_bytes)}; }

/// A generator whose seed is in the failure text.
struct Fresh {
  uint64_t seed = pgtrain::test::seed();
  std::mt19937_64 engine{seed};
  uint64_t below(uint64_t limit) { return engine() % limit; }
};

}  // namespace pgtrain::protocol::test
