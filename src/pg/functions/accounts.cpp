// SQL doors to passwords, tokens and sessions. The statements around them are SQL (sql/api/accounts.sql); here is what must not
// be SQL: hashing, random tokens, and the change of the identity that this process holds.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

#include <string>
#include <string_view>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/crypto/password.hpp"
#include "pg/crypto/token.hpp"
#include "pg/errors.hpp"
#include "pg/guc.hpp"
#include "pg/rbac/account_notes.hpp"
#include "pg/rbac/hidden_statement.hpp"
#include "pg/rbac/login_guard.hpp"
#include "pg/rbac/rbac.hpp"

namespace rbac = pgtrain::pg::rbac;
namespace call = pgtrain::pg::call;
namespace crypto = pgtrain::pg::crypto;
namespace code = pgtrain::pg::code;
using pgtrain::pg::Error;
using pgtrain::pg::boundary::text_argument;
using pgtrain::pg::settings;

namespace {

Datum text_result(std::string_view value) {
  return call::guarded([&] { return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size()))); });
}

crypto::PasswordCost cost() {
  return {static_cast<unsigned long long>(settings.password_passes), static_cast<size_t>(settings.password_memory_kb) * 1024};
}

// The caller's clock for locks and messages.
std::string time_text(TimestampTz time) {
  const char *text = call::guarded([time] { return static_cast<const char *>(timestamptz_to_str(time)); });
  return text;
}

void refuse_when_locked(std::string_view name) {
  const int64 until = rbac::locked_until(name);
  if (until != 0)
    throw Error(code::AccountLocked, "too many failed logins", "Logins are refused until " + time_text(until) + ".",
                "Wait, or reset the password.");
}

}  // namespace

// hash_password(password) returns the string to store.
PGTRAIN_FUNCTION(pgtrain_hash_password) {
  const std::string_view password = text_argument(fcinfo, 0);
  const auto length = static_cast<size_t>(settings.password_min_length);
  if (password.size() < length || password.size() > 1024)
    throw Error(code::InvalidParameter, "the password has an unacceptable length", "",
                "Use " + std::to_string(length) + " to 1024 bytes.");
  std::string stored;
  {
    rbac::HashTurn turn;
    stored = crypto::hash_password(password, cost());
  }
  return text_result(stored);
}

// verify_password(hash, password): a null hash costs as much as a wrong password.
PGTRAIN_FUNCTION(pgtrain_verify_password) {
  const std::string_view password = PG_ARGISNULL(1) ? std::string_view() : text_argument(fcinfo, 1);
  const std::string stored = PG_ARGISNULL(0) ? std::string() : std::string(text_argument(fcinfo, 0));
  bool matches = false;
  {
    rbac::HashTurn turn;
    matches = stored.empty() ? crypto::verify_nothing(password, cost()) : crypto::verify_password(stored, password);
  }
  PG_RETURN_BOOL(matches);
}

PGTRAIN_FUNCTION(pgtrain_password_needs_rehash) {
  PG_RETURN_BOOL(crypto::needs_rehash(std::string(text_argument(fcinfo, 0)), cost()));
}

PGTRAIN_FUNCTION(pgtrain_new_token) { return text_result(crypto::new_token()); }

PGTRAIN_FUNCTION(pgtrain_token_hash) {
  const std::string hash = crypto::hash_token(text_argument(fcinfo, 0));
  return text_result(hash);  // bytea and text share their layout
}

// check_login(name): refuses a locked name before anything is looked up.
PGTRAIN_FUNCTION(pgtrain_check_login) {
  refuse_when_locked(text_argument(fcinfo, 0));
  PG_RETURN_VOID();
}

// verify_login(name, hash, password): the lock is looked at again and the failure counted while the turn to hash is held, so that
// any number of guesses at once get no more tries than one after the other (but for the hashes that run at the same time).
PGTRAIN_FUNCTION(pgtrain_verify_login) {
  const std::string name(text_argument(fcinfo, 0));
  const std::string stored = PG_ARGISNULL(1) ? std::string() : std::string(text_argument(fcinfo, 1));
  const std::string_view password = text_argument(fcinfo, 2);
  rbac::HashTurn turn;
  refuse_when_locked(name);
  const bool matches = stored.empty() ? crypto::verify_nothing(password, cost()) : crypto::verify_password(stored, password);
  if (matches)
    rbac::clear_failures(name);
  else
    rbac::record_failure(name);
  PG_RETURN_BOOL(matches);
}

