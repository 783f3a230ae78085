// The launcher: one for the cluster, registered at preload and restarted by the postmaster. It knows databases and devices,
// starts a scheduler for each database that has the extension and a device worker for each device in each of them, and stops
// what is not wanted any more. It has no database and never trains.
//
//   database:  unknown --scheduler looks--> present | absent;   absent --CREATE EXTENSION--> present
//   worker:    free --start--> starting --takes its slot--> running --exits--> free
#include "pg/compat.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "libpq/pqsignal.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
}

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "pg/boundary/function.hpp"
#include "pg/call/guard.hpp"
#include "pg/secrets/root_keys.hpp"
#include "pg/worker/databases.hpp"
#include "pg/worker/devices.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/trainer.hpp"
#include "pg/worker/worker.hpp"

namespace pgtrain::pg::worker {
namespace {

constexpr int64_t restart_delay_us = 1000000;    // between two starts of the same worker
constexpr int64_t lost_start_us = 30 * 1000000;  // a worker that has not come to life by then never will
constexpr long longest_sleep_ms = 10000;
constexpr int64_t detection_retry_us = 30 * 1000000;
constexpr int invalid_database_limit = -2;       // datconnlimit of a half-dropped database, which cannot be entered

struct Database {
  Oid oid;
  bool has_workers;      // can be entered; templates are left alone
  char name[NAMEDATALEN];
};

// Server world. All of them: the files of one that cannot be entered now are not those of a dropped one.
void read_databases(Database **databases, int *room, int *count) {
  StartTransactionCommand();
  (void)GetTransactionSnapshot();
  Relation relation = table_open(DatabaseRelationId, AccessShareLock);
  TableScanDesc scan = table_beginscan_catalog(relation, 0, nullptr);
  *count = 0;
  for (HeapTuple tuple; (tuple = heap_getnext(scan, ForwardScanDirection)) != nullptr;) {
    auto *form = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
    if (*count == *room) {
      const int more = *room + max_databases;
      const Size bytes = static_cast<Size>(more) * sizeof(Database);
      *databases = static_cast<Database *>(*databases == nullptr ? MemoryContextAlloc(TopMemoryContext, bytes) : repalloc(*databases, bytes));
      *room = more;
    }
    Database &database = (*databases)[(*count)++];
    database.oid = form->oid;
    database.has_workers = form->datallowconn && !form->datistemplate && form->datconnlimit != invalid_database_limit;
    strlcpy(database.name, NameStr(form->datname), NAMEDATALEN);
  }
  table_endscan(scan);
  table_close(relation, AccessShareLock);
  CommitTransactionCommand();
}

bool is_wanted_name(const char *name) {
  const std::string wanted = worker_settings.databases == nullptr ? "*" : worker_settings.databases;
  bool is_wanted = false;
  call::guarded([&] {
    char *copy = pstrdup(wanted.c_str());
    List *names = NIL;
    if (SplitIdentifierString(copy, ',', &names)) {
      ListCell *cell;
      foreach (cell, names)
        if (strcmp(static_cast<char *>(lfirst(cell)), "*") == 0 || strcmp(static_cast<char *>(lfirst(cell)), name) == 0) is_wanted = true;
    }
    list_free(names);
    pfree(copy);
  });
  return is_wanted;
}

class Launcher {
 public:
  void run();

 private:
  void look_around();
  void detect();
  void forget_missing();
  void manage(const Database &database);
  void set_lacks_room(Oid database, bool lacks_room);
  void write_note();
  bool is_running(WorkerKind kind, Oid database, int device) const;
  bool start(WorkerKind kind, const Database &database, int device);
  void stop_surplus(Oid database, bool all);
  void free_lost_starts();
  bool is_known(Oid database) const;

