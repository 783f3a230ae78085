// The identity of this process, see rbac.hpp. Two slots: one for the session, one for the transaction, which wins. Each change
// first saves both slots under its subtransaction, so that a rollback restores exactly what was in force before it. Where both are
// empty, the database role of the connection may stand for a user.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "catalog/pg_class.h"
}

#include <algorithm>
#include <vector>

#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/rbac/account_notes.hpp"
#include "pg/rbac/credentials.hpp"
#include "pg/rbac/generation.hpp"
#include "pg/rbac/hidden_statement.hpp"
#include "pg/rbac/login_guard.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/rbac/session_uses.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct Slots {
  Identity session;
  Identity transaction;
  // After logout() or a refused token the role of the connection stands for nobody: who was refused must not go on as somebody.
  bool ignores_role = false;
};

// The user that the role of the connection stands for, and for which role and state of the catalogue that was found out.
struct Mapped {
  Identity identity;
  Oid role = InvalidOid;
  uint64_t role_changes = 0;
};

struct Saved {
  SubTransactionId level;
  Slots before;
};

Slots slots;
std::vector<Saved> history;
const char *reason = "";
Mapped mapped;
uint64_t role_changes = 1;
ProcessUtility_hook_type previous_utility = nullptr;

// Renamed, dropped, made a superuser: the role may no longer be the one that was mapped.
void role_changed(Datum, int, uint32) { ++role_changes; }

// session_user: SET ROLE does not change it, and SET SESSION AUTHORIZATION is for superusers. A superuser stands for nobody but
// himself, because he would lose the rights of the server's administrator without having asked for it.
Identity &mapped_identity() {
  const Oid role = GetSessionUserId();
  const uint64_t now_generation = current_generation();
  if (mapped.role != role || mapped.role_changes != role_changes || mapped.identity.checked_generation != now_generation) {
    const uint64_t changes = role_changes;
    const bool is_superuser = call::guarded([role] { return superuser_arg(role); });
    Identity found;
    if (!is_superuser) found.user_id = find_mapped_user(role);
    found.expires_at = DT_NOEND;
    found.checked_generation = now_generation;
    mapped = {found, role, changes};
  }
  return mapped.identity;
}

bool has_own_identity() { return slots.transaction.user_id != 0 || slots.session.user_id != 0; }

Identity &in_force() {
  static Identity nobody;
  if (slots.transaction.user_id != 0) return slots.transaction;
  if (slots.session.user_id != 0) return slots.session;
  return slots.ignores_role ? nobody : mapped_identity();
}

void save() {
  const SubTransactionId level = GetCurrentSubTransactionId();
  if (history.empty() || history.back().level != level) history.push_back({level, slots});
}

void transaction_ended(XactEvent event, void *) {
  switch (event) {
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PARALLEL_ABORT:
      if (!history.empty()) slots = history.front().before;
      [[fallthrough]];
    case XACT_EVENT_COMMIT:
    case XACT_EVENT_PARALLEL_COMMIT:
    case XACT_EVENT_PREPARE:
      slots.transaction = Identity{};
      history.clear();
      break;
    default:
      break;
  }
}

void subtransaction_ended(SubXactEvent event, SubTransactionId ended, SubTransactionId parent, void *) {
  if (event == SUBXACT_EVENT_ABORT_SUB) {
    while (!history.empty() && history.back().level >= ended) {
      slots = history.back().before;
      history.pop_back();
    }
  } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
    // The parent inherits the change, unless it has an older state to return to already.
    if (history.empty() || history.back().level != ended) return;
    const bool parent_has_one = history.size() > 1 && history[history.size() - 2].level == parent;
    if (parent_has_one)
      history.pop_back();
    else
      history.back().level = parent;
  }
}

// DISCARD ALL is what poolers send between clients: the next client must not inherit the identity.
void utility(PlannedStmt *statement, const char *text, bool read_only_tree, ProcessUtilityContext context,
             ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion) {
  const bool discards_all = IsA(statement->utilityStmt, DiscardStmt) &&
                            reinterpret_cast<DiscardStmt *>(statement->utilityStmt)->target == DISCARD_ALL;
  if (previous_utility != nullptr)
    previous_utility(statement, text, read_only_tree, context, parameters, environment, receiver, completion);
  else
    standard_ProcessUtility(statement, text, read_only_tree, context, parameters, environment, receiver, completion);
  if (discards_all) {
    forget_for_good();
    slots.ignores_role = false;
  }
}