// note_login(user_id, has_succeeded): an unknown name has no user.
PGTRAIN_FUNCTION(pgtrain_note_login) {
  if (!PG_ARGISNULL(0) && !PG_ARGISNULL(1)) rbac::note_login(PG_GETARG_INT64(0), PG_GETARG_BOOL(1));
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_hide_statement) {
  rbac::hide_statement();
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_login_lock_seconds) { PG_RETURN_INT64(rbac::lock_seconds(PG_GETARG_INT32(0))); }

PGTRAIN_FUNCTION(pgtrain_session_lifetime) { PG_RETURN_INT32(settings.session_lifetime_seconds); }
PGTRAIN_FUNCTION(pgtrain_refresh_lifetime) { PG_RETURN_INT32(settings.refresh_lifetime_seconds); }

// authenticate(token, session) returns the user. A refused token also ends whatever identity was in force: a client that
// ignores the error must not go on as somebody else.
PGTRAIN_FUNCTION(pgtrain_authenticate) {
  static const call::Statement find{
      "select s.id, s.user_id, s.expires_at, s.is_active and u.is_active, "
      "s.last_accessed_at < pg_catalog.now() - interval '1 minute' "
      "from pgtrain.sessions s join pgtrain.users u on u.id = s.user_id where s.token_hash = $1",
      {call::Type::Bytea},
      call::Access::ReadOnly};
  rbac::hide_statement();
  const std::string hash = PG_ARGISNULL(0) ? std::string() : crypto::hash_token(text_argument(fcinfo, 0));
  const bool for_session = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
  rbac::Identity identity;
  const char *refusal = nullptr;
  // Read before the row: a revocation that commits in between makes the identity be checked again.
  identity.checked_generation = rbac::generation();
  try {
    rbac::as_owner([&] {
      call::Spi spi;
      const call::Rows rows = find.execute(spi, {hash});
      if (rows.empty()) {
        refusal = "It is not known.";
      } else if (!rows[0].boolean(3)) {
        refusal = "The session was ended or the account is not active.";
      } else if (rows[0].int64(2) <= rbac::current_time()) {
        refusal = "The session has expired.";
      } else {
        identity.session_id = rows[0].int64(0);
        identity.user_id = rows[0].int64(1);
        identity.expires_at = rows[0].int64(2);
        // Not every use: a write a minute tells enough.
        if (rows[0].boolean(4)) rbac::note_session_used(identity.session_id);
      }
    });
  } catch (...) {
    // Cancelled or failed: for a client that ignores the error this is no other than a refusal.
    rbac::forget_for_good();
    throw;
  }
  if (refusal != nullptr) {
    rbac::forget_for_good();
    throw Error(code::NotAuthenticated, "the session token is not valid", refusal, "Log in again with pgtrain.login.");
  }
  rbac::establish(identity, for_session ? rbac::Scope::Session : rbac::Scope::Transaction);
  PG_RETURN_INT64(identity.user_id);
}

// logout(): ends the session in force on the server and forgets it here. Returns whether there was one.
PGTRAIN_FUNCTION(pgtrain_logout) {
  static const call::Statement end{"update pgtrain.sessions set is_active = false where id = $1", {call::Type::Int8}};
  const int64_t session = rbac::current_session_id();
  try {
    if (session != 0) {
      rbac::as_owner([&] {
        call::guarded([] { PreventCommandIfReadOnly("logout"); });
        call::Spi spi;
        end.execute(spi, {session});
      });
    }
  } catch (...) {
    // The token goes on being valid elsewhere, which the error says; here nobody is left.
    rbac::forget_for_good();
    throw;
  }
  rbac::forget();
  PG_RETURN_BOOL(session != 0);
}
