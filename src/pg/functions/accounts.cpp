// SQL doors to passwords, tokens, keys and sessions. The statements around them are SQL (sql/api/accounts.sql); here is what must not
// be SQL: hashing, random tokens, and the change of the identity that this process holds.
#include "pg/compat.hpp"

extern "C" {
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

#include <algorithm>
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
#include "pg/rbac/credentials.hpp"
#include "pg/rbac/hidden_statement.hpp"
#include "pg/rbac/login_guard.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/rbac/session_uses.hpp"

namespace rbac = pgtrain::pg::rbac;
namespace call = pgtrain::pg::call;
namespace crypto = pgtrain::pg::crypto;
namespace code = pgtrain::pg::code;
namespace guc = pgtrain::pg::guc;
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

// Failures are counted by account, not by what was typed: name and address of an account share their tries.
std::string guard_name(int64_t user_id) { return "user " + std::to_string(user_id); }

// One Argon2id computation, whatever is known: a missing hash costs as much as a wrong password.
bool compare(const std::string &stored, std::string_view password) {
  return stored.empty() ? crypto::verify_nothing(password, cost()) : crypto::verify_password(stored, password);
}

std::string new_hash(std::string_view password) {
  rbac::HashTurn turn;
  return crypto::hash_password(password, cost());
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// The required kinds of characters that a password lacks, in words.
std::string missing_kinds(std::string_view password) {
  std::string missing;
  for (const guc::CharacterKind &kind : guc::required_character_kinds()) {
    if (std::any_of(password.begin(), password.end(), kind.contains)) continue;
    if (!missing.empty()) missing += ", ";
    missing += kind.words;
  }
  return missing;
}

void require_acceptable(std::string_view password) {
  const auto least = static_cast<size_t>(settings.password_min_length), most = static_cast<size_t>(settings.password_max_length);
  const size_t length = characters(password);
  if (length < least || length > most)
    throw Error(code::InvalidParameter, "the password has an unacceptable length", "",
                "Use " + std::to_string(least) + " to " + std::to_string(most) + " characters.");
  const std::string missing = missing_kinds(password);
  if (!missing.empty())
    throw Error(code::InvalidParameter, "the password lacks kinds of characters", "It needs also: " + missing + ".",
                "pgtrain.password_required_kinds says what is asked for.");
}

}  // namespace

// hash_password(password) returns the string to store.
PGTRAIN_FUNCTION(pgtrain_hash_password) {
  const std::string_view password = text_argument(fcinfo, 0);
  require_acceptable(password);
  return text_result(new_hash(password));
}

// rehash_password(password): the same for a password that was accepted long ago.
PGTRAIN_FUNCTION(pgtrain_rehash_password) { return text_result(new_hash(text_argument(fcinfo, 0))); }

PGTRAIN_FUNCTION(pgtrain_password_needs_rehash) {
  PG_RETURN_BOOL(crypto::needs_rehash(std::string(text_argument(fcinfo, 0)), cost()));
}

PGTRAIN_FUNCTION(pgtrain_new_token) { return text_result(crypto::new_token()); }

// new_api_key() returns the key to show once.
PGTRAIN_FUNCTION(pgtrain_new_api_key) {
  const std::string key = std::string(rbac::api_key_mark) + crypto::new_token();
  if (key.size() != rbac::api_key_length) throw Error(code::Internal, "an API key has an unexpected length");
  return text_result(key);
}

PGTRAIN_FUNCTION(pgtrain_token_hash) {
  const std::string hash = crypto::hash_token(text_argument(fcinfo, 0));
  return text_result(hash);  // bytea and text share their layout
}

// verify_login(user_id, hash, password, is_open, is_provisional): whether the password is right and logging in is open. Always one
// hash, so that who waits learns nothing. The lock is looked at and the failure counted while the turn to hash is held, so that
// any number of guesses at once get no more tries than one after the other (but for the hashes that run at the same time).
// Provisional: counted as a failure until note_login says that the second factor was right too.
PGTRAIN_FUNCTION(pgtrain_verify_login) {
  const int64_t user_id = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
  const std::string stored = PG_ARGISNULL(1) ? std::string() : std::string(text_argument(fcinfo, 1));
  const std::string_view password = text_argument(fcinfo, 2);
  const std::string name = guard_name(user_id);
  rbac::HashTurn turn;
  const bool is_open = user_id != 0 && PG_GETARG_BOOL(3) && rbac::locked_until(name) == 0;
  const bool matches = compare(stored, password);
  if (!is_open) PG_RETURN_BOOL(false);
  if (!matches || PG_GETARG_BOOL(4)) rbac::record_failure(name);
  if (!matches) rbac::note_login(user_id, false, PG_ARGISNULL(5) ? std::string_view() : text_argument(fcinfo, 5));
  PG_RETURN_BOOL(matches);
}

// note_login(user_id, has_succeeded, address): all factors were right, or the last one was wrong (verify_login has counted that).
PGTRAIN_FUNCTION(pgtrain_note_login) {
  const int64_t user_id = PG_GETARG_INT64(0);
  const bool has_succeeded = PG_GETARG_BOOL(1);
  if (has_succeeded) rbac::clear_failures(guard_name(user_id));
  rbac::note_login(user_id, has_succeeded, PG_ARGISNULL(2) ? std::string_view() : text_argument(fcinfo, 2));
  PG_RETURN_VOID();
}

// login_locked_until(user_id) as shared memory knows it, null when it is not locked.
PGTRAIN_FUNCTION(pgtrain_login_locked_until) {
  const int64_t until = rbac::locked_until(guard_name(PG_GETARG_INT64(0)));
  if (until == 0) PG_RETURN_NULL();
  PG_RETURN_TIMESTAMPTZ(until);
}

PGTRAIN_FUNCTION(pgtrain_forget_login_failures) {
  rbac::clear_failures(guard_name(PG_GETARG_INT64(0)));
  PG_RETURN_VOID();
}

// password_hash_load(out computed, out running, out most_at_once)
PGTRAIN_FUNCTION(pgtrain_password_hash_load) {
  const rbac::HashLoad load = rbac::hash_load();
  return call::guarded([&load, fcinfo] {
    TupleDesc description = nullptr;
    if (get_call_result_type(fcinfo, nullptr, &description) != TYPEFUNC_COMPOSITE) elog(ERROR, "password_hash_load gives a row");
    Datum values[] = {Int64GetDatum(load.computed), Int32GetDatum(load.running), Int32GetDatum(load.most_at_once)};
    bool nulls[] = {false, false, false};
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(description), values, nulls));
  });
}

