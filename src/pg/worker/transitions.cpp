// The transitions of claim and finish, see transitions.hpp. Order of locks: entry of the queue, attempt, run.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "commands/async.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
}

#include <string>

#include "pg/call/hot_table.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/transitions.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Change;
using call::Field;
using call::OpenTable;
using call::Type;

namespace queue {
enum { run_id, owner_id, rank, memory_bytes };
call::HotTable table{"pgtrain_private", "run_queue", {"run_id", "owner_id", "rank", "memory_bytes"}, {"run_queue_order_idx"}, 1};
}  // namespace queue

namespace runs {
enum { id, status, end_reason, error_message, error_detail, error_hint, attempt, failed_attempts, available_at, started_at, ended_at, updated_at };
call::HotTable table{"pgtrain",
                     "training_runs",
                     {"id", "status", "end_reason", "error_message", "error_detail", "error_hint", "attempt", "failed_attempts",
                      "available_at", "started_at", "ended_at", "updated_at"},
                     {"training_runs_pkey"},
                     3};
}  // namespace runs

namespace attempts {
enum { run_id, attempt, owner_id, device_id, worker_pid, incarnation, requested, started_at, expires_at, ended_at, end_reason, exit_status, message };
// The run of a lease is held by the transaction that writes it, so its foreign key is vouched for.
call::HotTable table{"pgtrain",
                     "run_attempts",
                     {"run_id", "attempt", "owner_id", "device_id", "worker_pid", "incarnation", "requested", "started_at", "expires_at",
                      "ended_at", "end_reason", "exit_status", "message"},
                     {"run_attempts_pkey"},
                     1};
}  // namespace attempts

namespace events {
enum { id, run_id, owner_id, status, data, created_at, updated_at };
call::HotTable table{"pgtrain",
                     "training_statuses",
                     {"id", "training_run_id", "owner_id", "status", "data", "created_at", "updated_at"},
                     {"training_statuses_pkey"},
                     1};
}  // namespace events

namespace usage {
call::HotTable table{"pgtrain", "usage_entries", {"run_id"}, {"usage_entries_run_id_idx"}, 0};
}

call::Statement lost_lease_statement{"select pgtrain_private.fence_attempt($1, $2)", {Type::Int8, Type::Int4}};
call::Statement wrong_state_statement{"select pgtrain_private.refuse_state($1, 'finished')", {Type::Int8}};
call::Statement tasks_statement{
    "update pgtrain.training_tasks t set status = 'failed', completed_at = pg_catalog.clock_timestamp()"
    " where t.training_run_id = $1 and t.status = 'started'",
    {Type::Int8}};
call::Statement settle_statement{"select pgtrain_private.settle_run($1)", {Type::Int8}};

Field text_field(int column, const std::optional<std::string_view> &text) {
  if (!text) return {column, Datum{0}, true};
  return {column, PointerGetDatum(cstring_to_text_with_len(text->data(), static_cast<int>(text->size())))};
}

// Finds a row by its key and changes it by `change`, which returns nothing done when the row is not as it must be. When another
// transaction changes the row between the two, both are done again.
template <class Try>
bool change_row(OpenTable &table, ScanKeyData *keys, int count, Try &&change) {
  for (;;) {
    call::push_new_snapshot();
    bool is_wanted = table.find(0, keys, count);
    const Change done = is_wanted ? change(is_wanted) : Change::Done;
    PopActiveSnapshot();
    if (!is_wanted) return false;
    if (done == Change::Done) return true;
  }
}

}  // namespace

// ---------------------------------------------------------------- queued to running

