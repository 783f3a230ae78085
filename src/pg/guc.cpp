// Definition of the base settings, see guc.hpp.
#include "pg/compat.hpp"

#include <climits>

#include "pg/guc.hpp"

namespace pgtrain::pg {

Settings settings;

namespace guc {
namespace {

void define_int(const char *name, const char *description, int *variable, int minimum, int maximum, GucContext context, int flags) {
  DefineCustomIntVariable(name, description, nullptr, variable, *variable, minimum, maximum, context, flags, nullptr,
                          nullptr, nullptr);
}

}  // namespace

void define() {
  Settings &s = settings;
  define_int("pgtrain.password_passes", "Passes of the Argon2id password hash.", &s.password_passes, 1, 64, PGC_SUSET, 0);
  define_int("pgtrain.password_memory", "Memory of one Argon2id password hash.", &s.password_memory_kb, 8, 4 * 1024 * 1024,
             PGC_SUSET, GUC_UNIT_KB);
  define_int("pgtrain.password_hashes_at_once", "Password hashes computed at the same time; further logins wait.",
             &s.password_hashes_at_once, 1, 1024, PGC_SIGHUP, 0);
  define_int("pgtrain.password_min_length", "Shortest password accepted for a new or changed password.", &s.password_min_length,
             8, 100, PGC_SUSET, 0);
  define_int("pgtrain.session_lifetime", "Time after which a session token ends unless refreshed.", &s.session_lifetime_seconds,
             1, INT_MAX / 2, PGC_SUSET, GUC_UNIT_S);
  define_int("pgtrain.refresh_lifetime", "Time after which a refresh token ends.", &s.refresh_lifetime_seconds, 1, INT_MAX / 2,
             PGC_SUSET, GUC_UNIT_S);
  define_int("pgtrain.login_failures_allowed", "Failed logins in a row before an account is locked for a while.",
             &s.login_failures_allowed, 1, 1000, PGC_SUSET, 0);
  define_int("pgtrain.login_lock", "Length of the first lock after failed logins; it doubles with each further failure.",
             &s.login_lock_seconds, 1, 24 * 60 * 60, PGC_SUSET, GUC_UNIT_S);
  define_int("pgtrain.login_lock_max", "Longest lock after failed logins.", &s.login_lock_max_seconds, 1, 7 * 24 * 60 * 60,
             PGC_SUSET, GUC_UNIT_S);
}

void reserve_prefix() {
  MarkGUCPrefixReserved("pgtrain");
}

}  // namespace guc
}  // namespace pgtrain::pg
