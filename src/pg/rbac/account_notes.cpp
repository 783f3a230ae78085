// See account_notes.hpp. A rolled back savepoint does not take notes back: the password was right or wrong all the same. A
// transaction that is prepared for two phases leaves none, since it would hold the locks; shared memory has counted its failures.
// A second use of a refresh token in it ends nothing.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "utils/guc.h"
}

#include <map>
#include <set>
#include <string>

#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/rbac/account_notes.hpp"
#include "pg/rbac/credentials.hpp"
#include "pg/rbac/generation.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/rbac/session_uses.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct Logins {
  bool has_succeeded = false;
  int failures = 0;     // since the success, if there was one
  std::string address;  // of the last failure, as the application told; empty for none
};

// In the order of ids, so that two commits lock rows in the same order.
std::map<int64_t, Logins> logins;
std::set<int64_t> used_sessions, used_keys, replayed_sessions;

// Locked first, and without waiting: see write_login.
const call::Statement lock_statement{
    "select u.id from pgtrain.users u where u.id = $1 for no key update skip locked", {call::Type::Int8}};
const call::Statement success_statement{
    "update pgtrain.users set failed_login_count = 0, locked_until = null, last_login_at = pg_catalog.now() where id = $1",
    {call::Type::Int8}};
const call::Statement failure_statement{
    "update pgtrain.users set failed_login_count = failed_login_count + $2, locked_until = pg_catalog.now() + pg_catalog.make_interval("
    "secs => nullif(pgtrain_private.login_lock_seconds(failed_login_count + $2), 0)) where id = $1",
    {call::Type::Int8, call::Type::Int4}};
// By nobody, because users see what they did themselves: who guesses at a name must not read there that it exists.
const call::Statement failure_audit{
    "select pgtrain_private.write_audit('login_failed', null, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object("
    "'user_id', $1::int8, 'failures', $2::int4, 'caller', pgtrain.current_user_id())), 0, nullif($3, '')::pg_catalog.inet)",
    {call::Type::Int8, call::Type::Int4, call::Type::Text}};
const call::Statement use_statement{
    "update pgtrain.sessions set last_accessed_at = pg_catalog.now() where id = "
    "(select s.id from pgtrain.sessions s where s.id = $1 and s.last_accessed_at < pg_catalog.now() - pg_catalog.make_interval(secs => $2) "
    "for no key update skip locked)",
    {call::Type::Int8, call::Type::Float8}};
const call::Statement key_use_statement{
    "update pgtrain.api_keys set last_used_at = pg_catalog.now() where id = "
    "(select k.id from pgtrain.api_keys k where k.id = $1 and "
    "(k.last_used_at is null or k.last_used_at < pg_catalog.now() - pg_catalog.make_interval(secs => $2)) for no key update skip locked)",
    {call::Type::Int8, call::Type::Float8}};
// A session that has ended already tells nothing new.
const call::Statement replay_statement{
    "update pgtrain.sessions set is_active = false where id = $1 and is_active returning user_id", {call::Type::Int8}};
const call::Statement replay_audit{
    "select pgtrain_private.write_audit('refresh_token_replayed', 'The session was ended: a refresh token of it was shown a second time.', "
    "pg_catalog.jsonb_build_object('user_id', $1::int8, 'session_id', $2::int8))",
    {call::Type::Int8, call::Type::Int8}};

void clear() {
  logins.clear();
  used_sessions.clear();
  used_keys.clear();
  replayed_sessions.clear();
}

bool is_empty() { return logins.empty() && used_sessions.empty() && used_keys.empty() && replayed_sessions.empty(); }

// Others log in to the same account at this moment, which is over soon. But who has SQL of his own may hold his account's row as long
// as he likes, and would keep each login there waiting: what is then not written in the table, shared memory has counted.
bool lock_account(const call::Spi &spi, int64_t user_id) {
  constexpr int tries = 60;
  constexpr long nap_us = 5000;
  for (int i = 0; i < tries; ++i) {
    if (!lock_statement.execute(spi, {user_id}).empty()) return true;
    call::guarded([] {
      CHECK_FOR_INTERRUPTS();
      pg_usleep(nap_us);
    });
  }
  return false;
}

void write_notes() {
  // The extension may have been dropped in this very transaction.
  if (XactReadOnly || marker_table() == InvalidOid) return;
  const bool writes_nothing_else = !TransactionIdIsValid(GetTopTransactionIdIfAny());
  as_owner([] {
    call::Spi spi;
    for (const auto &[user_id, login] : logins) {
      const bool is_locked = lock_account(spi, user_id);
      if (is_locked && login.has_succeeded) success_statement.execute(spi, {user_id});
      if (login.failures == 0) continue;
      if (is_locked) failure_statement.execute(spi, {user_id, login.failures});
      failure_audit.execute(spi, {user_id, login.failures, login.address});
    }
    for (const int64_t session_id : replayed_sessions) {
      const call::Rows ended = replay_statement.execute(spi, {session_id});
      if (!ended.empty()) replay_audit.execute(spi, {ended[0].int64(0), session_id});
    }
    // With an older snapshot the row may have moved on, which would fail the caller's transaction.
    if (IsolationUsesXactSnapshot()) return;
    const double seconds = static_cast<double>(note_interval()) / 1e6;
    for (const int64_t session_id : used_sessions) use_statement.execute(spi, {session_id, seconds});
    for (const int64_t api_key_id : used_keys) key_use_statement.execute(spi, {api_key_id, seconds});
  });
  // A refused login of an open account writes, others do not: waiting for the disk would tell which it was.
  if (writes_nothing_else && replayed_sessions.empty())
    call::guarded([] {
      (void)set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
    });
}

void on_transaction(XactEvent event, void *) {
  if (is_empty()) return;
  if (event == XACT_EVENT_PRE_COMMIT) boundary::run_protected([] { write_notes(); });
  if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE) clear();
}

}  // namespace

void init_account_notes() { RegisterXactCallback(on_transaction, nullptr); }

void note_login(int64_t user_id, bool has_succeeded, std::string_view address) {
  Logins &login = logins[user_id];
  if (has_succeeded) {
    login = Logins{true, 0, {}};
  } else {
    ++login.failures;
    login.address = address;
  }
}

void note_session_used(int64_t session_id) {
  used_sessions.insert(session_id);
  remember_session_use(session_id, current_time());
}

void note_key_used(int64_t api_key_id) { used_keys.insert(api_key_id); }

void note_replay(int64_t session_id) { replayed_sessions.insert(session_id); }

}  // namespace pgtrain::pg::rbac
