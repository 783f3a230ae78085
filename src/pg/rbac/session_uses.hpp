// When sessions were last used, in shared memory: a transaction that cannot write (read-only, on a standby, with an old snapshot, rolled
// back) uses its session all the same. The scheduler writes down what only memory knows. Without preloading it is known within one
// process only. Called by account_notes.cpp and credentials.cpp.
#pragma once

#include <cstdint>

namespace pgtrain::pg::rbac {

// Asks for shared memory. Called from rbac::init; harmless without preloading.
void init_session_uses();

// A session was used at a server time.
void remember_session_use(int64_t session_id, int64_t at);

// When it was last used as far as memory knows, 0 for unknown.
int64_t remembered_session_use(int64_t session_id);

// Writes what was remembered since the last time to pgtrain.sessions; returns how many sessions it was. May throw ServerError.
int64_t write_session_uses();

}  // namespace pgtrain::pg::rbac
