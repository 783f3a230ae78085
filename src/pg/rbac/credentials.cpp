// See credentials.hpp. The statements run with the newest snapshot, so that a revocation counts in a repeatable-read transaction.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <string>

#include "pg/call/spi.hpp"
#include "pg/crypto/token.hpp"
#include "pg/guc.hpp"
#include "pg/rbac/account_notes.hpp"
#include "pg/rbac/session_uses.hpp"
#include "pg/rbac/credentials.hpp"

namespace pgtrain::pg::rbac {
namespace {

constexpr int64_t second = 1000000;

const char *session_refusal(const call::Row &row, int64_t last_use) {
  if (!row.boolean(3)) return "the session was ended";
  if (!row.boolean(4)) return "the account is not active";
  if (row.int64(2) <= current_time()) return "the session has expired";
  const int64_t idle_since = current_time() - idle_timeout();
  if (idle_timeout() > 0 && last_use <= idle_since && remembered_session_use(row.int64(0)) <= idle_since)
    return "the session was not used for too long";
  return nullptr;
}

const char *key_refusal(const call::Row &row) {
  if (!row.boolean(3)) return "the API key was revoked";
  if (!row.boolean(4)) return "the account is not active";
  if (row.optional_int64(2).value_or(DT_NOEND) <= current_time()) return "the API key has expired";
  return nullptr;
}

Finding find_session(const std::string &hash) {
  static const call::Statement find{
      "select s.id, s.user_id, s.expires_at, s.is_active, u.is_active, s.last_accessed_at "
      "from pgtrain.sessions s join pgtrain.users u on u.id = s.user_id where s.token_hash = $1",
      {call::Type::Bytea},
      call::Access::ReadOnly};
  Finding finding;
  call::Spi spi;
  const call::Rows rows = find.execute(spi, {hash});
  if (rows.empty()) {
    finding.refusal = "it is not known";
    return finding;
  }
  const int64_t last_use = rows[0].int64(5);
  finding.refusal = session_refusal(rows[0], last_use);
  if (finding.refusal != nullptr) return finding;
  finding.identity.session_id = rows[0].int64(0);
  finding.identity.user_id = rows[0].int64(1);
  finding.identity.expires_at = rows[0].int64(2);
  if (last_use + note_interval() <= current_time()) note_session_used(finding.identity.session_id);
  return finding;
}

Finding find_api_key(const std::string &hash) {
  static const call::Statement find{
      "select k.id, k.user_id, k.expires_at, k.is_active, u.is_active, k.last_used_at "
      "from pgtrain.api_keys k join pgtrain.users u on u.id = k.user_id where k.hash = $1",
      {call::Type::Bytea},
      call::Access::ReadOnly};
  Finding finding;
  call::Spi spi;
  const call::Rows rows = find.execute(spi, {hash});
  if (rows.empty()) {
    finding.refusal = "it is not known";
    return finding;
  }
  finding.refusal = key_refusal(rows[0]);
  if (finding.refusal != nullptr) return finding;
  finding.identity.api_key_id = rows[0].int64(0);
  finding.identity.user_id = rows[0].int64(1);
  finding.identity.expires_at = rows[0].optional_int64(2).value_or(DT_NOEND);
  if (rows[0].optional_int64(5).value_or(0) + note_interval() <= current_time()) note_key_used(finding.identity.api_key_id);
  return finding;
}

const char *check_session(Identity &identity) {
  static const call::Statement read{
      "select s.id, s.user_id, s.expires_at, s.is_active, u.is_active, s.last_accessed_at "
      "from pgtrain.sessions s join pgtrain.users u on u.id = s.user_id where s.id = $1 and s.user_id = $2",
      {call::Type::Int8, call::Type::Int8},
      call::Access::ReadOnly};
  call::Spi spi;
  const call::Rows rows = read.execute(spi, {identity.session_id, identity.user_id});
  if (rows.empty()) return "the session no longer exists";
  identity.expires_at = rows[0].int64(2);
  return session_refusal(rows[0], std::max(rows[0].int64(5), identity.noted_at));
}

const char *check_api_key(Identity &identity) {
  static const call::Statement read{
      "select k.id, k.user_id, k.expires_at, k.is_active, u.is_active "
      "from pgtrain.api_keys k join pgtrain.users u on u.id = k.user_id where k.id = $1 and k.user_id = $2",
      {call::Type::Int8, call::Type::Int8},
      call::Access::ReadOnly};
  call::Spi spi;
  const call::Rows rows = read.execute(spi, {identity.api_key_id, identity.user_id});
  if (rows.empty()) return "the API key no longer exists";
  identity.expires_at = rows[0].optional_int64(2).value_or(DT_NOEND);
  return key_refusal(rows[0]);
}

}  // namespace

int64_t idle_timeout() { return settings.session_idle_timeout_seconds * second; }

int64_t note_interval() {
  // A write a minute tells enough, unless sessions end so soon that it would come too late.
  return idle_timeout() == 0 ? 60 * second : std::min(60 * second, idle_timeout() / 4);
}

Finding find_by_token(std::string_view token) {
  const std::string hash = crypto::hash_token(token);
  Finding finding;
  // Read before the row: a revocation that commits in between makes the identity be checked again.
  const uint64_t at = generation();
  as_owner([&] { finding = is_api_key(token) ? find_api_key(hash) : find_session(hash); });
  finding.identity.checked_generation = at;
  finding.identity.noted_at = current_time();
  return finding;
}

const char *check_again(Identity &identity) {
  if (identity.api_key_id == 0 && identity.session_id == 0)
    return find_mapped_user(GetSessionUserId()) == identity.user_id ? nullptr : "the database role no longer stands for a user";
  const char *refusal = nullptr;
  as_owner([&] { refusal = identity.api_key_id != 0 ? check_api_key(identity) : check_session(identity); });
  return refusal;
}

int64_t find_mapped_user(unsigned role) {
  static const call::Statement find{
      "select u.id from pgtrain.users u where u.db_role_oid = $1::pg_catalog.oid and u.db_role = $2::pg_catalog.name and u.is_active",
      {call::Type::Int8, call::Type::Text},
      call::Access::ReadOnly};
  int64_t user = 0;
  as_owner([&] {
    const char *name = call::guarded([role] { return static_cast<const char *>(GetUserNameFromId(role, true)); });
    if (name == nullptr) return;
    call::Spi spi;
    const call::Rows rows = find.execute(spi, {static_cast<int64_t>(role), name});
    if (!rows.empty()) user = rows[0].int64(0);
  });
  return user;
}

}  // namespace pgtrain::pg::rbac
