// The settings of the module that are not the workers' (those are defined in worker/). Values are read straight from the
// struct; the server keeps it current. docs/settings.md gives each with meaning, default and who may set it.
#pragma once

#include <span>
#include <string_view>

namespace pgtrain::pg {

struct Settings {
  int password_passes = 2;             // Argon2id passes
  int password_memory_kb = 64 * 1024;  // Argon2id memory of one hash
  int password_hashes_at_once = 2;     // over the whole cluster when preloaded, else per process
  int password_min_length = 12;
  int password_max_length = 1024;
  char *password_required_kinds = nullptr;  // read with guc::required_character_kinds
  char *email_domains = nullptr;
  bool invite_only = false;
  char *default_role = nullptr;
  char *default_plan = nullptr;
  bool login_needs_verification = false;
  bool session_scope = true;  // whether an identity may last for the whole connection
  int session_lifetime_seconds = 8 * 60 * 60;
  int refresh_lifetime_seconds = 30 * 24 * 60 * 60;
  int session_absolute_lifetime_seconds = 90 * 24 * 60 * 60;  // 0: none
  int session_idle_timeout_seconds = 0;                       // 0: none
  int login_failures_allowed = 5;      // failures before the first lock
  int login_lock_seconds = 30;         // first lock; doubles with each further failure
  int login_lock_max_seconds = 60 * 60;
  char *limits_time_zone = nullptr;    // where days and months of limits begin; never null once defined
  int payment_grace_days = 7;          // after a payment that failed
  int verification_lifetime_seconds = 600;   // codes for e-mail addresses and telephones
  int verification_attempts = 5;             // wrong codes until one is void
  int reset_lifetime_seconds = 3600;         // tokens of password resets
  int message_lifetime_seconds = 86400;      // messages to be delivered
  int message_attempts = 8;
  char *totp_issuer = nullptr;               // name shown by authenticator programs
  int secrets_per_user = 1000;
};

// Written by the server through guc::define, read by everyone else.
extern Settings settings;

namespace guc {
// Defines the settings above. Called once from _PG_init, in the server's world.
void define();
// A kind of characters that passwords may have to have.
struct CharacterKind {
  std::string_view name;
  const char *words;
  bool (*contains)(char);
};
// Those that pgtrain.password_required_kinds names.
std::span<const CharacterKind> required_character_kinds();
// Refuses unknown settings with our prefix from then on. Called last in _PG_init, after the workers defined theirs.
void reserve_prefix();
}  // namespace guc

}  // namespace pgtrain::pg
