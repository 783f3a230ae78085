// What slows guessing down: failures are counted per name (of an account) in shared memory, outside of any transaction, so that a
// rollback does not wipe them; and only so many password hashes run at once. Without preloading both hold within one process
// only, and the counters in pgtrain.users still count every committed failure. Called by functions/accounts.cpp.
#pragma once

#include <cstdint>
#include <string_view>

namespace pgtrain::pg::rbac {

// Asks for shared memory. Called from rbac::init; harmless without preloading.
void init_login_guard();

// The server time until which a name is locked, 0 when it is not.
int64_t locked_until(std::string_view name);

// Counts a failure of a name and locks it when there were too many.
void record_failure(std::string_view name);

// Counts an attempt under a name before it is known how it ends, so that any number at once get no more tries than one after the
// other. Returns 0, or the time until which the name is locked; then nothing is counted. An attempt whose predecessor is older
// than `memory_seconds` (0 for never) is the first one again.
int64_t try_attempt(std::string_view name, int64_t memory_seconds);

// Wipes the count of a name after a success.
void clear_failures(std::string_view name);

// Time for which a name is locked after so many failures in a row, in seconds; 0 for not at all.
int64_t lock_seconds(int failures);

// What became of the turns since the server started (in a process that was not preloaded: since it started).
struct HashLoad {
  int64_t computed;
  int running;
  int most_at_once;
};
HashLoad hash_load();

// The right to compute one hash; waits for it. Interrupts are honoured while waiting. Never throws while the right is held.
class HashTurn {
 public:
  HashTurn();
  ~HashTurn();
  HashTurn(const HashTurn &) = delete;
  HashTurn &operator=(const HashTurn &) = delete;
};

}  // namespace pgtrain::pg::rbac