namespace {

// Takes an entry out of the queue. One that another transaction holds or has moved is left to it.
bool take_entry(const Search &search, int64_t *run_id) {
  call::push_new_snapshot();
  OpenTable entries(queue::table);
  ScanKeyData keys[] = {call::scan_key(1, F_INT8EQ, Int64GetDatum(search.owner_id)), call::scan_key(2, F_INT2EQ, Int16GetDatum(static_cast<int16>(search.rank))),
                        call::scan_key(3, F_INT8GT, Int64GetDatum(search.after), BTGreaterStrategyNumber)};
  bool is_taken = false;
  entries.begin(0, keys, 3);
  while (!is_taken && entries.next()) {
    if (entries.integer(queue::memory_bytes) > search.memory_bytes) continue;
    *run_id = entries.integer(queue::run_id);
    is_taken = entries.remove() == Change::Done;
  }
  entries.end();
  entries.close();
  PopActiveSnapshot();
  return is_taken;
}

// False when the run is not queued any more.
bool start_run(int64_t run_id, int32_t *attempt) {
  OpenTable table(runs::table);
  ScanKeyData keys[] = {call::scan_key(1, F_INT8EQ, Int64GetDatum(run_id))};
  const Datum queued = table.label(runs::status, "queued"), running = table.label(runs::status, "running");
  const bool is_started = change_row(table, keys, 1, [&](bool &is_wanted) {
    is_wanted = table.value(runs::status) == queued;
    if (!is_wanted) return Change::Done;
    *attempt = DatumGetInt32(table.value(runs::attempt)) + 1;
    const Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
    return table.update({{runs::status, running},
                         {runs::end_reason, Datum{0}, true},
                         {runs::attempt, Int32GetDatum(*attempt)},
                         {runs::failed_attempts, Int32GetDatum(DatumGetInt32(table.value(runs::failed_attempts)) + 1)},
                         {runs::available_at, Datum{0}, true},
                         {runs::started_at, table.is_null(runs::started_at) ? now : table.value(runs::started_at)},
                         {runs::updated_at, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp())}});
  });
  table.close();
  return is_started;
}

void write_lease(const Search &search, int64_t run_id, int32_t attempt) {
  OpenTable table(attempts::table);
  const TimestampTz now = GetCurrentTimestamp();
  const bool is_written =
      table.insert({{attempts::run_id, Int64GetDatum(run_id)},
                    {attempts::attempt, Int32GetDatum(attempt)},
                    {attempts::owner_id, Int64GetDatum(search.owner_id)},
                    {attempts::device_id, Int64GetDatum(search.device_id.value_or(0)), !search.device_id},
                    {attempts::worker_pid, Int32GetDatum(search.worker_pid)},
                    {attempts::incarnation, Int64GetDatum(shared()->incarnation)},
                    {attempts::requested, table.label(attempts::requested, "none")},
                    {attempts::started_at, TimestampTzGetDatum(now)},
                    {attempts::expires_at, TimestampTzGetDatum(TimestampTzPlusMilliseconds(now, worker_settings.lease_duration_ms))}});
  if (!is_written) table.refuse("written");
  table.close();
}

}  // namespace

Taken start_next(const call::Spi &, const Search &search) {
  return call::guarded([&] {
    Taken taken{};
    taken.is_found = take_entry(search, &taken.run_id);
    if (!taken.is_found) return taken;
    taken.is_started = start_run(taken.run_id, &taken.attempt);
    if (taken.is_started) write_lease(search, taken.run_id, taken.attempt);
    CommandCounterIncrement();
    return taken;
  });
}

// ---------------------------------------------------------------- running to ended