  std::vector<Database> databases_;
  TimestampTz detect_again_at_ = 0;
  bool is_table_full_ = false;
};

void release_launcher(int, Datum) {
  Guard lock(shared()->lock);
  shared()->launcher_latch = nullptr;
  shared()->launcher_pid = 0;
}

bool Launcher::is_known(Oid database) const {
  return std::any_of(databases_.begin(), databases_.end(), [database](const Database &d) { return d.oid == database; });
}

void Launcher::detect() {
  const TimestampTz now = GetCurrentTimestamp();
  bool is_known_already;
  {
    Guard lock(shared()->lock);
    is_known_already = shared()->devices_known;
  }
  if (is_known_already && detect_again_at_ == 0) return;
  if (now < detect_again_at_) return;
  detect_again_at_ = detect_devices() ? 0 : now + detection_retry_us;
}

// Databases that are gone leave no slot and no folder behind.
void Launcher::forget_missing() {
  std::vector<Oid> gone;
  {
    Guard lock(shared()->lock);
    for (DatabaseSlot &slot : shared()->databases)
      if (slot.oid != InvalidOid && !is_known(slot.oid) && slot.suspended == 0) {
        gone.push_back(slot.oid);
        MemSet(&slot, 0, sizeof(DatabaseSlot));
      }
  }
  for (const Oid database : gone) forget_database(database);
  sweep_dropped_databases([](Oid database, void *argument) { return static_cast<Launcher *>(argument)->is_known(database); }, this);
}

bool Launcher::is_running(WorkerKind kind, Oid database, int device) const {
  for (const WorkerSlot &slot : shared()->workers)
    if (slot.is_used && slot.kind == kind && slot.database == database && (kind != WorkerKind::Device || slot.device == device)) return true;
  return false;
}

// False when the server has no room for the worker.
bool Launcher::start(WorkerKind kind, const Database &database, int device) {
  int index = -1;
  {
    Guard lock(shared()->lock);
    if (is_running(kind, database.oid, device)) return true;
    for (int i = 0; i < max_workers && index < 0; ++i)
      if (!shared()->workers[i].is_used) index = i;
    if (index < 0) return false;
    WorkerSlot &slot = shared()->workers[index];
    MemSet(&slot, 0, sizeof(WorkerSlot));
    slot.is_used = true;
    slot.kind = kind;
    slot.database = database.oid;
    slot.device = device;
    slot.started_at = GetCurrentTimestamp();
  }
  BackgroundWorker worker;
  MemSet(&worker, 0, sizeof worker);
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = BGW_NEVER_RESTART;
  worker.bgw_notify_pid = MyProcPid;
  worker.bgw_main_arg = slot_argument(index);
  strlcpy(worker.bgw_library_name, "pgtrain", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, kind == WorkerKind::Scheduler ? "pgtrain_scheduler_main" : "pgtrain_device_worker_main", BGW_MAXLEN);
  pg_snprintf(worker.bgw_type, BGW_MAXLEN, "pgtrain %s", kind == WorkerKind::Scheduler ? "scheduler" : "device worker");
  if (kind == WorkerKind::Scheduler)
    pg_snprintf(worker.bgw_name, BGW_MAXLEN, "pgtrain scheduler of %s", database.name);
  else
    pg_snprintf(worker.bgw_name, BGW_MAXLEN, "pgtrain device worker %d of %s", device, database.name);
  bool is_registered = false;
  call::guarded([&] {
    BackgroundWorkerHandle *handle = nullptr;
    is_registered = RegisterDynamicBackgroundWorker(&worker, &handle);
    if (handle != nullptr) pfree(handle);
  });
  if (!is_registered) {
    Guard lock(shared()->lock);
    MemSet(&shared()->workers[index], 0, sizeof(WorkerSlot));
  }
  return is_registered;
}

void Launcher::stop_surplus(Oid database, bool all) {
  Guard lock(shared()->lock);
  for (WorkerSlot &slot : shared()->workers) {
    if (!slot.is_used || slot.database != database || slot.must_stop) continue;
    if (!all && (slot.kind != WorkerKind::Device || slot.device < shared()->device_count)) continue;
    slot.must_stop = true;
    if (slot.latch != nullptr) SetLatch(slot.latch);
  }
}

void Launcher::free_lost_starts() {
  const TimestampTz now = GetCurrentTimestamp();
  Guard lock(shared()->lock);
  for (WorkerSlot &slot : shared()->workers)
    if (slot.is_used && slot.pid == 0 && now - slot.started_at > lost_start_us) MemSet(&slot, 0, sizeof(WorkerSlot));
}

void Launcher::manage(const Database &database) {
  const TimestampTz now = GetCurrentTimestamp();
  const bool is_wanted = is_wanted_name(database.name);
  DatabaseState state;
  int devices = 0;
  bool has_scheduler = false;
  {
    Guard lock(shared()->lock);
    DatabaseSlot *slot = find_database(database.oid, is_wanted);
    if (slot == nullptr && is_wanted) is_table_full_ = true;
    if (slot == nullptr || slot->suspended > 0 || now < slot->retry_at) return;
    state = slot->state;
    has_scheduler = is_running(WorkerKind::Scheduler, database.oid, 0);
    if (shared()->devices_known) devices = shared()->device_count;
    slot->retry_at = now + restart_delay_us;
  }
  if (!is_wanted || state == DatabaseState::Absent) {
    stop_surplus(database.oid, true);
    set_lacks_room(database.oid, false);
    return;
  }
  bool has_room = has_scheduler || start(WorkerKind::Scheduler, database, 0);
  if (state == DatabaseState::Present) {
    for (int device = 0; device < devices; ++device) has_room = start(WorkerKind::Device, database, device) && has_room;
    stop_surplus(database.oid, false);
  }
  set_lacks_room(database.oid, !has_room);
}

void Launcher::set_lacks_room(Oid database, bool lacks_room) {
  Guard lock(shared()->lock);
  if (DatabaseSlot *slot = find_database(database, false)) slot->lacks_room = lacks_room;
}

// Why workers are missing, in words: for why_waiting, and once for the log.
void Launcher::write_note() {
  const char *note = nullptr;
  {
    Guard lock(shared()->lock);
    Shared &s = *shared();
    const bool is_short = std::any_of(std::begin(s.databases), std::end(s.databases), [](const DatabaseSlot &slot) { return slot.oid != InvalidOid && slot.lacks_room; });
    if (is_short) note = "the server has no free background worker slot: raise max_worker_processes and restart it";
    else if (is_table_full_) note = "there are more databases than pgtrain can look at: name those that use it in pgtrain.databases";
    if (note != nullptr) strlcpy(s.note, note, sizeof s.note);
    else if (s.devices_known) strlcpy(s.note, s.device_count == 0 ? s.device_note : "", sizeof s.note);
  }
  static const char *told = nullptr;
  if (note != nullptr && note != told) ereport(LOG, (errmsg("pgtrain: %s", note)));
  told = note;
}

void Launcher::look_around() {
  // Before the list is read, because it may take long and what was made meanwhile would look dropped.
  detect();
  static Database *found = nullptr;
  static int room = 0;
  int count = 0;
  call::guarded([&count] { read_databases(&found, &room, &count); });
  databases_.assign(found, found + count);
  free_lost_starts();
  forget_missing();
  is_table_full_ = false;
  for (const Database &database : databases_)
    if (database.has_workers) manage(database);
    else stop_surplus(database.oid, true);
  write_note();
}

void Launcher::run() {
  register_child_cleanup();
  secrets::restore_root_keys();
  while (!ShutdownRequestPending) {
    if (reload_settings_if_asked()) {
      detect_again_at_ = 1;
      secrets::reload_root_keys();
    }
    look_around();
    // Soon again after something changed, so that what it started a moment ago is followed up.
    wait_for_work(std::min<long>(longest_sleep_ms, std::max(worker_settings.poll_interval_ms, 100)));
  }
}

}  // namespace
}  // namespace pgtrain::pg::worker

extern "C" PGDLLEXPORT void pgtrain_launcher_main(Datum argument);

void pgtrain_launcher_main(Datum) {
  using namespace pgtrain::pg::worker;
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  // Terminated, it is started again by the postmaster: exit code 1 asks for that.
  pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
  pqsignal(SIGINT, SIG_IGN);
  BackgroundWorkerUnblockSignals();
  BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
  {
    Guard lock(shared()->lock);
    shared()->launcher_pid = MyProcPid;
    shared()->launcher_latch = MyLatch;
  }
  before_shmem_exit(release_launcher, 0);
  pgtrain::pg::boundary::run_protected([] { Launcher().run(); });
  proc_exit(exit_failed);
}
