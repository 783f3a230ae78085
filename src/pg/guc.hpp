// The settings of the module that are not the workers' (those are defined in worker/). Values are read straight from the
// struct; the server keeps it current. docs/settings.md gives each with meaning, default and who may set it.
#pragma once

namespace pgtrain::pg {

struct Settings {
  int password_passes = 2;             // Argon2id passes
  int password_memory_kb = 64 * 1024;  // Argon2id memory of one hash
  int password_hashes_at_once = 2;     // over the whole cluster when preloaded, else per process
  int password_min_length = 12;
  int session_lifetime_seconds = 8 * 60 * 60;
  int refresh_lifetime_seconds = 30 * 24 * 60 * 60;
  int login_failures_allowed = 5;      // failures before the first lock
  int login_lock_seconds = 30;         // first lock; doubles with each further failure
  int login_lock_max_seconds = 60 * 60;
};

// Written by the server through guc::define, read by everyone else.
extern Settings settings;

namespace guc {
// Defines the settings above. Called once from _PG_init, in the server's world.
void define();
// Refuses unknown settings with our prefix from then on. Called last in _PG_init, after the workers defined theirs.
void reserve_prefix();
}  // namespace guc

}  // namespace pgtrain::pg
