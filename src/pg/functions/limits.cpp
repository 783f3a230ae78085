// The use of a limit: its entry and its counter, written without a plan, because many sessions may wait for one counter and each
// holds it until it commits; what is not there yet, due to start again or full is left to SQL (sql/api/limits.sql). And what the SQL
// of limits and billing reads of the settings: as functions, because a setting read by name could be a session's own invention as
// long as the module is not loaded.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
}

#include <sched.h>

#include <optional>
#include <string>
#include <string_view>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/hot_table.hpp"
#include "pg/call/spi.hpp"
#include "pg/guc.hpp"

namespace {

using namespace pgtrain::pg;
using call::Type;

call::Statement known_statement{"select pgtrain_private.find_resource($1)::text", {Type::Text}};

call::Statement warn_statement{"select pgtrain_private.warn_usage($1, $2::pgtrain.resource_type)", {Type::Int8, Type::Text}};
call::Statement anew_statement{"select pgtrain_private.use_anew($1, $2::pgtrain.resource_type, $3, $4)", {Type::Int8, Type::Text, Type::Int8, Type::Bool}};

constexpr int64_t largest_amount = INT64_C(1) << 62;

namespace counters {
enum { user_id, resource_type, limit_value, used_value, held_value, reset_at, warn_share, warned_at, updated_at };
call::HotTable table{"pgtrain",
                     "user_usage_limits",
                     {"user_id", "resource_type", "limit_value", "used_value", "held_value", "reset_at", "warn_share", "warned_at", "updated_at"},
                     {"user_usage_limits_user_id_resource_type_key"},
                     1};
}  // namespace counters

namespace entries {
enum { id, user_id, resource_type, kind, amount, run_id, created_at };
call::HotTable table{"pgtrain",
                     "usage_entries",
                     {"id", "user_id", "resource_type", "kind", "amount", "run_id", "created_at"},
                     {"usage_entries_run_id_idx"},
                     0};
}  // namespace entries

// Those of pgtrain.resource_type: for any other the SQL function knows what to say.
constexpr std::string_view resources[] = {"training_jobs", "training_tokens", "gpu_seconds",   "provider_tokens", "api_calls",
                                          "concurrent_runs", "instances",     "compute_nodes", "storage_bytes"};

bool is_known(std::string_view name) {
  for (const std::string_view resource : resources)
    if (resource == name) return true;
  return false;
}

struct Use {
  int64_t user_id, amount;
  bool is_held;  // until it is charged or released; else it is charged at once
  const char *resource;
  std::optional<int64_t> run_id;
};

enum class Moved { No, Yes, NearLimit };

void enter(const Use &use) {
  call::OpenTable table(entries::table);
  const bool is_written =
      table.insert({{entries::id, table.next_identity()},
                    {entries::user_id, Int64GetDatum(use.user_id)},
                    {entries::resource_type, table.label(entries::resource_type, use.resource)},
                    {entries::kind, table.label(entries::kind, use.is_held ? "hold" : "charge")},
                    {entries::amount, Int64GetDatum(use.amount)},
                    {entries::run_id, Int64GetDatum(use.run_id.value_or(0)), !use.run_id},
                    {entries::created_at, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp())}});
  if (!is_written) table.refuse("written");
  table.close();
}

// How a session waits for a counter that another holds until it commits. To hand a lock from sleeper to sleeper costs several switches
// for each hold, and each commit would wake all who wait for it; a running session that finds the counter free costs none. So first it
// looks again a few times, then naps, in all for some milliseconds, and only then waits in earnest: in a line, whose first waits for the
// transaction and the others for him. Nobody who holds the counter waits here. The lock is none of SQL's advisory locks, so nobody
// else can take it; an error releases it.
class Waiting {
 public:
  Waiting(int64_t user_id, Oid resource) { SET_LOCKTAG_ADVISORY(tag_, MyDatabaseId, static_cast<uint32>(user_id), resource, 0x7067); }
  void wait(TransactionId holder) {
    for (int i = 0; i < 4; ++i) {
      sched_yield();
      if (!TransactionIdIsInProgress(holder)) return;
    }
    if (naps_ < 8) {
      ++naps_;
      pg_usleep(1000);
      CHECK_FOR_INTERRUPTS();
    } else if (!is_first_) {
      LockAcquire(&tag_, ExclusiveLock, false, false);
      is_first_ = true;
    } else {
      XactLockTableWait(holder, nullptr, nullptr, XLTW_None);
    }
  }
  void end() {
    if (is_first_) LockRelease(&tag_, ExclusiveLock, false);
  }

