// See worker.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
}

#include <csignal>
#include <ctime>

#include "pg/call/guard.hpp"
#include "pg/worker/databases.hpp"
#include "pg/worker/devices.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/worker.hpp"

namespace pgtrain::pg::worker {
namespace {

WorkerSlot *slot_of_process = nullptr;
volatile sig_atomic_t is_terminated = false;
volatile int64_t terminated_at_ms = 0;

// The postmaster signals the process and then its group, so one termination may arrive twice.
constexpr int64_t same_termination_ms = 500;

int64_t clock_ms() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000} + now.tv_nsec / 1000000;
}

// The first SIGTERM asks to leave in good order. A later one, or the first when the database is being dropped, ends the
// process at the next point that allows it, also within a wait for a lock.
void on_terminate(SIGNAL_ARGS) {
  const int saved = errno;
  const bool must_abandon = slot_of_process != nullptr && slot_of_process->must_abandon;
  const bool is_another = is_terminated && clock_ms() - terminated_at_ms > same_termination_ms;
  if (!is_terminated) terminated_at_ms = clock_ms();
  is_terminated = true;
  if (is_another || must_abandon) {
    die(postgres_signal_arg);
  } else {
    SetLatch(MyLatch);
  }
  errno = saved;
}

void give_slot_back(int, Datum) {
  if (slot_of_process == nullptr) return;
  if (slot_of_process->kind == WorkerKind::Device) {
    if (is_terminated) note_told_to_leave(MyProcPid);
    release_device(slot_of_process->device);
  }
  {
    Guard lock(shared()->lock);
    MemSet(slot_of_process, 0, sizeof(WorkerSlot));
  }
  slot_of_process = nullptr;
  wake_launcher();
}

constexpr uint64_t slots_in_argument = 1024;

uint64_t life_of(const WorkerSlot &slot) { return static_cast<uint64_t>(slot.started_at) & ((uint64_t{1} << 48) - 1); }

}  // namespace

Datum slot_argument(int slot) {
  return UInt64GetDatum(life_of(shared()->workers[slot]) * slots_in_argument + static_cast<uint64_t>(slot));
}

WorkerSlot *take_slot(Datum argument) {
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  pqsignal(SIGTERM, on_terminate);
  // pg_cancel_backend is for statements of users; a worker's own would only look like a failure of its run.
  pqsignal(SIGINT, SIG_IGN);
  const uint64_t value = DatumGetUInt64(argument);
  bool is_mine = false;
  {
    Guard lock(shared()->lock);
    WorkerSlot &slot = shared()->workers[value % slots_in_argument];
    is_mine = slot.is_used && slot.pid == 0 && life_of(slot) == value / slots_in_argument;
    if (is_mine) {
      slot.pid = MyProcPid;
      slot.latch = MyLatch;
      slot_of_process = &slot;
    }
  }
  if (!is_mine) proc_exit(exit_finished);
  before_shmem_exit(give_slot_back, 0);
  BackgroundWorkerUnblockSignals();
  return slot_of_process;
}

WorkerSlot *my_slot() { return slot_of_process; }

void set_state(WorkerState state, int64_t run_id) {
  if (slot_of_process == nullptr) return;
  Guard lock(shared()->lock);
  slot_of_process->state = state;
  slot_of_process->run_id = run_id;
}

bool must_stop() { return is_terminated || (slot_of_process != nullptr && slot_of_process->must_stop); }

bool reload_settings_if_asked() {
  if (!ConfigReloadPending) return false;
  ConfigReloadPending = false;
  call::guarded([] { ProcessConfigFile(PGC_SIGHUP); });
  return true;
}

void wait_for_work(long timeout_ms) {
  call::guarded([timeout_ms] {
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  });
}

}  // namespace pgtrain::pg::worker
