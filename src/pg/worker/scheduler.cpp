// The scheduler of one database: repairs what dead workers left, frees lost leases, releases runs that are due, writes down the
// devices, moves subscriptions and limited runs on, and removes what is no longer needed. Exits when its database has no extension (any more).
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <string_view>

#include "pg/boundary/function.hpp"
#include "pg/worker/databases.hpp"
#include "pg/worker/devices.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/transaction.hpp"
#include "pg/worker/worker.hpp"

namespace pgtrain::pg::worker {
namespace {

constexpr int64_t housekeeping_us = 60 * 1000000;
constexpr int64_t device_report_us = 10 * 1000000;
constexpr int64_t limits_look_us = 2 * 1000000;
constexpr int64_t rotation_look_us = 10 * 1000000;
constexpr int rotation_portion = 100;  // rows locked by one transaction
constexpr int64_t longest_between_looks_ms = 5000;  // at who blocks a worker
constexpr int64_t first_adoption_us = 60 * 1000000;  // it reads all runs, so it doubles up to the longest
constexpr int64_t longest_adoption_us = 3600 * int64_t{1000000};

call::Statement extension_statement{"select exists (select from pg_catalog.pg_extension where extname = 'pgtrain')"};
call::Statement lost_statement{"select pgtrain_private.free_lost_attempts()"};
call::Statement blockers_statement{"select pgtrain_private.end_blockers($1)", {call::Type::Int4}};
call::Statement due_statement{
    "select (extract(epoch from least(r.next_due, clock_timestamp() + interval '1 day') - clock_timestamp()) * 1000)::bigint from pgtrain_private.release_due_runs() r"};
call::Statement subscriptions_statement{"select pgtrain_private.advance_subscriptions()"};
call::Statement limited_statement{"select pgtrain_private.resume_limited_runs()"};
call::Statement devices_statement{"select pgtrain_private.refresh_device_status()"};
call::Statement adopt_statement{"select pgtrain_private.adopt_queued_runs()"};
call::Statement checkpoints_statement{"select pgtrain_private.remove_expired_checkpoints()"};
call::Statement rotation_statement{"select pgtrain_private.rotate_portion($1)", {call::Type::Int4}};
call::Statement uses_statement{"select pgtrain_private.write_session_uses()"};
call::Statement plans_statement{"delete from pgtrain_private.plan_cache where created_at < now() - interval '30 days'"};

bool has_extension() {
  bool exists = false;
  in_transaction("looking for the extension", [&](const call::Spi &spi) { exists = extension_statement.execute(spi)[0].boolean(0); });
  return exists;
}

// The scheduler serves everybody, so it waits for nobody: what a lock keeps it from is tried again the next time.
constexpr char lock_timeout[] = "1s";
constexpr std::string_view lock_not_available = "55P03";

// Workers ignore SIGINT, so that pg_cancel_backend does them nothing; but it is also how the server's own lock timeout ends a wait.
void on_interrupt(SIGNAL_ARGS) {
  if (get_timeout_indicator(LOCK_TIMEOUT, false)) StatementCancelHandler(postgres_signal_arg);
}

template <class Body>
void chore(const char *activity, Body &&body) {
  try {
    in_transaction(activity, body);
  } catch (const Error &error) {
    if (error.sqlstate() != lock_not_available) throw;
    ereport(LOG, (errmsg("pgtrain: %s was put off: %s", activity, error.what())));
  }
}

void keep_house() {
  sweep_job_folders(MyDatabaseId);
  chore("writing down uses of sessions", [](const call::Spi &spi) { uses_statement.execute(spi); });
  chore("housekeeping", [](const call::Spi &spi) {
    checkpoints_statement.execute(spi);
    plans_statement.execute(spi);
  });
  // By itself: no file goes because of a row whose removal may yet be rolled back.
  chore("sweeping stored files", [](const call::Spi &spi) { sweep_artifacts(spi); });
}

// Whether there may be more. The rows themselves say what is left, so nothing is lost when this dies.
bool rotate_secrets() {
  int64_t rows = 0;
  chore("sealing secrets anew", [&rows](const call::Spi &spi) { rows = rotation_statement.execute(spi, {rotation_portion})[0].int64(0); });
  if (rows > 0) ereport(LOG, (errmsg("pgtrain: %lld secrets were sealed anew under the current root key", static_cast<long long>(rows))));
  return rows > 0;
}

// Leases first: a lost run shall not wait for anything else. Returns how long nothing is due.
long do_chores() {
  long wait_ms = worker_settings.poll_interval_ms;
  chore("freeing lost leases", [](const call::Spi &spi) { lost_statement.execute(spi); });
  chore("releasing due runs", [&wait_ms](const call::Spi &spi) {
    const call::Rows rows = due_statement.execute(spi);
    if (!rows[0].is_null(0)) wait_ms = std::clamp<long>(rows[0].int64(0), 1, wait_ms);
  });
  return wait_ms;
}

void run_scheduler() {
  if (!has_extension()) {
    announce_absent(MyDatabaseId);
    return;
  }
  // Folders that killed workers left go before their runs are claimed again: a folder counts as used by its run, whatever the attempt.
  sweep_job_folders(MyDatabaseId);
  announce_present(MyDatabaseId);
  TimestampTz look_at_limits_at = 0, keep_house_at = 0, report_devices_at = 0, adopt_at = 0, look_for_blockers_at = 0, rotate_at = 0;
  int64_t adoption_delay_us = first_adoption_us;
  while (!must_stop()) {
    if (reload_settings_if_asked()) rotate_at = 0;
    if (!has_extension()) {
      Guard lock(shared()->lock);
      if (DatabaseSlot *slot = find_database(MyDatabaseId, false)) slot->state = DatabaseState::Absent;
      return;
    }
    set_state(WorkerState::Claiming, 0);
    long wait_ms = do_chores();
    const TimestampTz now = GetCurrentTimestamp();
    if (now >= report_devices_at) {
      chore("writing the devices", [](const call::Spi &spi) {
        sync_devices(spi);
        devices_statement.execute(spi);
      });
      report_devices_at = now + device_report_us;
    }
    if (now >= look_at_limits_at) {
      chore("moving subscriptions on", [](const call::Spi &spi) { subscriptions_statement.execute(spi); });
      chore("queueing runs that had met a limit", [](const call::Spi &spi) { limited_statement.execute(spi); });
      look_at_limits_at = now + limits_look_us;
    }
    if (now >= look_for_blockers_at) {
      chore("looking for blockers", [](const call::Spi &spi) { blockers_statement.execute(spi, {worker_settings.lock_patience_ms}); });
      look_for_blockers_at = now + std::min<int64_t>(worker_settings.lock_patience_ms, longest_between_looks_ms) * 1000;
    }
    if (now >= adopt_at) {
      chore("adopting restored runs", [](const call::Spi &spi) { adopt_statement.execute(spi); });
      adopt_at = now + adoption_delay_us;
      adoption_delay_us = std::min(2 * adoption_delay_us, longest_adoption_us);
    }
    if (now >= keep_house_at) {
      keep_house();
      keep_house_at = now + housekeeping_us;
    }
    if (now >= rotate_at) {
      const bool has_more = rotate_secrets();
      rotate_at = has_more ? 0 : now + rotation_look_us;
      if (has_more) wait_ms = 0;
    }
    set_state(WorkerState::Idle, 0);
    if (!must_stop()) wait_for_work(wait_ms);
  }
}

}  // namespace
}  // namespace pgtrain::pg::worker

extern "C" PGDLLEXPORT void pgtrain_scheduler_main(Datum argument);

void pgtrain_scheduler_main(Datum argument) {
  using namespace pgtrain::pg;
  const Oid database = worker::take_slot(argument)->database;
  worker::connect_worker(database);
  pqsignal(SIGINT, worker::on_interrupt);
  SetConfigOption("lock_timeout", worker::lock_timeout, PGC_SUSET, PGC_S_OVERRIDE);
  boundary::run_protected([] { worker::run_scheduler(); });
  proc_exit(worker::exit_finished);
}
