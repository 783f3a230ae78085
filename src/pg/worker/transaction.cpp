// See transaction.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
}

#include <string_view>

#include "pg/worker/transaction.hpp"

namespace pgtrain::pg::worker {
namespace {

void begin(const char *activity) {
  call::guarded([activity] {
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    pgstat_report_activity(STATE_RUNNING, activity);
  });
}

void commit() {
  call::guarded([] {
    PopActiveSnapshot();
    CommitTransactionCommand();
    pgstat_report_stat(true);
    pgstat_report_activity(STATE_IDLE, nullptr);
  });
}

void roll_back() {
  call::guarded([] {
    HOLD_INTERRUPTS();
    AbortCurrentTransaction();
    RESUME_INTERRUPTS();
    pgstat_report_activity(STATE_IDLE, nullptr);
  });
}

void try_transaction(const char *activity, void (*body)(const call::Spi &, void *), void *argument) {
  begin(activity);
  try {
    {
      call::Spi spi;
      body(spi, argument);
    }
    commit();
  } catch (const Error &error) {
    const Error copy(error.sqlstate(), error.message(), error.detail(), error.hint());
    roll_back();
    throw copy;
  } catch (...) {
    roll_back();
    throw;
  }
}

// A user's transaction may lock his runs and counters in any order, so a worker can be the one that a deadlock is solved by. That
// undoes all of its transaction and frees the other's way: it is tried again, and the run does not suffer.
constexpr int deadlock_tries = 10;
constexpr std::string_view deadlock_detected = "40P01";

}  // namespace

void in_transaction(const char *activity, void (*body)(const call::Spi &, void *), void *argument) {
  for (int tried = 1;; ++tried) {
    try {
      return try_transaction(activity, body, argument);
    } catch (const Error &error) {
      if (tried == deadlock_tries || error.sqlstate() != deadlock_detected) throw;
    }
  }
}

void connect_worker(Oid database) {
  BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
  static constexpr const char *fixed[][2] = {
      {"role", "none"}, {"search_path", "pg_catalog, pg_temp"}, {"statement_timeout", "0"}, {"lock_timeout", "0"},
      {"idle_in_transaction_session_timeout", "0"}, {"default_transaction_read_only", "off"},
      {"default_transaction_isolation", "read committed"}, {"default_transaction_deferrable", "off"}, {"row_security", "on"},
      {"session_replication_role", "origin"}, {"TimeZone", "UTC"}, {"IntervalStyle", "postgres"},
      // The queue's statements have one good plan, also before the first analyze.
      {"enable_seqscan", "off"}, {"enable_sort", "off"}, {"enable_bitmapscan", "off"}, {"jit", "off"},
  };
  for (const auto &setting : fixed) SetConfigOption(setting[0], setting[1], PGC_SUSET, PGC_S_OVERRIDE);
}

}  // namespace pgtrain::pg::worker
