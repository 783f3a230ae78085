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

#include "pg/call/guard.hpp"
#include "pg/crypto/token.hpp"
#include "pg/guc.hpp"
#include "pg/rbac/login_guard.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct Attempts {
  uint64_t name;
  int failures;
  TimestampTz locked_until;
  TimestampTz last;
};

constexpr size_t slot_count = 4096, neighbours = 8;
constexpr const char *shared_name = "pgtrain login guard";

struct Shared {
  LWLock *lock;  // null in the private copy of a process that was not preloaded
  ConditionVariable turn_free;
  int hashing;
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
    memset(shared, 0, sizeof(Shared));
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

Attempts &slot_of(Shared &data, uint64_t name) {
  const size_t first = name % slot_count;
  Attempts *oldest = nullptr;
  for (size_t i = 0; i < neighbours; ++i) {
    Attempts &slot = data.slots[(first + i) % slot_count];
    if (slot.name == name) return slot;
    if (oldest == nullptr || slot.last < oldest->last) oldest = &slot;
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

int64_t begin_attempt(std::string_view name) {
  const uint64_t key = key_of(name);
  const TimestampTz now = GetCurrentTimestamp();
  Shared &data = table();
  Locked locked(data);
  Attempts &slot = slot_of(data, key);
  if (slot.locked_until > now) return slot.locked_until;
  slot.last = now;
  slot.failures = std::min(slot.failures + 1, 1000000);
  slot.locked_until = TimestampTzPlusMilliseconds(now, lock_seconds(slot.failures) * 1000);
  return 0;
}

void clear_attempts(std::string_view name) {
  const uint64_t key = key_of(name);
  Shared &data = table();
  Locked locked(data);
  slot_of(data, key) = Attempts{key, 0, 0, 0};
}

HashTurn::HashTurn() {
  Shared &data = table();
  if (data.lock == nullptr) return;
  for (;;) {
    {
      Locked locked(data);
      if (data.hashing < settings.password_hashes_at_once) {
        ++data.hashing;
        break;
      }
    }
    call::guarded([&data] { ConditionVariableSleep(&data.turn_free, PG_WAIT_EXTENSION); });
  }
  ConditionVariableCancelSleep();
}

HashTurn::~HashTurn() {
  Shared &data = table();
  if (data.lock == nullptr) return;
  {
    Locked locked(data);
    --data.hashing;
  }
  ConditionVariableSignal(&data.turn_free);
}

}  // namespace pgtrain::pg::rbac
