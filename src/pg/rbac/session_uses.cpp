// Session uses, see session_uses.hpp. A small table in shared memory: a session lives in one of eight neighbouring slots, and the one
// that was used longest ago gives way. A session that loses its slot is as old as its row says.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "pg/call/guard.hpp"
#include "pg/call/spi.hpp"
#include "pg/rbac/session_uses.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct Use {
  int64_t session_id = 0;
  TimestampTz at = 0;
  Oid database = InvalidOid;
  bool is_written = true;
};

constexpr size_t slot_count = 8192, neighbours = 8;
constexpr const char *shared_name = "pgtrain session uses";

struct Shared {
  LWLock *lock;  // null in the private copy of a process that was not preloaded
  Use slots[slot_count];
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
  Locked(Shared &data, LWLockMode mode) : lock_(data.lock) {
    if (lock_ != nullptr) call::guarded([this, mode] { LWLockAcquire(lock_, mode); });
  }
  ~Locked() {
    if (lock_ != nullptr) LWLockRelease(lock_);
  }
  Locked(const Locked &) = delete;
  Locked &operator=(const Locked &) = delete;

 private:
  LWLock *lock_;
};

Use &slot_at(Shared &data, int64_t session_id, size_t i) { return data.slots[(static_cast<size_t>(session_id) + i) % slot_count]; }

bool is_of(const Use &use, int64_t session_id) { return use.session_id == session_id && use.database == MyDatabaseId; }

}  // namespace

void init_session_uses() {
  if (!process_shared_preload_libraries_in_progress) return;
  compat::on_shmem_request(request_memory);
  previous_startup = shmem_startup_hook;
  shmem_startup_hook = attach_memory;
}

void remember_session_use(int64_t session_id, int64_t at) {
  Shared &data = table();
  Locked locked(data, LW_EXCLUSIVE);
  Use *place = &slot_at(data, session_id, 0);
  for (size_t i = 0; i < neighbours && !is_of(*place, session_id); ++i) {
    Use &slot = slot_at(data, session_id, i);
    if (is_of(slot, session_id) || slot.at < place->at) place = &slot;
  }
  const int64_t before = is_of(*place, session_id) ? place->at : 0;
  *place = Use{session_id, std::max(before, at), MyDatabaseId, false};
}

int64_t remembered_session_use(int64_t session_id) {
  Shared &data = table();
  Locked locked(data, LW_SHARED);
  for (size_t i = 0; i < neighbours; ++i)
    if (const Use &slot = slot_at(data, session_id, i); is_of(slot, session_id)) return slot.at;
  return 0;
}

int64_t write_session_uses() {
  static const call::Statement write{
      "update pgtrain.sessions set last_accessed_at = $2 where id = "
      "(select s.id from pgtrain.sessions s where s.id = $1 and s.last_accessed_at < $2 for no key update skip locked)",
      {call::Type::Int8, call::Type::TimestampTz}};
  std::vector<std::pair<int64_t, int64_t>> uses;
  uses.reserve(slot_count);
  Shared &data = table();
  {
    Locked locked(data, LW_EXCLUSIVE);
    for (Use &slot : data.slots) {
      if (slot.is_written || slot.database != MyDatabaseId) continue;
      uses.emplace_back(slot.session_id, slot.at);
      slot.is_written = true;
    }
  }
  // In the order of ids, as others lock them.
  std::sort(uses.begin(), uses.end());
  call::Spi spi;
  for (const auto &[session_id, at] : uses) write.execute(spi, {session_id, at});
  return static_cast<int64_t>(uses.size());
}

}  // namespace pgtrain::pg::rbac
