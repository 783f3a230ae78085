// What every worker process does first and last: take its slot in shared memory, handle signals, give the slot back.
#pragma once

#include <cstdint>

#include "pg/compat.hpp"

#include "pg/worker/shared.hpp"

namespace pgtrain::pg::worker {

// Exit codes of workers. The postmaster forgets a worker that exits with 0 and, because all but the launcher are
// registered without restart, also one that exits with 1; the launcher starts what is missing. Anything else would
// reset every session of the cluster.
inline constexpr int exit_finished = 0;
inline constexpr int exit_failed = 1;

// Argument of a dynamic worker: which slot, and which of the slot's many lives.
Datum slot_argument(int slot);

// Takes the slot for this process, registers its release at exit, installs signal handlers and unblocks signals.
// Exits when the slot was given to somebody else meanwhile.
WorkerSlot *take_slot(Datum argument);

WorkerSlot *my_slot();
void set_state(WorkerState state, int64_t run_id);

// True when this worker was asked to leave: by SIGTERM or through its slot.
bool must_stop();

// Reads the configuration again after SIGHUP; true when that happened.
bool reload_settings_if_asked();

// Waits for the latch at most so long, then handles interrupts.
void wait_for_work(long timeout_ms);

}  // namespace pgtrain::pg::worker