// note_replay(session_id): a refresh token was shown a second time.
PGTRAIN_FUNCTION(pgtrain_note_replay) {
  rbac::note_replay(PG_GETARG_INT64(0));
  PG_RETURN_VOID();
}

// session_used_at(session_id) as shared memory knows it, null when it does not.
PGTRAIN_FUNCTION(pgtrain_session_used_at) {
  const int64_t at = rbac::remembered_session_use(PG_GETARG_INT64(0));
  if (at == 0) PG_RETURN_NULL();
  PG_RETURN_TIMESTAMPTZ(at);
}

// write_session_uses(): for the scheduler.
PGTRAIN_FUNCTION(pgtrain_write_session_uses) { PG_RETURN_INT64(rbac::write_session_uses()); }

PGTRAIN_FUNCTION(pgtrain_hide_statement) {
  rbac::hide_statement();
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_login_lock_seconds) { PG_RETURN_INT64(rbac::lock_seconds(PG_GETARG_INT32(0))); }

// authenticate(token, session) returns the user. A refused token also ends whatever identity was in force: a client that
// ignores the error must not go on as somebody else.
PGTRAIN_FUNCTION(pgtrain_authenticate) {
  rbac::hide_statement();
  const bool for_session = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
  rbac::Finding finding;
  try {
    if (for_session && !settings.session_scope)
      throw Error(code::InvalidState, "an identity for the whole connection is refused here",
                  "pgtrain.session_scope is off, because this connection may be handed on to other clients.",
                  "Call pgtrain.authenticate(token) within each transaction.");
    const std::string_view token = PG_ARGISNULL(0) ? std::string_view() : text_argument(fcinfo, 0);
    finding = rbac::find_by_token(token);
    if (finding.refusal != nullptr && rbac::is_api_key(token))
      throw Error(code::NotAuthenticated, "the API key is not valid", "Because " + std::string(finding.refusal) + ".",
                  "Make a new one with pgtrain.create_api_key.");
    if (finding.refusal != nullptr)
      throw Error(code::NotAuthenticated, "the session token is not valid", "Because " + std::string(finding.refusal) + ".",
                  "Log in again with pgtrain.login.");
  } catch (...) {
    // Refused, cancelled or failed: all the same for a client that ignores the error.
    rbac::forget_for_good();
    throw;
  }
  rbac::establish(finding.identity, for_session ? rbac::Scope::Session : rbac::Scope::Transaction);
  PG_RETURN_INT64(finding.identity.user_id);
}

// logout(): ends the session in force on the server and forgets who is calling. Returns whether there was a session.
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