namespace {

struct Ended {
  bool had_lease;
  bool was_running;
  bool has_usage;
  int64_t owner_id;
  double seconds;
};

bool end_lease(const Finish &finish, const char *reason, Ended *ended) {
  OpenTable table(attempts::table);
  ScanKeyData keys[] = {call::scan_key(1, F_INT8EQ, Int64GetDatum(finish.run_id)), call::scan_key(2, F_INT4EQ, Int32GetDatum(finish.attempt))};
  Field message = text_field(attempts::message, finish.message);
  if (!message.is_null) message.value = DirectFunctionCall2(text_left, message.value, Int32GetDatum(4000));
  const bool had_lease = change_row(table, keys, 2, [&](bool &is_wanted) {
    is_wanted = table.is_null(attempts::ended_at);
    if (!is_wanted) return Change::Done;
    const TimestampTz now = GetCurrentTimestamp();
    ended->owner_id = table.integer(attempts::owner_id);
    ended->seconds = static_cast<double>(now - DatumGetTimestampTz(table.value(attempts::started_at))) / USECS_PER_SEC;
    return table.update({{attempts::ended_at, TimestampTzGetDatum(now)},
                         {attempts::end_reason, table.label(attempts::end_reason, reason)},
                         text_field(attempts::exit_status, finish.exit_status),
                         message});
  });
  table.close();
  return had_lease;
}

bool end_run(const Finish &finish, const char *status, const char *reason) {
  OpenTable table(runs::table);
  ScanKeyData keys[] = {call::scan_key(1, F_INT8EQ, Int64GetDatum(finish.run_id))};
  const Datum running = table.label(runs::status, "running");
  const bool was_running = change_row(table, keys, 1, [&](bool &is_wanted) {
    is_wanted = table.value(runs::status) == running && DatumGetInt32(table.value(runs::attempt)) == finish.attempt;
    if (!is_wanted) return Change::Done;
    const int32_t failed = DatumGetInt32(table.value(runs::failed_attempts)) - (finish.status == "failed" ? 0 : 1);
    return table.update({{runs::status, table.label(runs::status, status)},
                         {runs::end_reason, table.label(runs::end_reason, reason)},
                         text_field(runs::error_message, finish.message),
                         text_field(runs::error_detail, finish.detail),
                         text_field(runs::error_hint, finish.hint),
                         {runs::failed_attempts, Int32GetDatum(failed)},
                         {runs::available_at, Datum{0}, true},
                         {runs::ended_at, TimestampTzGetDatum(GetCurrentTimestamp())},
                         {runs::updated_at, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp())}});
  });
  table.close();
  return was_running;
}

void record_end(const Finish &finish, int64_t owner_id, const char *data) {
  OpenTable table(events::table);
  const Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
  table.insert({{events::id, table.next_identity()},
                {events::run_id, Int64GetDatum(finish.run_id)},
                {events::owner_id, Int64GetDatum(owner_id)},
                text_field(events::status, finish.status),
                {events::data, DirectFunctionCall1(jsonb_in, CStringGetDatum(data))},
                {events::created_at, now},
                {events::updated_at, now}});
  table.close();
}

bool has_usage(int64_t run_id) {
  call::push_new_snapshot();
  OpenTable table(usage::table);
  ScanKeyData keys[] = {call::scan_key(1, F_INT8EQ, Int64GetDatum(run_id))};
  const bool is_found = table.find(0, keys, 1);
  table.close();
  PopActiveSnapshot();
  return is_found;
}

}  // namespace

void finish_run(const call::Spi &spi, const Finish &finish) {
  if (finish.status != "succeeded" && finish.status != "failed" && finish.status != "cancelled")
    throw Error(code::InvalidParameter, "finish_run does not lead to " + std::string(finish.status));
  const std::string status(finish.status), reason(finish.reason);
  const std::string data = "{\"end_reason\": \"" + reason + "\"}", payload = std::to_string(finish.run_id) + "/" + status;
  const Ended ended = call::guarded([&] {
    Ended ended{};
    ended.had_lease = end_lease(finish, reason.c_str(), &ended);
    ended.was_running = ended.had_lease && end_run(finish, status.c_str(), reason.c_str());
    if (!ended.was_running) return ended;
    record_end(finish, ended.owner_id, data.c_str());
    Async_Notify("pgtrain_runs", payload.c_str());
    ended.has_usage = has_usage(finish.run_id);
    return ended;
  });
  if (!ended.had_lease) lost_lease_statement.execute(spi, {finish.run_id, finish.attempt});
  if (!ended.was_running) wrong_state_statement.execute(spi, {finish.run_id});
  note_lease_ended(ended.owner_id, ended.seconds);
  if (finish.status != "succeeded") tasks_statement.execute(spi, {finish.run_id});
  if (ended.has_usage) settle_statement.execute(spi, {finish.run_id});
}

}  // namespace pgtrain::pg::worker
