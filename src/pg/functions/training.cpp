// SQL functions of the training domain: waiting for a run, stored files, and the seams to the queue. Submitting is in submit.cpp.
#include "pg/compat.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <string>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/queue_events.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/transitions.hpp"

namespace {

using namespace pgtrain::pg;
using call::Type;

Datum bytes_datum(const void *bytes, size_t length) { return PointerGetDatum(cstring_to_text_with_len(static_cast<const char *>(bytes), static_cast<int>(length))); }

std::string label(Datum enum_value) {
  const char *text = nullptr;
  call::guarded([&] { text = DatumGetCString(DirectFunctionCall1(enum_out, enum_value)); });
  return text;
}

// ---------------------------------------------------------------- waiting

call::Statement run_state{
    "select r.status in ('queued', 'running'), r.xmin::text::bigint,"
    " (select a.xmin::text::bigint from pgtrain.run_attempts a where a.run_id = r.id and a.ended_at is null)"
    " from pgtrain.training_runs r where r.id = $1",
    {Type::Int8}};

// Also by a subtransaction, as psql makes one of each statement with ON_ERROR_ROLLBACK.
bool is_own_change(const call::Row &row, int column) {
  return !row.is_null(column) && TransactionIdIsCurrentTransactionId(static_cast<TransactionId>(row.int64(column)));
}

enum class RunState { Open, Ended, Missing, OwnChange, OwnRequest };

// Its own connection each time, and so its own snapshot: what others commit is seen.
RunState look_at_run(int64_t run_id) {
  call::Spi spi;
  const call::Rows rows = run_state.execute(spi, {run_id});
  if (rows.empty()) return RunState::Missing;
  if (!rows[0].boolean(0)) return RunState::Ended;
  if (is_own_change(rows[0], 1)) return RunState::OwnChange;
  return is_own_change(rows[0], 2) ? RunState::OwnRequest : RunState::Open;
}

uint64_t ended_runs() { return worker::shared() == nullptr ? 0 : *const_cast<volatile uint64_t *>(&worker::shared()->generation); }

void nap(long wait_ms) {
  call::guarded([wait_ms] {
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait_ms, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  });
}

bool wait_until_ended(int64_t run_id, int64_t timeout_ms) {
  if (IsolationUsesXactSnapshot())
    throw Error(code::InvalidState, "wait_for_run sees nothing new in a transaction of this isolation level", {}, "Use read committed.");
  constexpr long shortest_ms = 2, longest_ms = 100;
  const TimestampTz begin = GetCurrentTimestamp();
  long wait_ms = shortest_ms;
  uint64_t seen = ended_runs() - 1;
  TimestampTz looked_at = 0;
  for (;;) {
    const TimestampTz now = GetCurrentTimestamp();
    // Something ended somewhere, or it is time to look without a sign.
    if (ended_runs() != seen || now - looked_at >= longest_ms * 1000) {
      seen = ended_runs();
      looked_at = now;
      switch (look_at_run(run_id)) {
        case RunState::Ended: return true;
        case RunState::Missing: throw Error(code::NotFound, "run " + std::to_string(run_id) + " does not exist any more");
        case RunState::OwnChange:
          throw Error(code::InvalidState, "run " + std::to_string(run_id) + " was submitted in this very transaction", {},
                      "Commit first: until then no worker can see the run.");
        case RunState::OwnRequest:
          throw Error(code::InvalidState, "run " + std::to_string(run_id) + " was asked to stop in this very transaction", {},
                      "Commit first: until then its worker cannot see that.");
        case RunState::Open: break;
      }
    }
    const int64_t left = timeout_ms < 0 ? longest_ms : timeout_ms - (now - begin) / 1000;
    if (left <= 0) return false;
    nap(static_cast<long>(std::min<int64_t>(wait_ms, left)));
    wait_ms = std::min(wait_ms * 2, longest_ms);
  }
}

}  // namespace

PGTRAIN_FUNCTION(pgtrain_wait_until_ended) { PG_RETURN_BOOL(wait_until_ended(PG_GETARG_INT64(0), PG_GETARG_INT64(1))); }

PGTRAIN_FUNCTION(pgtrain_read_stored_file) {
  std::string content;
  {
    call::Spi spi;
    content = worker::read_stored_file(spi, PG_GETARG_INT64(0));
  }
  const Datum result = call::guarded([&content] { return bytes_datum(content.data(), content.size()); });
  return result;
}

// read_stored_part(file_id, position, bytes) returns bytea
PGTRAIN_FUNCTION(pgtrain_read_stored_part) {
  std::string content;
  {
    const call::Spi spi;
    content = worker::read_stored_part(spi, PG_GETARG_INT64(0), PG_GETARG_INT64(1), PG_GETARG_INT32(2));
  }
  return call::guarded([&content] { return bytes_datum(content.data(), content.size()); });
}

PGTRAIN_FUNCTION(pgtrain_wake_for_run) {
  worker::note_queued(PG_GETARG_INT64(0), PG_GETARG_INT16(1), PG_GETARG_BOOL(2));
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_wake_workers) {
  worker::note_look_again();
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_forget_shares) {
  worker::note_shares_changed();
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_lease_ended) {
  worker::note_lease_ended(PG_GETARG_INT64(0), PG_GETARG_FLOAT8(1));
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_claim_run) {
  if (worker::shared() == nullptr)
    throw Error(code::NotPreloaded, "runs can only be claimed when pgtrain is preloaded", {}, "Add pgtrain to shared_preload_libraries and restart the server.");
  worker::ClaimRequest request{std::nullopt, MyProcPid, INT64_MAX, true};
  if (!PG_ARGISNULL(0)) request.device_id = PG_GETARG_INT64(0);
  if (!PG_ARGISNULL(1)) request.worker_pid = PG_GETARG_INT32(1);
  std::optional<worker::Claim> claim;
  {
    call::Spi spi;
    claim = worker::claim_next(spi, request);
  }
  Datum values[2] = {Int64GetDatum(claim ? claim->run_id : 0), Int32GetDatum(claim ? claim->attempt : 0)};
  bool nulls[2] = {!claim, !claim};
  return call::guarded([&] {
    TupleDesc columns;
    if (get_call_result_type(fcinfo, nullptr, &columns) != TYPEFUNC_COMPOSITE) elog(ERROR, "pgtrain: not a row type");
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
  });
}

PGTRAIN_FUNCTION(pgtrain_finish_run) {
  for (int i = 0; i < 4; ++i)
    if (PG_ARGISNULL(i)) throw Error(code::NullNotAllowed, "run, attempt, status and reason of finish_run may not be null");
  const std::string status = label(PG_GETARG_DATUM(2)), reason = label(PG_GETARG_DATUM(3));
  worker::Finish finish{PG_GETARG_INT64(0), PG_GETARG_INT32(1), status, reason};
  std::optional<std::string_view> *const texts[] = {&finish.message, &finish.detail, &finish.hint, &finish.exit_status};
  call::guarded([&] {
    for (int i = 0; i < 4; ++i)
      if (!PG_ARGISNULL(4 + i)) *texts[i] = boundary::text_argument(fcinfo, 4 + i);
  });
  const call::Spi spi;
  worker::finish_run(spi, finish);
  PG_RETURN_VOID();
}
