// Login guard, see login_guard.hpp. A small table of names in shared memory: a name lives in one of eight neighbouring slots; the
// one that was used longest ago gives way. Losing an entry costs an attacker thousands of slow hashes and the counters in the
// users table still stand.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
}

#include <algorithm>
#include <new>

#include "pg/call/guard.hpp"
#include "pg/crypto/token.hpp"
#include "pg/guc.hpp"
#include "pg/rbac/login_guard.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct Attempts {
  uint64_t name = 0;
  int failures = 0;
  TimestampTz locked_until = 0;
  TimestampTz last = 0;
};

constexpr size_t slot_count = 4096, neighbours = 8;
constexpr const char *shared_name = "pgtrain login guard";

struct Shared {
  LWLock *lock;  // null in the private copy of a process that was not preloaded
  ConditionVariable turn_free;
  HashLoad load;
  Attempts slots[slot_count];
};

Shared *shared = nullptr;
shmem_startup_hook_type previous_startup = nullptr;

void request_memory() {
  RequestAddinShmemSpace(MAXALIGN(sizeof(Shared)));
  RequestNamedLWLockTranche(shared_name, 1);
}

void attach_memory() {
  if (previous_startup != nullptr) previous_startup();
  bool found = false;
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  shared = static_cast<Shared *>(ShmemInitStruct(shared_name, sizeof(Shared), &found));
  if (!found) {
    new (shared) Shared{};
    shared->lock = &GetNamedLWLockTranche(shared_name)->lock;
    ConditionVariableInit(&shared->turn_free);
  }
  LWLockRelease(AddinShmemInitLock);
}

Shared &table() {
  if (shared == nullptr) {
    static Shared own;
    shared = &own;
  }
  return *shared;
}

// Held for a few memory accesses; nothing that can raise happens under it.
class Locked {
 public:
  explicit Locked(Shared &data) : lock_(data.lock) {
    if (lock_ != nullptr) call::guarded([this] { LWLockAcquire(lock_, LW_EXCLUSIVE); });
  }
  ~Locked() {
    if (lock_ != nullptr) LWLockRelease(lock_);
  }
  Locked(const Locked &) = delete;
  Locked &operator=(const Locked &) = delete;

 private:
  LWLock *lock_;
};

Attempts *find_slot(Shared &data, uint64_t name) {
  for (size_t i = 0; i < neighbours; ++i) {
    Attempts &slot = data.slots[(name + i) % slot_count];
    if (slot.name == name) return &slot;
  }
  return nullptr;
}

Attempts &slot_of(Shared &data, uint64_t name) {
  if (Attempts *found = find_slot(data, name)) return *found;
  Attempts *oldest = &data.slots[name % slot_count];
  for (size_t i = 1; i < neighbours; ++i) {
    Attempts &slot = data.slots[(name + i) % slot_count];
    if (slot.last < oldest->last) oldest = &slot;
  }
  *oldest = Attempts{name, 0, 0, 0};
  return *oldest;
}

// Databases of one cluster have different users.
uint64_t key_of(std::string_view name) {
  const uint64_t key = crypto::short_hash(name) ^ (static_cast<uint64_t>(MyDatabaseId) * 0x9E3779B97F4A7C15ull);
  return key == 0 ? 1 : key;
}

}  // namespace

void init_login_guard() {
  if (!process_shared_preload_libraries_in_progress) return;
  compat::on_shmem_request(request_memory);
  previous_startup = shmem_startup_hook;
  shmem_startup_hook = attach_memory;
}

int64_t lock_seconds(int failures) {
  const int beyond = failures - settings.login_failures_allowed;
  if (beyond < 0) return 0;
  const int64_t seconds = static_cast<int64_t>(settings.login_lock_seconds) << std::min(beyond, 30);
  return std::min<int64_t>(seconds, settings.login_lock_max_seconds);
}

int64_t locked_until(std::string_view name) {
  const uint64_t key = key_of(name);
  const TimestampTz now = GetCurrentTimestamp();
  Shared &data = table();
  Locked locked(data);
  const Attempts *slot = find_slot(data, key);
  return slot != nullptr && slot->locked_until > now ? slot->locked_until : 0;
}

void record_failure(std::string_view name) {
  const uint64_t key = key_of(name);
  const TimestampTz now = GetCurrentTimestamp();
  Shared &data = table();
  Locked locked(data);
  Attempts &slot = slot_of(data, key);
  slot.last = now;
  slot.failures = std::min(slot.failures + 1, 1000000);
  slot.locked_until = TimestampTzPlusMilliseconds(now, lock_seconds(slot.failures) * 1000);
}

int64_t try_attempt(std::string_view name, int64_t memory_seconds) {
  const uint64_t key = key_of(name);
  const TimestampTz now = GetCurrentTimestamp();
  Shared &data = table();
  Locked locked(data);
  Attempts &slot = slot_of(data, key);
  if (slot.locked_until > now) return slot.locked_until;
  if (memory_seconds > 0 && slot.last < now - memory_seconds * USECS_PER_SEC) slot.failures = 0;
  slot.last = now;
  slot.failures = std::min(slot.failures + 1, 1000000);
  slot.locked_until = TimestampTzPlusMilliseconds(now, lock_seconds(slot.failures) * 1000);
  return 0;
}

void clear_failures(std::string_view name) {
  const uint64_t key = key_of(name);
  Shared &data = table();
  Locked locked(data);
  if (Attempts *slot = find_slot(data, key)) *slot = Attempts{};
}

HashLoad hash_load() {
  Shared &data = table();
  Locked locked(data);
  return data.load;
}

HashTurn::HashTurn() {
  Shared &data = table();
  for (;;) {
    {
      Locked locked(data);
      // A process of its own computes one after the other.
      if (data.lock == nullptr || data.load.running < settings.password_hashes_at_once) {
        ++data.load.computed;
        data.load.most_at_once = std::max(data.load.most_at_once, ++data.load.running);
        break;
      }
    }
    // Not for ever: the one who is woken may be cancelled at that moment, and the wake-up goes with him.
    call::guarded([&data] { (void)ConditionVariableTimedSleep(&data.turn_free, 1000, PG_WAIT_EXTENSION); });
  }
  if (data.lock != nullptr) ConditionVariableCancelSleep();
}

HashTurn::~HashTurn() {
  Shared &data = table();
  {
    Locked locked(data);
    --data.load.running;
  }
  if (data.lock != nullptr) ConditionVariableSignal(&data.turn_free);
}

}  // namespace pgtrain::pg::rbac
