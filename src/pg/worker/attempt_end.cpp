// The last part of an attempt (attempt.hpp): stopping, publishing, and the one transition that ends it. Each transition is a
// function of sql/api/attempts.sql that asserts where it comes from and is fenced by the attempt's number.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/timestamp.h"
}

#include <algorithm>

#include "pg/worker/attempt.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/transaction.hpp"
#include "pg/worker/transitions.hpp"
#include "pg/worker/worker.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

constexpr int64_t exit_patience_us = 2000000;  // for a trainer that has said its last word

call::Statement park_statement{"select pgtrain_private.park_run($1, $2, $3::text::pgtrain.end_reason)", {Type::Int8, Type::Int4, Type::Text}};
call::Statement requeue_statement{
    "select pgtrain_private.requeue_run($1, $2, $3::text::pgtrain.end_reason, $4, $5, $6, $7, $8)::text",
    {Type::Int8, Type::Int4, Type::Text, Type::Bool, Type::Text, Type::Text, Type::Text, Type::Text}};
call::Statement asked_statement{
    "select a.requested = 'cancel' from pgtrain.run_attempts a where a.run_id = $1 and a.attempt = $2 and a.ended_at is null for no key update",
    {Type::Int8, Type::Int4}};
call::Statement publish_statement{"select f from unnest(pgtrain_private.publish_run($1, $2, $3, $4)) f", {Type::Int8, Type::Int4, Type::Jsonb, Type::Jsonb}};
call::Statement idle_statement{"update pgtrain.devices set status = 'idle' where id = $1 and status = 'running'", {Type::Int8}};

std::optional<std::string_view> or_nothing(const std::string &text) { return text.empty() ? std::nullopt : std::optional<std::string_view>(text); }

std::string result_json(const protocol::up::Done &done) {
  return "{\"loss_before\":" + json_number(done.loss_before) + ",\"loss_after\":" + json_number(done.loss_after) +
         ",\"steps\":" + std::to_string(done.steps) + ",\"tokens\":" + std::to_string(done.tokens) +
         ",\"tokens_per_second\":" + json_number(done.tokens_per_second) + ",\"peak_bytes\":" + std::to_string(done.peak_bytes) + "}";
}

// Weights, whole or in shards, as an adapter or as GGUF.
bool is_model(const std::string &name) { return name.ends_with(".safetensors") || name.ends_with(".gguf"); }

// Errors that another attempt may not meet. Everything else is counted as one that it will.
bool is_lost_lease(const Error &error) { return std::string_view(error.sqlstate()) == code::InvalidState.sqlstate; }

}  // namespace

void Attempt::end_as(Ending ending, const char *reason, std::string message, std::string detail, std::string hint) {
  if (ending_ != Ending::None) return;
  ending_ = ending;
  reason_ = reason;
  message_ = std::move(message);
  detail_ = std::move(detail);
  hint_ = std::move(hint);
}

// What was asked for has happened, or its time is up: the trainer is not waited for any longer.
void Attempt::end_by_stop() {
  switch (wish_) {
    case StopWish::Cancel: return end_as(Ending::Cancelled, "cancelled_by_user");
    case StopWish::Pause: return end_as(Ending::Paused, "paused_by_user");
    case StopWish::Limit: return end_as(Ending::Paused, "limit_reached");
    case StopWish::GiveWay:
      counts_ = false;
      return end_as(Ending::QueuedAgain, "preempted", "it gave way to a more important run of its owner", {}, "The run continues from its last checkpoint.");
    case StopWish::Shutdown:
      counts_ = false;
      return end_as(Ending::QueuedAgain, "server_shutdown", "the server or the worker was stopped", {}, "The run continues from its last checkpoint.");
    case StopWish::None: return;
  }
}

// Leaves no process behind. A crash after a request to stop is no failure: the last checkpoint holds.
void Attempt::end_of_trainer() {
  Child &child = trainer_->child();
  const bool was_told = ending_ == Ending::QueuedAgain && reason_ != "trainer_crashed";
  ExitStatus status;
  const TimestampTz patience_ends = GetCurrentTimestamp() + exit_patience_us;
  const bool is_expected = ending_ == Ending::Succeeded || ending_ == Ending::Failed || reason_ == "trainer_crashed" || (wish_ != StopWish::None && !was_told);
  std::vector<protocol::UpMessage> ignored;
  while (is_expected && stop_deadline_ == 0 && !child.poll_exit(status) && GetCurrentTimestamp() < patience_ends) wait_for_work(5);
  if (!child.poll_exit(status)) status = child.kill_and_wait();
  trainer_->drain_errors();
  if (reason_ == "trainer_crashed") {
    exit_status_ = status.describe();
    if (wish_ != StopWish::None) {
      ending_ = Ending::None;
      end_by_stop();
    } else if (detail_.empty()) {
      detail_ = "It ended with " + status.describe() + ".";
      hint_ = "Its last words are in the server log.";
    }
  }
}

