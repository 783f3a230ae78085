// SQL functions of the compute domain: what shared memory knows about the workers.
#include "pg/compat.hpp"

extern "C" {
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
}

#include "pg/boundary/function.hpp"
#include "pg/worker/databases.hpp"
#include "pg/worker/queue_events.hpp"
#include "pg/worker/shared.hpp"

using namespace pgtrain::pg;

PGTRAIN_FUNCTION(pgtrain_server_incarnation) {
  if (worker::shared() == nullptr) PG_RETURN_NULL();
  PG_RETURN_INT64(worker::shared()->incarnation);
}

PGTRAIN_FUNCTION(pgtrain_is_live_process) {
  if (worker::shared() == nullptr || worker::shared()->incarnation != PG_GETARG_INT64(1)) PG_RETURN_BOOL(false);
  // In another database it is not that one: the lease came from there, by a dump.
  const PGPROC *process = BackendPidGetProc(PG_GETARG_INT32(0));
  PG_RETURN_BOOL(process != nullptr && process->databaseId == MyDatabaseId);
}

PGTRAIN_FUNCTION(pgtrain_was_told_to_leave) {
  if (worker::shared() == nullptr || worker::shared()->incarnation != PG_GETARG_INT64(1)) PG_RETURN_BOOL(false);
  PG_RETURN_BOOL(worker::was_told_to_leave(PG_GETARG_INT32(0)));
}

PGTRAIN_FUNCTION(pgtrain_announce_database) {
  worker::note_announced();
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_require_writable) {
  const char *what = text_to_cstring(PG_GETARG_TEXT_PP(0));
  PreventCommandDuringRecovery(what);
  PreventCommandIfReadOnly(what);
  PG_RETURN_VOID();
}

namespace {

// Server world: no objects with destructors.
void put_launcher_row(Tuplestorestate *rows, TupleDesc columns, const worker::Shared &state) {
  Datum values[7] = {CStringGetTextDatum("launcher")};
  bool nulls[7] = {false, true, true, true, true, true, false};
  if (state.launcher_pid != 0) {
    values[3] = Int32GetDatum(state.launcher_pid);
    nulls[3] = false;
  }
  values[6] = CStringGetTextDatum(state.note);
  tuplestore_putvalues(rows, columns, values, nulls);
}

void put_worker_row(Tuplestorestate *rows, TupleDesc columns, const worker::WorkerSlot &slot, const worker::Shared &state) {
  Datum values[7];
  bool nulls[7] = {false, false, false, false, false, false, false};
  values[0] = CStringGetTextDatum(worker::name_of(slot.kind));
  values[1] = ObjectIdGetDatum(slot.database);
  nulls[2] = slot.kind != worker::WorkerKind::Device;
  values[2] = nulls[2] ? Datum{0} : CStringGetTextDatum(state.devices[slot.device].instance_id);
  values[3] = Int32GetDatum(slot.pid);
  nulls[3] = slot.pid == 0;
  values[4] = CStringGetTextDatum(worker::name_of(slot.state));
  values[5] = Int64GetDatum(slot.run_id);
  nulls[5] = slot.run_id == 0;
  values[6] = CStringGetTextDatum("");
  tuplestore_putvalues(rows, columns, values, nulls);
}

}  // namespace

PGTRAIN_FUNCTION(pgtrain_worker_states) {
  InitMaterializedSRF(fcinfo, 0);
  auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  if (worker::shared() == nullptr) PG_RETURN_NULL();
  // Copied first: nothing that may raise happens under the lock.
  auto *copy = static_cast<worker::Shared *>(palloc(sizeof(worker::Shared)));
  LWLockAcquire(worker::shared()->lock, LW_SHARED);
  memcpy(copy, worker::shared(), sizeof(worker::Shared));
  LWLockRelease(worker::shared()->lock);
  put_launcher_row(result->setResult, result->setDesc, *copy);
  for (const worker::WorkerSlot &slot : copy->workers)
    if (slot.is_used) put_worker_row(result->setResult, result->setDesc, slot, *copy);
  PG_RETURN_NULL();
}
