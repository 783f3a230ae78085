// The identity of this process, see rbac.hpp. Two slots: one for the session, one for the transaction, which wins. Each change
// first saves both slots under its subtransaction, so that a rollback restores exactly what was in force before it.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/guc.h"
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
#include "pg/rbac/generation.hpp"
#include "pg/rbac/hidden_statement.hpp"
#include "pg/rbac/login_guard.hpp"
#include "pg/rbac/rbac.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct Slots {
  Identity session;
  Identity transaction;
};

struct Saved {
  SubTransactionId level;
  Slots before;
};

Slots slots;
std::vector<Saved> history;
const char *reason = "";
ProcessUtility_hook_type previous_utility = nullptr;

Identity &in_force() { return slots.transaction.user_id != 0 ? slots.transaction : slots.session; }

void save() {
  const SubTransactionId level = GetCurrentSubTransactionId();
  if (history.empty() || history.back().level != level) history.push_back({level, slots});
}

void transaction_ended(XactEvent event, void *) {
  switch (event) {
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PARALLEL_ABORT:
      if (!history.empty()) slots.session = history.front().before.session;
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
  if (discards_all) forget_for_good();
}

// Reads the session row again. Uses the newest snapshot: a revocation counts in a repeatable-read transaction too.
bool still_valid(Identity &identity) {
  static const call::Statement read{
      "select s.expires_at, s.is_active, u.is_active from pgtrain.sessions s join pgtrain.users u on u.id = s.user_id "
      "where s.id = $1 and s.user_id = $2",
      {call::Type::Int8, call::Type::Int8},
      call::Access::ReadOnly};
  bool valid = false;
  as_owner([&] {
    call::Spi spi;
    const call::Rows rows = read.execute(spi, {identity.session_id, identity.user_id});
    if (rows.empty()) {
      reason = "the session no longer exists";
    } else if (!rows[0].boolean(1)) {
      reason = "the session was ended";
    } else if (!rows[0].boolean(2)) {
      reason = "the account is not active";
    } else {
      identity.expires_at = rows[0].int64(0);
      valid = true;
    }
  });
  return valid;
}

}  // namespace

void init() {
  register_invalidation();
  init_login_guard();
  init_account_notes();
  init_hidden_statement();
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
    identity.is_valid = still_valid(identity);
    identity.checked_generation = now_generation;
  }
  if (!identity.is_valid) return 0;
  if (identity.expires_at <= current_time()) {
    reason = "the session has expired";
    return 0;
  }
  return identity.user_id;
}

int64_t current_session_id() { return current_user_id() == 0 ? 0 : in_force().session_id; }

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
}

void forget_for_good() {
  slots = Slots{};
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
