// See databases.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/timestamp.h"
#include "storage/latch.h"
#include "pgstat.h"
#include "commands/defrem.h"
}

#include <csignal>

#include "pg/worker/databases.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/shared.hpp"

namespace pgtrain::pg::worker {
namespace {

// What this session has suspended, given back at the end of its transaction whichever way it ends.
Oid suspended_database = InvalidOid;
bool drops_extension = false;

constexpr int wait_step_ms = 20;

// True while a worker of the database is there. Tells each how to leave.
bool tell_workers(Oid database, Leave how) {
  Guard lock(shared()->lock);
  bool any = false;
  for (WorkerSlot &slot : shared()->workers) {
    if (!slot.is_used || slot.kind == WorkerKind::Launcher || slot.database != database) continue;
    any = true;
    slot.must_stop = true;
    if (how == Leave::AtOnce && slot.pid != 0) {
      slot.must_abandon = true;
      // Ends a wait for a lock that this very session may hold.
      kill(slot.pid, SIGTERM);
    }
    if (slot.latch != nullptr) SetLatch(slot.latch);
  }
  return any;
}

}  // namespace

void announce_present(Oid database) {
  {
    Guard lock(shared()->lock);
    DatabaseSlot *slot = find_database(database, true);
    // Its scheduler says so at each start: only news may shorten the delay between starts.
    if (slot == nullptr || slot->state == DatabaseState::Present) return;
    slot->state = DatabaseState::Present;
    slot->retry_at = 0;
  }
  wake_launcher();
}

// Exits of workers, once more with the pid that a lease has.
void note_told_to_leave(pid_t pid) {
  Guard lock(shared()->lock);
  Shared &s = *shared();
  s.told_to_leave[s.told_count++ % max_workers] = pid;
}

bool was_told_to_leave(pid_t pid) {
  Guard lock(shared()->lock);
  for (const pid_t told : shared()->told_to_leave)
    if (told == pid) return true;
  return false;
}

void announce_absent(Oid database) {
  {
    Guard lock(shared()->lock);
    if (DatabaseSlot *slot = find_database(database, true))
      if (slot->state == DatabaseState::Unknown) slot->state = DatabaseState::Absent;
  }
  forget_database(database);
}

void end_suspension(Oid database) {
  {
    Guard lock(shared()->lock);
    if (DatabaseSlot *slot = find_database(database, false))
      if (slot->suspended > 0) --slot->suspended;
  }
  wake_launcher();
}

void suspend_database(Oid database, Leave how) {
  {
    Guard lock(shared()->lock);
    DatabaseSlot *slot = find_database(database, true);
    if (slot == nullptr) return;
    ++slot->suspended;
  }
  while (tell_workers(database, how)) {
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait_step_ms, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  }
}

namespace {

void on_transaction_end(XactEvent event, void *) {
  // A prepared transaction ends the session's part as well: the workers come back and wait for its locks.
  if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE) return;
  if (suspended_database == InvalidOid || shared() == nullptr) return;
  const Oid database = suspended_database;
  suspended_database = InvalidOid;
  if (drops_extension && event != XACT_EVENT_ABORT) {
    {
      // Not Absent: the drop may have been undone by a savepoint, or not be decided yet. The scheduler looks.
      Guard lock(shared()->lock);
      if (DatabaseSlot *slot = find_database(database, false))
        if (slot->state == DatabaseState::Present) slot->state = DatabaseState::Unknown;
    }
    forget_database(database);
  }
  drops_extension = false;
  end_suspension(database);
}

void suspend_until_end(Oid database, Leave how) {
  if (database == InvalidOid || suspended_database == database) return;
  if (suspended_database != InvalidOid) end_suspension(suspended_database);
  suspended_database = database;
  suspend_database(database, how);
}

void before_drop_or_rename(const char *name, Leave how) {
  const Oid database = get_database_oid(name, true);
  // Who may not do it gets the server's own error and disturbs nobody.
  if (database != InvalidOid && database != MyDatabaseId && compat::owns_database(database)) suspend_until_end(database, how);
}

bool is_forced(const DropdbStmt *statement) {
  ListCell *cell;
  foreach (cell, statement->options)
    if (strcmp(lfirst_node(DefElem, cell)->defname, "force") == 0) return true;
  return false;
}

// With other sessions there the drop will fail, and its runs shall not lose their work for that: a checkpoint is written first.
Leave leave_for_drop(const DropdbStmt *statement) {
  const Oid database = get_database_oid(statement->dbname, true);
  return is_forced(statement) || database == InvalidOid || CountDBConnections(database) == 0 ? Leave::AtOnce : Leave::InGoodOrder;
}

bool names_this_extension(const DropStmt *statement) {
  if (statement->removeType != OBJECT_EXTENSION) return false;
  ListCell *cell;
  foreach (cell, statement->objects)
    if (strcmp(strVal(lfirst(cell)), "pgtrain") == 0) return true;
  return false;
}

const char *template_of(const CreatedbStmt *statement) {
  ListCell *cell;
  foreach (cell, statement->options) {
    auto *option = lfirst_node(DefElem, cell);
    if (strcmp(option->defname, "template") == 0 && option->arg != nullptr) return defGetString(option);
  }
  return "template1";
}

void before_statement(Node *statement) {
  if (shared() == nullptr || RecoveryInProgress()) return;
  switch (nodeTag(statement)) {
    case T_DropdbStmt: {
      auto *drop = reinterpret_cast<DropdbStmt *>(statement);
      before_drop_or_rename(drop->dbname, leave_for_drop(drop));
      break;
    }
    case T_RenameStmt: {
      auto *rename = reinterpret_cast<RenameStmt *>(statement);
      if (rename->renameType == OBJECT_DATABASE) before_drop_or_rename(rename->subname, Leave::InGoodOrder);
      break;
    }
    case T_AlterDatabaseStmt:
      // SET TABLESPACE wants the database without sessions as well.
      before_drop_or_rename(reinterpret_cast<AlterDatabaseStmt *>(statement)->dbname, Leave::InGoodOrder);
      break;
    case T_CreatedbStmt: before_drop_or_rename(template_of(reinterpret_cast<CreatedbStmt *>(statement)), Leave::InGoodOrder); break;
    case T_DropStmt:
      if (names_this_extension(reinterpret_cast<DropStmt *>(statement)) && superuser()) {
        suspend_until_end(MyDatabaseId, Leave::AtOnce);
        drops_extension = true;
      }
      break;
    default: break;
  }
}

ProcessUtility_hook_type previous_hook = nullptr;

// Server world: no object with a destructor lives here, and errors pass through as they are.
void utility_hook(PlannedStmt *statement, const char *text, bool read_only_tree, ProcessUtilityContext context, ParamListInfo parameters,
                  QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion) {
  before_statement(statement->utilityStmt);
  if (previous_hook != nullptr)
    previous_hook(statement, text, read_only_tree, context, parameters, environment, receiver, completion);
  else
    standard_ProcessUtility(statement, text, read_only_tree, context, parameters, environment, receiver, completion);
}

}  // namespace

void install_utility_hook() {
  previous_hook = ProcessUtility_hook;
  ProcessUtility_hook = utility_hook;
  RegisterXactCallback(on_transaction_end, nullptr);
}

}  // namespace pgtrain::pg::worker
