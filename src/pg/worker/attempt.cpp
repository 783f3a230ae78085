// See attempt.hpp. Supervision: what comes in and what the clock says. Preparing is in attempt_prepare.cpp, the ends of an attempt
// are in attempt_end.cpp.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/timestamp.h"
}

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <variant>

#include "pg/worker/attempt.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/shares.hpp"
#include "pg/worker/transaction.hpp"
#include "pg/worker/worker.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

constexpr int64_t ms = 1000;              // in the server's microseconds
constexpr int64_t soonest_look_us = 50 * ms;  // between two looks at the lease when wake-ups come thick

call::Statement record_statement{
    "select pgtrain_private.record_attempt($1, $2, $3, $4, $5, $6, $7, $8, $9)::text",
    {Type::Int8, Type::Int4, Type::Int4, Type::Jsonb, Type::Jsonb, Type::Jsonb, Type::Jsonb, Type::Jsonb, Type::Jsonb}};
call::Statement checkpoint_statement{"select f from unnest(pgtrain_private.add_checkpoint($1, $2, $3, $4, $5, $6)) f",
                                     {Type::Int8, Type::Int4, Type::Int8, Type::Int8, Type::Int8, Type::Text}};

call::Statement renew_statement{"update pgtrain.run_attempts set expires_at = pg_catalog.clock_timestamp() + $3 * interval '1 ms' where run_id = $1 and attempt = $2",
                                {Type::Int8, Type::Int4, Type::Int4}};

call::Statement replan_statement{"select pgtrain_private.replan_run($1, $2, $3, $4)", {Type::Int8, Type::Int4, Type::Int8, Type::Int8}};

call::Statement give_way_statement{"select pgtrain_private.must_give_way($1, $2)", {Type::Int8, Type::Int4}};

call::Parameter or_null(const std::string &text) { return text.empty() ? call::Parameter(nullptr) : call::Parameter(text); }

}  // namespace

Attempt::Attempt(const Claim &claim, int device, int64_t device_id)
    : claim_(claim), device_(device), device_id_(device_id), relay_(claim.attempt) {}

void Attempt::run() {
  try {
    set_state(WorkerState::Preparing, claim_.run_id);
    written_at_ = claimed_at_ = GetCurrentTimestamp();
    folder_.emplace(MyDatabaseId, attempt_folder_name(claim_.run_id, claim_.attempt));
    load_job();
    fetch_base();
    fetch_checkpoint();
    write_data();
    if (ending_ == Ending::None) start_trainer();
    if (ending_ == Ending::None) supervise();
    if (trainer_) end_of_trainer();
    make_transition();
  } catch (const Error &error) {
    if (trainer_) trainer_->child().kill_and_wait();
    requeue_after(error);
  }
  set_state(WorkerState::Cleaning, claim_.run_id);
  trainer_.reset();
  folder_.reset();
}

void Attempt::start_trainer() {
  set_state(WorkerState::StartingTrainer, claim_.run_id);
  trainer_.emplace("pgtrain trainer of run " + std::to_string(claim_.run_id));
  started_at_ = heard_at_ = GetCurrentTimestamp();
  trainer_->start(folder_->path(), job_);
}

void Attempt::supervise() {
  std::vector<protocol::UpMessage> messages;
  while (ending_ == Ending::None) {
    messages.clear();
    const Trainer::State state = trainer_->listen(worker_settings.write_interval_ms(), messages);
    if (!messages.empty()) heard_at_ = GetCurrentTimestamp();
    for (const protocol::UpMessage &message : messages) {
      if (ending_ != Ending::None || done_) break;
      look_at(message);
    }
    if (ending_ != Ending::None) return;
    if (done_) return publish();
    if (state == Trainer::State::Broken) return end_as(Ending::QueuedAgain, "protocol_violation", "the trainer broke the protocol: " + trainer_->problem());
    if (state == Trainer::State::Ended) return end_as(Ending::QueuedAgain, "trainer_crashed", "the trainer ended without a result");
    look_at_clock();
  }
}

void Attempt::look_at(const protocol::UpMessage &message) {
  std::visit([this](const auto &m) { on(m); }, message);
}

