// Root keys of the server, see root_keys.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "access/xlog.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"
}

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <utility>

#include "pg/crypto/key_ring.hpp"
#include "pg/crypto/key_source.hpp"
#include "pg/crypto/seal.hpp"
#include "pg/errors.hpp"
#include "pg/secrets/root_keys.hpp"

namespace pgtrain::pg::secrets {
namespace {

constexpr char shared_name[] = "pgtrain root keys";
constexpr char passing_identity[] = "shared memory";
constexpr int command_limit_ms = 30000;
constexpr size_t lines_max = crypto::keys_max * (2 * crypto::root_key_bytes + 1) + 16;

char *key_file = nullptr;
char *key_command = nullptr;

struct Shared {
  LWLock *lock;
  pg_atomic_uint64 generation;  // 0: nothing was read since this memory was made
  uint32_t sealed_bytes;
  char sealed[lines_max + crypto::sealed_overhead];
  char problem[1024];
};

Shared *shared = nullptr;
shmem_startup_hook_type previous_startup = nullptr;

// What a process knows; a fork takes it along.
struct Known {
  crypto::KeyRing ring;
  std::string problem;
  uint64_t generation = 0;
  pid_t locked_by = 0;
  crypto::KeyRing passing;  // one key, made by the postmaster
  int memory_was_made = 0;  // how often shared memory was, in the life of the postmaster
  bool began_in_recovery = false;
  bool is_read = false;
  struct stat file = {};    // as it was read
};
Known known;

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
    MemSet(shared, 0, sizeof(Shared));
    shared->lock = &GetNamedLWLockTranche(shared_name)->lock;
    pg_atomic_init_u64(&shared->generation, 0);
    ++known.memory_was_made;
  }
  LWLockRelease(AddinShmemInitLock);
}

bool is_set(const char *setting) { return setting != nullptr && *setting != '\0'; }

crypto::KeyRing read_keys() {
  if (is_set(key_file) && is_set(key_command))
    throw Error(code::InvalidParameter, "root keys have two sources", "pgtrain.root_key_file and pgtrain.root_key_command are both set.", "Set one.");
  if (is_set(key_file)) return crypto::KeyRing(crypto::read_key_file(key_file).view(), std::string("\"") + key_file + "\"");
  if (is_set(key_command)) return crypto::KeyRing(crypto::read_key_command(key_command, command_limit_ms).view(), "pgtrain.root_key_command");
  return {};
}

std::string text_of(const Error &error) { return error.message() + ": " + error.detail() + (error.hint().empty() ? "" : " " + error.hint()); }

// Takes new keys over, or keeps those there are and remembers why. The former are wiped.
void read_again() {
  known.is_read = true;
  known.problem.clear();
  try {
    crypto::KeyRing fresh = read_keys();
    known.ring = std::move(fresh);
  } catch (const Error &error) {
    known.problem = text_of(error);
  }
  known.locked_by = 0;
}

void pass_on() {
  std::string sealed;
  if (!known.ring.empty()) sealed = crypto::seal(known.passing, known.ring.to_lines().view(), passing_identity);
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  shared->sealed_bytes = static_cast<uint32_t>(sealed.size());
  std::memcpy(shared->sealed, sealed.data(), sealed.size());
  strlcpy(shared->problem, known.problem.c_str(), sizeof shared->problem);
  known.generation = pg_atomic_add_fetch_u64(&shared->generation, 1);
  LWLockRelease(shared->lock);
}

void take_over() {
  if (pg_atomic_read_u64(&shared->generation) == known.generation) return;
  std::string sealed;
  char problem[sizeof shared->problem];
  LWLockAcquire(shared->lock, LW_SHARED);
  const uint64_t generation = pg_atomic_read_u64(&shared->generation);
  // The lock is not let go by an exception, so nothing may throw while it is held.
  char copy[sizeof shared->sealed];
  const size_t bytes = shared->sealed_bytes;
  std::memcpy(copy, shared->sealed, bytes);
  std::memcpy(problem, shared->problem, sizeof problem);
  LWLockRelease(shared->lock);
  crypto::KeyRing fresh;
  if (bytes > 0) fresh = crypto::KeyRing(crypto::open(known.passing, {copy, bytes}, passing_identity).view(), "shared memory");
  known.ring = std::move(fresh);
  known.problem = problem;
  known.generation = generation;
  known.locked_by = 0;
}

// Without preloading, and on a standby, where there is no launcher: at the first use, and when the file is another one.
void read_when_changed() {
  struct stat now = {};
  if (is_set(key_file) && stat(key_file, &now) != 0) now = known.file;
  const bool is_same = known.file.st_ino == now.st_ino && known.file.st_dev == now.st_dev && known.file.st_size == now.st_size &&
                       known.file.st_mtim.tv_sec == now.st_mtim.tv_sec && known.file.st_mtim.tv_nsec == now.st_mtim.tv_nsec;
  if (known.is_read && is_same) return;
  known.file = now;
  read_again();
}

void bring_up_to_date() {
  if (shared == nullptr || RecoveryInProgress())
    read_when_changed();
  else
    take_over();
  if (known.locked_by != getpid()) {
    known.locked_by = getpid();
    (void)known.ring.lock();
  }
}

const crypto::KeyRing &server_keys() {
  bring_up_to_date();
  if (known.ring.empty())
    throw crypto::no_root_key(known.problem.empty() ? "Neither pgtrain.root_key_file nor pgtrain.root_key_command is set." : known.problem);
  return known.ring;
}

void report_problem() {
  if (known.problem.empty()) return;
  const char *problem = known.problem.c_str();
  ereport(WARNING, (errmsg("pgtrain: %s", problem)));
}

bool check_path(char **value, void **, GucSource) {
  if (**value == '\0' || **value == '/') return true;
  GUC_check_errdetail("The file is named by its absolute path.");
  return false;
}

void define_settings() {
  // A setting that only a start of the server can change cannot be defined later; then a backend is all that reads it.
  const GucContext context = process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP;
  DefineCustomStringVariable("pgtrain.root_key_file", "File of the root keys that seal secrets, one a line.", nullptr, &key_file, "", context,
                             GUC_SUPERUSER_ONLY, check_path, nullptr, nullptr);
  DefineCustomStringVariable("pgtrain.root_key_command", "Command that prints the root keys.", nullptr, &key_command, "", context,
                             GUC_SUPERUSER_ONLY, nullptr, nullptr, nullptr);
}

}  // namespace

void init() {
  define_settings();
  crypto::set_key_ring_source(server_keys);
  if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade) return;
  known.passing = crypto::KeyRing::random();
  // Relative to the data folder, where a postmaster works.
  known.began_in_recovery = access(STANDBY_SIGNAL_FILE, F_OK) == 0 || access(RECOVERY_SIGNAL_FILE, F_OK) == 0;
  read_again();
  report_problem();
  compat::on_shmem_request(request_memory);
  previous_startup = shmem_startup_hook;
  shmem_startup_hook = attach_memory;
}

void reload_root_keys() {
  read_again();
  pass_on();
  report_problem();
}

void restore_root_keys() {
  const bool may_be_old = known.memory_was_made > 1 || known.began_in_recovery;
  if (may_be_old && pg_atomic_read_u64(&shared->generation) == 0) reload_root_keys();
}

std::string root_key_problem() {
  bring_up_to_date();
  return known.problem;
}

}  // namespace pgtrain::pg::secrets