void Attempt::publish() {
  set_state(WorkerState::Publishing, claim_.run_id);
  write_batch();
  if (wish_ == StopWish::Cancel) return end_by_stop();
  if (std::none_of(artifacts_.begin(), artifacts_.end(), [](const Kept &kept) { return is_model(kept.name); }))
    return end_as(Ending::QueuedAgain, "protocol_violation", "the trainer was done without having sent a model");
  try {
    bool is_cancelled = false;
    std::vector<int64_t> replaced;
    in_transaction("publishing", [&](const call::Spi &spi) {
      // From here a cancel waits for the commit, and is then told that the run has succeeded.
      const call::Rows asked = asked_statement.execute(spi, {claim_.run_id, claim_.attempt});
      is_cancelled = !asked.empty() && asked[0].boolean(0);
      if (is_cancelled) return;
      std::string list = "[";
      for (const Kept &kept : artifacts_) {
        const int64_t file_id = store_file(spi, claim_.run_id, claim_.attempt, kept.claim);
        list += std::string(list.size() > 1 ? "," : "") + "{\"name\":" + json_text(kept.name) + ",\"file_id\":" + std::to_string(file_id) +
                ",\"bytes\":" + std::to_string(kept.claim.bytes) + ",\"sha256\":" + json_text(kept.claim.sha256) + "}";
      }
      replaced.clear();
      for (const call::Row &row : publish_statement.execute(spi, {claim_.run_id, claim_.attempt, result_json(*done_), list + "]"}))
        replaced.push_back(row.int64(0));
    });
    for (const int64_t file_id : replaced) remove_stored_file(file_id);
    if (is_cancelled) end_as(Ending::Cancelled, "cancelled_by_user");
    else end_as(Ending::Succeeded, "completed");
  } catch (const Error &error) {
    if (!is_mismatch(error)) throw;
    end_as(Ending::QueuedAgain, "artifact_invalid", "an artifact is not what the trainer said: " + error.message());
  }
}

void Attempt::make_transition() {
  if (ending_ == Ending::None) end_as(Ending::QueuedAgain, "internal_error", "the attempt ended without a reason");
  // What was trained up to now is told, and charged, also when the attempt failed.
  if (ending_ != Ending::Succeeded && !relay_.is_empty()) write_batch();
  in_transaction("ending an attempt", [this](const call::Spi &spi) {
    const auto finish = [&](const char *status) {
      finish_run(spi, {claim_.run_id, claim_.attempt, status, reason_, or_nothing(message_), or_nothing(detail_), or_nothing(hint_), exit_status_});
    };
    switch (ending_) {
      case Ending::Succeeded: break;  // publish_run has made the transition
      case Ending::Cancelled: finish("cancelled"); break;
      case Ending::Failed: finish("failed"); break;
      case Ending::Paused: park_statement.execute(spi, {claim_.run_id, claim_.attempt, reason_}); break;
      case Ending::QueuedAgain:
      case Ending::None:
        requeue_statement.execute(spi, {claim_.run_id, claim_.attempt, reason_, counts_, exit_status_, or_nothing(message_), or_nothing(detail_), or_nothing(hint_)});
        break;
    }
    idle_statement.execute(spi, {device_id_});
  });
}

// The server refused something that the worker wrote. When not even that can be written down, the lease runs out and the scheduler
// frees the run.
void Attempt::requeue_after(const Error &error) {
  const std::string run = std::to_string(claim_.run_id);
  ereport(LOG, (errmsg("pgtrain: attempt %d of run %s ended: %s", claim_.attempt, run.c_str(), error.what()),
                error.detail().empty() ? 0 : errdetail_internal("%s", error.detail().c_str())));
  if (is_lost_lease(error)) return;
  const bool is_about_the_program = std::string_view(error.sqlstate()) == code::Unavailable.sqlstate;
  try {
    in_transaction("ending an attempt", [&](const call::Spi &spi) {
      requeue_statement.execute(spi, {claim_.run_id, claim_.attempt, is_about_the_program ? "io_error" : "internal_error", true, exit_status_,
                                      error.message(), or_nothing(error.detail()), or_nothing(error.hint())});
      idle_statement.execute(spi, {device_id_});
    });
  } catch (const Error &second) {
    ereport(LOG, (errmsg("pgtrain: attempt %d of run %s keeps its lease until it expires: %s", claim_.attempt, run.c_str(), second.what())));
  }
}

}  // namespace pgtrain::pg::worker