void Attempt::look_at_clock() {
  (void)reload_settings_if_asked();
  const TimestampTz now = GetCurrentTimestamp();
  if (must_stop()) wish(StopWish::Shutdown);
  // A wake-up may be a request to stop, which is in the lease row; progress is written by the clock.
  const bool is_time = now - written_at_ >= worker_settings.write_interval_ms() * ms;
  if (is_time || (trainer_->was_woken() && now - looked_at_ >= soonest_look_us)) write_batch();
  if (stop_deadline_ != 0 && now >= stop_deadline_) return end_by_stop();
  if (!is_planned_ && now - started_at_ > worker_settings.trainer_start_timeout_ms * ms)
    return end_as(Ending::QueuedAgain, "trainer_hung", "the trainer did not start working in time",
                  "pgtrain.trainer_start_timeout is " + std::to_string(worker_settings.trainer_start_timeout_ms) + " ms.");
  if (now - heard_at_ > worker_settings.trainer_silence_timeout_ms * ms)
    return end_as(Ending::QueuedAgain, "trainer_hung", "the trainer fell silent",
                  "pgtrain.trainer_silence_timeout is " + std::to_string(worker_settings.trainer_silence_timeout_ms) + " ms.");
}

void Attempt::write_batch() {
  const Batch batch = relay_.take();
  std::string asked;
  in_transaction("writing progress", [&](const call::Spi &spi) {
    asked = record_statement.execute(spi, {claim_.run_id, claim_.attempt, worker_settings.lease_duration_ms, or_null(batch.progress),
                                           or_null(batch.metrics), or_null(batch.tasks), or_null(batch.samples), or_null(batch.events),
                                           or_null(batch.evaluations)})[0].text(0);
    if (asked == "none" && must_give_way(spi)) asked = "give way";
  });
  written_at_ = looked_at_ = GetCurrentTimestamp();
  if (asked == "cancel") wish(StopWish::Cancel);
  if (asked == "pause") wish(StopWish::Pause);
  if (asked == "limit") wish(StopWish::Limit);
  if (asked == "give way") wish(StopWish::GiveWay);
}

bool Attempt::must_give_way(const call::Spi &spi) {
  const double seconds = static_cast<double>(GetCurrentTimestamp() - claimed_at_) / USECS_PER_SEC;
  return may_give_way(MyDatabaseId, claim_.owner_id, rank_, seconds) && give_way_statement.execute(spi, {claim_.run_id, claim_.attempt})[0].boolean(0);
}

// Between two parts of something long. False when it need not be brought to its end.
bool Attempt::keep_lease() {
  if (must_stop()) wish(StopWish::Shutdown);
  if (ending_ == Ending::None && GetCurrentTimestamp() - written_at_ >= worker_settings.write_interval_ms() * ms) write_batch();
  return ending_ == Ending::None && wish_ != StopWish::Cancel;
}

// A cancel overrides a pause, and what the user wants overrides the end of the server only when it is a cancel.
void Attempt::wish(StopWish wish) {
  if (wish_ == wish || wish_ == StopWish::Cancel || (wish_ != StopWish::None && wish != StopWish::Cancel)) return;
  wish_ = wish;
  set_state(WorkerState::Stopping, claim_.run_id);
  const bool is_cancel = wish == StopWish::Cancel;
  const int64_t grace = is_cancel ? worker_settings.trainer_cancel_grace_ms : worker_settings.trainer_grace_period_ms;
  stop_deadline_ = GetCurrentTimestamp() + grace * ms;
  if (!trainer_) return end_by_stop();
  if (is_cancel) trainer_->send(protocol::down::Cancel{});
  else trainer_->send(protocol::down::Pause{});
}

void Attempt::on(const protocol::up::Plan &message) {
  is_planned_ = true;
  if (wish_ == StopWish::None) set_state(WorkerState::Training, claim_.run_id);
  relay_.add_event("planned", "{\"peak_bytes\":" + std::to_string(message.peak_bytes) + ",\"device\":" + json_text(message.device) +
                                  ",\"precision\":" + json_text(message.precision) + "}");
}

