// Definition of the base settings, see guc.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "pgtime.h"
#include "utils/guc.h"
}

#include <climits>
#include <string_view>

#include "pg/guc.hpp"

namespace pgtrain::pg {

Settings settings;

namespace guc {
namespace {

void define_int(const char *name, const char *description, int *variable, int minimum, int maximum, GucContext context, int flags) {
  DefineCustomIntVariable(name, description, nullptr, variable, *variable, minimum, maximum, context, flags, nullptr,
                          nullptr, nullptr);
}

void define_text(const char *name, const char *description, char **variable, const char *start, GucStringCheckHook check,
                 GucStringAssignHook assign) {
  DefineCustomStringVariable(name, description, nullptr, variable, start, PGC_SUSET, GUC_LIST_INPUT, check, assign, nullptr);
}

constexpr CharacterKind kinds[] = {
    {"lower", "a small letter", [](char c) { return c >= 'a' && c <= 'z'; }},
    {"upper", "a capital letter", [](char c) { return c >= 'A' && c <= 'Z'; }},
    {"digit", "a digit", [](char c) { return c >= '0' && c <= '9'; }},
    {"other", "a character that is neither a letter from a to z nor a digit",
     [](char c) { return !((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')); }},
};
constexpr size_t kind_count = sizeof kinds / sizeof kinds[0];

struct RequiredKinds {
  size_t count;
  CharacterKind kinds[kind_count];
};
RequiredKinds required{};

std::string_view trimmed(std::string_view word) {
  while (!word.empty() && word.front() == ' ') word.remove_prefix(1);
  while (!word.empty() && word.back() == ' ') word.remove_suffix(1);
  return word;
}

// False for a word that is no kind. Allocates nothing, because the server may not be left while it assigns a setting.
bool read_kinds(std::string_view text, RequiredKinds &result) {
  bool named[kind_count] = {};
  while (!trimmed(text).empty()) {
    const size_t comma = text.find(',');
    const std::string_view word = trimmed(text.substr(0, comma));
    size_t i = 0;
    while (i < kind_count && kinds[i].name != word) ++i;
    if (i == kind_count) return false;
    named[i] = true;
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  result.count = 0;
  for (size_t i = 0; i < kind_count; ++i)
    if (named[i]) result.kinds[result.count++] = kinds[i];
  return true;
}

bool check_kinds(char **value, void **, GucSource) {
  RequiredKinds ignored{};
  if (read_kinds(*value, ignored)) return true;
  GUC_check_errdetail("It is a list of any of: lower, upper, digit, other.");
  return false;
}

void assign_kinds(const char *value, void *) { (void)read_kinds(value, required); }

// Server world.
bool check_time_zone(char **value, void **, GucSource) {
  if (pg_tzset(*value) != nullptr) return true;
  GUC_check_errdetail("The time zone \"%s\" is unknown; pg_timezone_names lists them.", *value);
  return false;
}

}  // namespace

std::span<const CharacterKind> required_character_kinds() { return {required.kinds, required.count}; }

void define() {
  Settings &s = settings;
  define_int("pgtrain.password_passes", "Passes of the Argon2id password hash.", &s.password_passes, 1, 64, PGC_SUSET, 0);
  define_int("pgtrain.password_memory", "Memory of one Argon2id password hash.", &s.password_memory_kb, 8, 4 * 1024 * 1024,
             PGC_SUSET, GUC_UNIT_KB);
  define_int("pgtrain.password_hashes_at_once", "Password hashes computed at the same time; further logins wait.",
             &s.password_hashes_at_once, 1, 1024, PGC_SIGHUP, 0);
  define_int("pgtrain.password_min_length", "Shortest password accepted for a new or changed password.", &s.password_min_length,
             8, 100, PGC_SUSET, 0);
  define_int("pgtrain.password_max_length", "Longest password accepted for a new or changed password.", &s.password_max_length,
             64, 4096, PGC_SUSET, 0);
  define_text("pgtrain.password_required_kinds", "Kinds of characters that a new or changed password must have.",
              &s.password_required_kinds, "", check_kinds, assign_kinds);
  define_text("pgtrain.email_domains", "Domains of e-mail addresses that may be registered; empty for all.", &s.email_domains, "",
              nullptr, nullptr);
  DefineCustomBoolVariable("pgtrain.invite_only", "Registration needs an invitation.", nullptr, &s.invite_only, s.invite_only,
                           PGC_SUSET, 0, nullptr, nullptr, nullptr);
  DefineCustomStringVariable("pgtrain.default_role", "Role of the platform that a registered user gets.", nullptr,
                             &s.default_role, "user", PGC_SUSET, 0, nullptr, nullptr, nullptr);
  DefineCustomStringVariable("pgtrain.default_plan", "Plan that a registered user gets.", nullptr, &s.default_plan, "free",
                             PGC_SUSET, 0, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("pgtrain.login_needs_verification", "Only users whose e-mail address was proven can log in.", nullptr,
                           &s.login_needs_verification, s.login_needs_verification, PGC_SUSET, 0, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("pgtrain.session_scope", "An identity may last for the whole connection.",
                           "Turn it off for roles whose connections a pooler hands on without DISCARD ALL.", &s.session_scope,
                           s.session_scope, PGC_SUSET, 0, nullptr, nullptr, nullptr);
  define_int("pgtrain.session_absolute_lifetime", "Time after which a session ends however often it was refreshed; 0 for never.",
             &s.session_absolute_lifetime_seconds, 0, INT_MAX / 2, PGC_SUSET, GUC_UNIT_S);
  define_int("pgtrain.session_idle_timeout", "Time without use after which a session ends; 0 for never.",
             &s.session_idle_timeout_seconds, 0, INT_MAX / 2, PGC_SUSET, GUC_UNIT_S);
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
  define_int("pgtrain.payment_grace", "Days that a subscription goes on after a payment that failed or did not come.", &s.payment_grace_days, 0, 366,
             PGC_SIGHUP, 0);
  DefineCustomStringVariable("pgtrain.limits_time_zone", "Time zone in which the days and months of usage limits begin.", nullptr,
                             &s.limits_time_zone, "UTC", PGC_SIGHUP, 0, check_time_zone, nullptr, nullptr);
  define_int("pgtrain.verification_lifetime", "Time in which a code sent to an e-mail address or telephone must be given back.",
             &s.verification_lifetime_seconds, 1, 7 * 24 * 60 * 60, PGC_SUSET, GUC_UNIT_S);
  define_int("pgtrain.verification_attempts", "Wrong codes after which a code is void.", &s.verification_attempts, 1, 100, PGC_SUSET, 0);
  define_int("pgtrain.reset_lifetime", "Time in which a password can be reset after the message was taken for delivery.",
             &s.reset_lifetime_seconds, 1, 7 * 24 * 60 * 60, PGC_SUSET, GUC_UNIT_S);
  define_int("pgtrain.message_lifetime", "Time after which a message that could not be delivered is given up.",
             &s.message_lifetime_seconds, 60, 30 * 24 * 60 * 60, PGC_SUSET, GUC_UNIT_S);
  define_int("pgtrain.message_attempts", "Failed deliveries after which a message is given up.", &s.message_attempts, 1, 1000, PGC_SUSET, 0);
  define_int("pgtrain.secrets_per_user", "Secrets that one user may store.", &s.secrets_per_user, -1, INT_MAX, PGC_SUSET, 0);
  DefineCustomStringVariable("pgtrain.totp_issuer", "Name under which authenticator programs show the account.", nullptr,
                             &s.totp_issuer, "pgtrain", PGC_SUSET, 0, nullptr, nullptr, nullptr);
}

void reserve_prefix() {
  MarkGUCPrefixReserved("pgtrain");
}

}  // namespace guc
}  // namespace pgtrain::pg
