// What the workers share over the whole cluster, in shared memory: who they are, which devices there are and who holds each,
// which databases have the extension. Exists only when the module was preloaded; `shared()` is null otherwise.
// One lightweight lock guards it, held for copies only. A crash of any server process makes it anew (see `incarnation`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>

#include "pg/compat.hpp"

extern "C" {
#include "datatype/timestamp.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
}

namespace pgtrain::pg::worker {

inline constexpr int max_databases = 512;
inline constexpr int max_devices = 32;
inline constexpr int max_workers = 512;
inline constexpr int max_shares = 8192;

enum class WorkerKind : uint8_t { Launcher, Scheduler, Device };

// What a worker is doing; one function per transition in device_worker.cpp and attempt.cpp.
enum class WorkerState : uint8_t { Starting, Idle, Claiming, Preparing, StartingTrainer, Training, Stopping, Publishing, Cleaning };

struct WorkerSlot {
  bool is_used;          // taken by the launcher for a worker that it starts or has started
  WorkerKind kind;
  Oid database;
  int device;            // index into devices
  pid_t pid;             // 0 until it runs
  Latch *latch;
  WorkerState state;
  int64_t run_id;
  bool must_stop;        // leave in good order: checkpoint, then exit
  bool must_abandon;     // leave at once: the database or the extension is being dropped
  TimestampTz started_at;
};

enum class DatabaseState : uint8_t { Unknown, Present, Absent };

struct DatabaseSlot {
  Oid oid;               // InvalidOid: free
  DatabaseState state;
  int suspended;         // sessions that are dropping or renaming it; no worker is started while above 0
  bool shares_ready;     // queue.cpp has read this database's queue into the shares
  double virtual_time;   // of the fair order
  uint64_t arrivals;
  TimestampTz retry_at;  // a failed start is tried again then
  bool lacks_room;       // its last start found no free background worker
};

struct DeviceSlot {
  bool is_cuda;
  char instance_id[128];
  char selector[32];
  char name[128];
  char detail[256];
  int64_t memory_bytes;
  pid_t holder;          // device worker that has a run on it now, 0 for none
  Oid last_database;     // who had it last: others that wait go first
  int waiting;
};

struct Shared {
  LWLock *lock;
  LWLock *share_lock;    // guards the share table and the shares_ready, virtual_time, arrivals of databases
  int64_t incarnation;   // differs in each life of the shared memory
  pid_t launcher_pid;
  Latch *launcher_latch;
  char note[512];        // why workers are missing, in words; empty when all is well
  char device_note[512]; // what was found, and why not more
  bool devices_known;
  int device_count;
  int cpu_count;
  int64_t memory_bytes;
  uint64_t generation;   // raised whenever a run leaves running, for wait_for_run
  DeviceSlot devices[max_devices];
  DatabaseSlot databases[max_databases];
  WorkerSlot workers[max_workers];
  pid_t told_to_leave[max_workers];  // the last ones that had to leave without ending their lease
  uint32_t told_count;
};

Shared *shared();

// Asks the server for the memory and the locks; called from _PG_init while preloading.
void request_shared_memory();

class Guard {  // holds a lightweight lock for a scope
 public:
  explicit Guard(LWLock *lock) : lock_(lock) { LWLockAcquire(lock_, LW_EXCLUSIVE); }
  ~Guard() { LWLockRelease(lock_); }
  Guard(const Guard &) = delete;
  Guard &operator=(const Guard &) = delete;

 private:
  LWLock *lock_;
};

// The slot of a database, or null. With `make`, takes a free one; null then means that all are taken. Lock held.
DatabaseSlot *find_database(Oid database, bool make);

// Wakes the launcher; wakes the device workers of a database. They take the lock themselves.
void wake_launcher();
void wake_device_workers(Oid database);
void wake_workers_of_device(int device);

// Threads that a trainer on the CPU is given. Takes the lock itself; only where shared() is.
int trainer_threads();

const char *name_of(WorkerKind kind);
const char *name_of(WorkerState state);

}  // namespace pgtrain::pg::worker