void Attempt::on(const protocol::up::Data &message) {
  const auto field = [](const char *name, uint64_t value) { return std::string("\"") + name + "\":" + std::to_string(value); };
  relay_.add_event("data_read", "{" + field("samples", message.samples) + "," + field("held_out_samples", message.held_out_samples) + "," +
                                    field("tokens", message.tokens) + "," + field("learned_tokens", message.learned_tokens) + "," +
                                    field("truncated_samples", message.truncated_samples) + "," + field("truncated_tokens", message.truncated_tokens) + "," +
                                    field("steps", static_cast<uint64_t>(message.steps)) + "," + field("planned_tokens", message.planned_tokens) + "}");
  constexpr auto most = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (message.steps < 1 || message.planned_tokens > most) return end_as(Ending::QueuedAgain, "protocol_violation", "the trainer announced data of no steps");
  in_transaction("planning anew", [&](const call::Spi &spi) {
    replan_statement.execute(spi, {claim_.run_id, claim_.attempt, message.steps, static_cast<int64_t>(message.planned_tokens)});
  });
}

void Attempt::on(const protocol::up::File &message) {
  const FileClaim claim{folder_->file(message.name), message.bytes, message.sha256};
  try {
    if (message.kind == protocol::FileKind::Checkpoint) store_checkpoint(claim, message.step);
    else keep_artifact(message);
    // Meanwhile nobody has listened.
    heard_at_ = GetCurrentTimestamp();
  } catch (const Error &error) {
    if (!is_mismatch(error)) throw;
    return end_as(Ending::QueuedAgain, "artifact_invalid", "a file of the trainer is not what it said: " + error.message());
  }
  trainer_->send(protocol::down::Ack{message.name});
}

void Attempt::store_checkpoint(const FileClaim &claim, int64_t step) {
  write_batch();
  std::vector<int64_t> replaced;
  in_transaction("storing a checkpoint", [&](const call::Spi &spi) {
    const int64_t file_id = store_file(spi, claim_.run_id, claim_.attempt, claim);
    for (const call::Row &row : checkpoint_statement.execute(
             spi, {claim_.run_id, claim_.attempt, step, file_id, static_cast<int64_t>(claim.bytes), claim.sha256}))
      replaced.push_back(row.int64(0));
    // Nobody takes the lease from a transaction that holds it, but it may have run out by the end of this one.
    renew_statement.execute(spi, {claim_.run_id, claim_.attempt, worker_settings.lease_duration_ms});
  });
  for (const int64_t file_id : replaced) remove_stored_file(file_id);
}

// Out of the trainer's reach by name until the whole result is stored in one commit.
void Attempt::keep_artifact(const protocol::up::File &message) {
  const std::string kept_folder = folder_->file(".kept");
  if (mkdir(kept_folder.c_str(), 0700) != 0 && errno != EEXIST) throw Error(code::Unavailable, text_of_system_error("cannot make", kept_folder));
  const std::string from = folder_->file(message.name), to = kept_folder + "/" + message.name;
  unlink(to.c_str());
  if (link(from.c_str(), to.c_str()) != 0) throw Error(code::InvalidData, text_of_system_error("cannot take", message.name));
  const FileClaim claim{to, message.bytes, message.sha256};
  if (!verify_file(claim, [this] { return keep_lease(); })) return;
  std::erase_if(artifacts_, [&](const Kept &kept) { return kept.name == message.name; });
  artifacts_.push_back(Kept{message.name, claim});
}

void Attempt::on(const protocol::up::Failed &message) {
  using protocol::FailureCode;
  const bool is_worth_another_try = message.code == FailureCode::DeviceFault || message.code == FailureCode::IoError ||
                                    message.code == FailureCode::InternalError;
  end_as(is_worth_another_try ? Ending::QueuedAgain : Ending::Failed, protocol::name_of(message.code), message.message, message.detail, message.hint);
}

void Attempt::on(const protocol::up::Done &message) {
  switch (message.status) {
    case protocol::DoneStatus::Completed: done_ = message; return;
    case protocol::DoneStatus::Cancelled:
    case protocol::DoneStatus::Paused:
      if (wish_ != StopWish::None) return end_by_stop();
      return end_as(Ending::QueuedAgain, "trainer_crashed", "the trainer left without having been asked to");
  }
}

}  // namespace pgtrain::pg::worker
