// Where the server's root keys come from and how they reach every process. The postmaster reads them once while it preloads the
// module and its children inherit them; after a reload the launcher reads them again and passes them on through shared memory,
// sealed under a key that only the postmaster's children hold, so that no root key lies there in the clear. A backend of a server
// that did not preload the module, or of a standby, reads them itself when it first needs them and when the file has changed.
#pragma once

#include <string>

namespace pgtrain::pg::secrets {

// Defines the settings, and reads the keys when preloading. Called from _PG_init. Without usable keys the server starts all the
// same: what needs one is refused with the reason.
void init();

// Reads the keys again and passes them on. What cannot be used is reported to the log and leaves the former keys in force.
// Called by the launcher after a reload.
void reload_root_keys();

// The same when shared memory was made anew by a crash, because what was read since the server started is lost with it, and when the
// server was a standby until now, because none was read there. Called by the launcher when it starts.
void restore_root_keys();

// Why there is no root key, or why the last reload did not change them; empty when all is well.
std::string root_key_problem();

}  // namespace pgtrain::pg::secrets
