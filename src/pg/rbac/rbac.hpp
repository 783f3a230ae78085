// Who is calling and what they may do. Identity lives in the memory of this process only: no setting, no role change and
// no SQL text can alter it; `establish` is called for a verified token or key and nothing else. Rights are cached per user and
// read again after any committed (or own) change, which arrives as an invalidation of a marker table: it works without
// preloading, respects rollback and reaches every session with its next statement.
// All functions may throw ServerError and run SQL as the owner of the extension when a cache is stale.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace pgtrain::pg::rbac {

enum class Scope { Transaction, Session };

struct Identity {
  int64_t user_id = 0;     // 0 = nobody
  int64_t session_id = 0;  // the row of pgtrain.sessions that proves it
  int64_t api_key_id = 0;  // or that of pgtrain.api_keys, whose scopes then bound what it may do
  int64_t expires_at = 0;  // server timestamp
  int64_t noted_at = 0;    // when its use was last written down
  uint64_t checked_generation = 0;
  bool is_valid = true;  // what the check of that generation said
};

// How far a right reaches: nothing, rows of one's own, rows of everybody.
enum class Reach { None, Own, Any };

// The scope of row security that stands for everybody's rows; any other scope is the one user id.
inline constexpr int64_t scope_all = -1;

// Installs the callbacks and hooks. Called from _PG_init.
void init();

// The time that expiry is measured by: the start of the statement, or of the transaction within it, since a procedure that commits
// can run for ever in one statement.
int64_t current_time();

// The verified user of this moment, 0 for nobody. Sees expiry and revocation at the latest with the next statement.
int64_t current_user_id();

// The session row behind the identity, 0 for none.
int64_t current_session_id();

// The API key behind the identity, 0 for none.
int64_t current_api_key_id();

// Why current_user_id() is 0 although an identity was established ("the session has expired"), else empty.
std::string_view ended_reason();

// Makes `identity` the caller. Undone by a rollback of the (sub)transaction; with Scope::Transaction also by its end.
void establish(const Identity &identity, Scope scope);

// Forgets the identity in force, also that of a mapped database role; a rollback brings it back, as it does with everything else.
void forget();

// Forgets every identity for good. Used where a former identity must not come back: a refused token, DISCARD ALL. The latter makes
// a mapped database role count again.
void forget_for_good();

// What `user_id` may do; through an API key (0 for none) no more than its scopes say. An unknown action or entity is simply not
// permitted.
Reach reach(int64_t user_id, int64_t api_key_id, std::string_view action, std::string_view entity);

// What the caller may do.
Reach caller_reach(std::string_view action, std::string_view entity);

// The caller, or an error when nobody is logged in.
int64_t require_user();

// How far the caller's right reaches, Own or Any, or an error. The administrator of the server has any.
Reach require_permission(std::string_view action, std::string_view entity);

// Whether the caller may do that to a row of that owner (0 = nobody's).
bool may_access(int64_t owner_id, std::string_view action, std::string_view entity);

// True for a caller without an identity whose database role is a superuser: the administrator of the server.
bool is_server_administrator();

// Number that changes whenever rights or sessions may have changed.
uint64_t generation();

// Runs `body` as the owner of the extension with search_path fixed to pg_catalog. The body may throw.
void as_owner(void (*body)(void *), void *argument);

template <class Callable>
void as_owner(Callable &&body) {
  as_owner([](void *argument) { (*static_cast<std::remove_reference_t<Callable> *>(argument))(); }, &body);
}

}  // namespace pgtrain::pg::rbac