 private:
  LOCKTAG tag_;
  int naps_ = 0;
  bool is_first_ = false;
};

Moved move_row(call::OpenTable &table, const Use &use, bool *is_done) {
  using namespace counters;
  const int64_t limit = table.integer(limit_value), room = (limit == -1 ? PG_INT64_MAX : limit) - table.integer(used_value);
  if (!table.is_null(reset_at) && DatumGetTimestampTz(table.value(reset_at)) <= GetCurrentTransactionStartTimestamp()) return Moved::No;
  if (room < use.amount) return Moved::No;
  const int64_t used = table.integer(used_value) + use.amount;
  *is_done = table.update({{used_value, Int64GetDatum(used)},
                           {held_value, Int64GetDatum(table.integer(held_value) + (use.is_held ? use.amount : 0))},
                           {updated_at, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp())}}) == call::Change::Done;
  const bool is_near = table.is_null(warned_at) && limit > 0 && !table.is_null(warn_share) &&
                       static_cast<double>(used) >= static_cast<double>(limit) * DatumGetFloat8(table.value(warn_share));
  return is_near ? Moved::NearLimit : Moved::Yes;
}

Moved move_counter(const Use &use) {
  call::OpenTable table(counters::table);
  const Datum resource = table.label(counters::resource_type, use.resource);
  ScanKeyData keys[] = {call::scan_key(1, F_INT8EQ, Int64GetDatum(use.user_id)), call::scan_key(2, F_ENUM_EQ, resource)};
  Waiting waiting(use.user_id, DatumGetObjectId(resource));
  Moved moved = Moved::No;
  for (bool is_done = false; !is_done;) {
    call::push_new_snapshot();
    is_done = !table.find(0, keys, 2);
    const TransactionId holder = is_done ? InvalidTransactionId : table.holder();
    if (!is_done && !TransactionIdIsValid(holder)) {
      is_done = true;
      moved = move_row(table, use, &is_done);
    }
    PopActiveSnapshot();
    if (TransactionIdIsValid(holder)) waiting.wait(holder);
  }
  waiting.end();
  table.close();
  CommandCounterIncrement();
  return moved;
}

// (user_id, resource, amount, run_id)
void use_resource(FunctionCallInfo fcinfo, bool is_held) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) throw Error(code::NullNotAllowed, "a use needs a user and a resource");
  const int64_t user_id = PG_GETARG_INT64(0);
  const std::string_view resource = boundary::text_argument(fcinfo, 1);
  const std::optional<int64_t> run_id = PG_ARGISNULL(3) ? std::nullopt : std::optional<int64_t>(PG_GETARG_INT64(3));
  const call::Spi spi;
  if (!is_known(resource)) known_statement.execute(spi, {resource});
  if (PG_ARGISNULL(2) || PG_GETARG_INT64(2) < 0 || PG_GETARG_INT64(2) > largest_amount)
    throw Error(code::InvalidParameter,
                std::string(is_held ? "cannot hold " : "cannot charge ") + (PG_ARGISNULL(2) ? std::string("null") : std::to_string(PG_GETARG_INT64(2))) + " of " + std::string(resource));
  const int64_t amount = PG_GETARG_INT64(2);
  const std::string name(resource);
  const Use use{user_id, amount, is_held, name.c_str(), run_id};
  // First the entry, then the counter: its lock is what others wait for, so it is taken last, and the commit follows.
  const Moved moved = call::guarded([&use] {
    enter(use);
    return move_counter(use);
  });
  if (moved == Moved::No) anew_statement.execute(spi, {user_id, resource, amount, is_held});
  else if (moved == Moved::NearLimit) warn_statement.execute(spi, {user_id, resource});
}

}  // namespace

PGTRAIN_FUNCTION(pgtrain_hold_usage) {
  use_resource(fcinfo, true);
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_take_usage) {
  use_resource(fcinfo, false);
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_limits_time_zone) { PG_RETURN_TEXT_P(cstring_to_text(settings.limits_time_zone)); }

PGTRAIN_FUNCTION(pgtrain_payment_grace) { PG_RETURN_INT32(settings.payment_grace_days); }