// Whether the identity is in use: a session that rested too long is ended. Uses are written down now and then.
bool is_fresh(Identity &identity, int64_t now) {
  if (now - identity.noted_at < note_interval()) return true;
  if (identity.session_id != 0 && idle_timeout() > 0 && now - identity.noted_at >= idle_timeout()) {
    // Another connection may have used the session meanwhile.
    if (const char *refusal = check_again(identity)) {
      identity.is_valid = false;
      reason = refusal;
      return false;
    }
  }
  if (identity.session_id != 0) note_session_used(identity.session_id);
  if (identity.api_key_id != 0) note_key_used(identity.api_key_id);
  identity.noted_at = now;
  return true;
}

}  // namespace

void init() {
  register_invalidation();
  init_login_guard();
  init_account_notes();
  init_session_uses();
  init_hidden_statement();
  CacheRegisterSyscacheCallback(AUTHOID, role_changed, Datum{0});
  RegisterXactCallback(transaction_ended, nullptr);
  RegisterSubXactCallback(subtransaction_ended, nullptr);
  previous_utility = ProcessUtility_hook;
  ProcessUtility_hook = utility;
}

int64_t current_time() { return std::max(GetCurrentStatementStartTimestamp(), GetCurrentTransactionStartTimestamp()); }

int64_t current_user_id() {
  Identity &identity = in_force();
  if (identity.user_id == 0) return 0;
  const uint64_t now_generation = current_generation();
  if (identity.checked_generation != now_generation) {
    const char *refusal = check_again(identity);
    identity.is_valid = refusal == nullptr;
    identity.checked_generation = now_generation;
    if (refusal != nullptr) reason = refusal;
  }
  if (!identity.is_valid) return 0;
  const int64_t now = current_time();
  if (identity.expires_at <= now) {
    reason = identity.api_key_id != 0 ? "the API key has expired" : "the session has expired";
    return 0;
  }
  return is_fresh(identity, now) ? identity.user_id : 0;
}

int64_t current_session_id() { return current_user_id() == 0 ? 0 : in_force().session_id; }

int64_t current_api_key_id() { return current_user_id() == 0 ? 0 : in_force().api_key_id; }

Reach caller_reach(std::string_view action, std::string_view entity) {
  const int64_t user = current_user_id();
  return user == 0 ? Reach::None : reach(user, in_force().api_key_id, action, entity);
}

std::string_view ended_reason() { return in_force().user_id == 0 ? std::string_view() : std::string_view(reason); }

void establish(const Identity &identity, Scope scope) {
  save();
  if (scope == Scope::Session) {
    slots.session = identity;
    slots.transaction = Identity{};
  } else {
    slots.transaction = identity;
  }
  reason = "";
}

void forget() {
  save();
  if (slots.transaction.user_id != 0)
    slots.transaction = Identity{};
  else
    slots.session = Identity{};
  if (!has_own_identity()) slots.ignores_role = true;
}

void forget_for_good() {
  slots = Slots{};
  slots.ignores_role = true;
  history.clear();
  reason = "";
}

bool is_server_administrator() {
  // In a restricted operation (ANALYZE, REFRESH, index build) functions of a table's owner run within a superuser's statement.
  if (in_force().user_id != 0 || InSecurityRestrictedOperation()) return false;
  return call::guarded([] { return superuser_arg(GetOuterUserId()); });
}

void as_owner(void (*body)(void *), void *argument) {
  struct Frame {
    Oid user;
    int security;
    int nest;
    bool snapshot;
  } frame{};
  call::guarded([&frame] {
    const Oid table = marker_table();
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
    if (!HeapTupleIsValid(tuple))
      ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("pgtrain is not installed in this database"),
                      errhint("Run CREATE EXTENSION pgtrain.")));
    const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    GetUserIdAndSecContext(&frame.user, &frame.security);
    SetUserIdAndSecContext(owner, frame.security | SECURITY_LOCAL_USERID_CHANGE);
    // An operator of the caller's own schema must never be picked in a statement that runs as the owner.
    frame.nest = NewGUCNestLevel();
    (void)set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    PushActiveSnapshot(GetLatestSnapshot());
    frame.snapshot = true;
  });
  try {
    body(argument);
  } catch (...) {
    // The transaction or subtransaction is about to be rolled back, which restores the settings and the snapshot.
    SetUserIdAndSecContext(frame.user, frame.security);
    throw;
  }
  call::guarded([&frame] {
    PopActiveSnapshot();
    AtEOXact_GUC(true, frame.nest);
    SetUserIdAndSecContext(frame.user, frame.security);
  });
}

}  // namespace pgtrain::pg::rbac
