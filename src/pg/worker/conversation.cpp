// See conversation.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/timestamp.h"
}

#include <variant>
#include <vector>

#include "pg/errors.hpp"
#include "pg/worker/conversation.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/trainer.hpp"

namespace pgtrain::pg::worker {
namespace {

using namespace protocol;

constexpr long look_ms = 200;
constexpr int64_t exit_patience_us = 2000000;

[[noreturn]] void raise_failure(const up::Failed &failed) {
  const bool is_about_input = failed.code == FailureCode::ConfigInvalid || failed.code == FailureCode::DataInvalid ||
                              failed.code == FailureCode::OutOfMemory || failed.code == FailureCode::ArtifactInvalid;
  throw Error(is_about_input ? code::InvalidData : code::TrainerFailed, failed.message, failed.detail, failed.hint);
}

std::string exit_text(Trainer &trainer) {
  ExitStatus status;
  const TimestampTz patience_ends = GetCurrentTimestamp() + exit_patience_us;
  std::vector<UpMessage> ignored;
  while (!trainer.child().poll_exit(status) && GetCurrentTimestamp() < patience_ends) (void)trainer.listen(20, ignored);
  if (!trainer.child().poll_exit(status)) status = trainer.child().kill_and_wait();
  trainer.drain_errors();
  return status.describe();
}

}  // namespace

std::string session_folder_name() {
  static int number = 0;
  return "b" + std::to_string(MyProcPid) + "_" + std::to_string(++number);
}

down::Job session_job(JobKind kind, const std::string &selector) {
  down::Job job;
  job.kind = kind;
  job.device = selector;
  job.heartbeat_ms = static_cast<uint32_t>(worker_settings.heartbeat_interval_ms);
  return job;
}

Conversation::Conversation(const std::string &name, const std::string &folder, const down::Job &job) : trainer_(name) {
  trainer_.start(folder, job);
  heard_at_ = GetCurrentTimestamp();
}

std::optional<UpMessage> Conversation::next() {
  if (is_done_) return std::nullopt;
  while (at_ == messages_.size()) listen();
  UpMessage message = std::move(messages_[at_++]);
  if (const auto *failed = std::get_if<up::Failed>(&message)) raise_failure(*failed);
  if (std::holds_alternative<up::Done>(message)) {
    is_done_ = true;
    (void)exit_text(trainer_);
  }
  return message;
}

void Conversation::listen() {
  messages_.clear();
  at_ = 0;
  const Trainer::State state = trainer_.listen(look_ms, messages_);
  if (!messages_.empty()) {
    heard_at_ = GetCurrentTimestamp();
    return;
  }
  if (state == Trainer::State::Broken) throw Error(code::TrainerFailed, "the trainer broke the protocol: " + trainer_.problem());
  if (state == Trainer::State::Ended)
    throw Error(code::TrainerFailed, "the trainer ended without a result", "It ended with " + exit_text(trainer_) + ".", "Its last words are in the server log.");
  if (GetCurrentTimestamp() - heard_at_ > worker_settings.trainer_silence_timeout_ms * int64_t{1000})
    throw Error(code::TrainerFailed, "the trainer fell silent",
                "pgtrain.trainer_silence_timeout is " + std::to_string(worker_settings.trainer_silence_timeout_ms) + " ms.");
}

void converse(const std::string &name, const std::string &folder, const down::Job &job, const Listener &listener) {
  Conversation conversation(name, folder, job);
  while (const std::optional<UpMessage> message = conversation.next()) listener(*message);
}

}  // namespace pgtrain::pg::worker
