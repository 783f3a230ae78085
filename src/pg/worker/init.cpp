// What _PG_init does for the workers: settings always; shared memory, hooks and the launcher when the module is preloaded.
// Without preloading everything but the workers works, and says so where it matters (why_waiting, claim_run).
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "postmaster/bgworker.h"
}

#include "pg/worker/databases.hpp"
#include "pg/worker/queue_events.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"

namespace pgtrain::pg::worker {
namespace {

void register_launcher() {
  BackgroundWorker worker;
  MemSet(&worker, 0, sizeof worker);
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  // Not on a standby: there nothing can be written.
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = 1;
  strlcpy(worker.bgw_library_name, "pgtrain", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, "pgtrain_launcher_main", BGW_MAXLEN);
  strlcpy(worker.bgw_name, "pgtrain launcher", BGW_MAXLEN);
  strlcpy(worker.bgw_type, "pgtrain launcher", BGW_MAXLEN);
  RegisterBackgroundWorker(&worker);
}

}  // namespace

void init() {
  define_settings();
  install_queue_events();
  if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade) return;
  request_shared_memory();
  install_utility_hook();
  register_launcher();
}

}  // namespace pgtrain::pg::worker
