// The shared memory of shared.hpp and the wake-ups that need nothing else.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
}

#include <algorithm>

#include "pg/worker/queue.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"

namespace pgtrain::pg::worker {
namespace {

Shared *shared_memory = nullptr;

shmem_startup_hook_type previous_startup = nullptr;
constexpr char tranche[] = "pgtrain";

void request() {
  RequestAddinShmemSpace(add_size(MAXALIGN(sizeof(Shared)), share_table_bytes()));
  RequestNamedLWLockTranche(tranche, 2);
}

void startup_hook() {
  if (previous_startup != nullptr) previous_startup();
  bool found = false;
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  shared_memory = static_cast<Shared *>(ShmemInitStruct("pgtrain", sizeof(Shared), &found));
  if (!found) {
    MemSet(shared_memory, 0, sizeof(Shared));
    LWLockPadded *locks = GetNamedLWLockTranche(tranche);
    shared_memory->lock = &locks[0].lock;
    shared_memory->share_lock = &locks[1].lock;
    shared_memory->incarnation = GetCurrentTimestamp();
  }
  init_share_table();
  LWLockRelease(AddinShmemInitLock);
}

}  // namespace

Shared *shared() { return shared_memory; }

void request_shared_memory() {
  compat::on_shmem_request(request);
  previous_startup = shmem_startup_hook;
  shmem_startup_hook = startup_hook;
}

DatabaseSlot *find_database(Oid database, bool make) {
  DatabaseSlot *free_slot = nullptr;
  for (DatabaseSlot &slot : shared_memory->databases) {
    if (slot.oid == database) return &slot;
    if (slot.oid == InvalidOid && free_slot == nullptr) free_slot = &slot;
  }
  if (!make || free_slot == nullptr) return nullptr;
  MemSet(free_slot, 0, sizeof(DatabaseSlot));
  free_slot->oid = database;
  return free_slot;
}

void wake_launcher() {
  if (shared_memory == nullptr) return;
  Guard lock(shared_memory->lock);
  if (shared_memory->launcher_latch != nullptr) SetLatch(shared_memory->launcher_latch);
}

namespace {

template <class Test>
void wake_where(Test &&test) {
  if (shared_memory == nullptr) return;
  Guard lock(shared_memory->lock);
  for (WorkerSlot &slot : shared_memory->workers)
    if (slot.is_used && slot.latch != nullptr && test(slot)) SetLatch(slot.latch);
}

}  // namespace

void wake_device_workers(Oid database) {
  wake_where([database](const WorkerSlot &slot) { return slot.kind == WorkerKind::Device && slot.database == database; });
}

void wake_workers_of_device(int device) {
  wake_where([device](const WorkerSlot &slot) { return slot.kind == WorkerKind::Device && slot.device == device; });
}

int trainer_threads() {
  if (worker_settings.trainer_threads > 0) return worker_settings.trainer_threads;
  Guard lock(shared()->lock);
  int cpu_devices = 0;
  for (int i = 0; i < shared()->device_count; ++i) cpu_devices += shared()->devices[i].is_cuda ? 0 : 1;
  return std::max(1, shared()->cpu_count / std::max(1, cpu_devices));
}

const char *name_of(WorkerKind kind) {
  switch (kind) {
    case WorkerKind::Launcher: return "launcher";
    case WorkerKind::Scheduler: return "scheduler";
    case WorkerKind::Device: return "device";
  }
  return "unknown";
}

const char *name_of(WorkerState state) {
  switch (state) {
    case WorkerState::Starting: return "starting";
    case WorkerState::Idle: return "idle";
    case WorkerState::Claiming: return "claiming";
    case WorkerState::Preparing: return "preparing";
    case WorkerState::StartingTrainer: return "starting_trainer";
    case WorkerState::Training: return "training";
    case WorkerState::Stopping: return "stopping";
    case WorkerState::Publishing: return "publishing";
    case WorkerState::Cleaning: return "cleaning";
  }
  return "unknown";
}

}  // namespace pgtrain::pg::worker
