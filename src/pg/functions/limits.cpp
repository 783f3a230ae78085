// The hold of a limit, which every submit and every counted call is behind, as two prepared statements instead of the steps of
// plpgsql; what is not there yet, due to start again or full is left to SQL (sql/api/limits.sql). And what the SQL of limits and
// billing reads of the settings: as functions, because a setting read by name could be a session's own invention as long as the
// module is not loaded.
#include "pg/compat.hpp"

extern "C" {
#include "utils/builtins.h"
}

#include <string_view>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/guc.hpp"

namespace {

using namespace pgtrain::pg;
using call::Type;

call::Statement known_statement{"select pgtrain_private.find_resource($1)::text", {Type::Text}};

// First the entry, then the counter: its lock is what others wait for, so it is taken last, and the commit follows.
call::Statement move_statement{
    "update pgtrain.user_usage_limits l set used_value = l.used_value + $3, held_value = l.held_value + $3, updated_at = pg_catalog.now()"
    " where l.user_id = $1 and l.resource_type = $2::pgtrain.resource_type and (l.reset_at is null or l.reset_at > pg_catalog.now())"
    "   and case when l.limit_value = -1 then 9223372036854775807 else l.limit_value end - l.used_value >= $3"
    " returning l.warned_at is null and l.limit_value > 0 and l.used_value >= l.limit_value * l.warn_share",
    {Type::Int8, Type::Text, Type::Int8}};
call::Statement book_statement{
    "insert into pgtrain.usage_entries (user_id, resource_type, kind, amount, run_id) values ($1, $2::pgtrain.resource_type, 'hold', $3, $4)",
    {Type::Int8, Type::Text, Type::Int8, Type::Int8}};
call::Statement warn_statement{"select pgtrain_private.warn_usage($1, $2::pgtrain.resource_type)", {Type::Int8, Type::Text}};
call::Statement anew_statement{"select pgtrain_private.hold_anew($1, $2::pgtrain.resource_type, $3)", {Type::Int8, Type::Text, Type::Int8}};

constexpr int64_t largest_amount = INT64_C(1) << 62;

// Those of pgtrain.resource_type: for any other the SQL function knows what to say.
constexpr std::string_view resources[] = {"training_jobs", "training_tokens", "gpu_seconds",   "provider_tokens", "api_calls",
                                          "concurrent_runs", "instances",     "compute_nodes", "storage_bytes"};

bool is_known(std::string_view name) {
  for (const std::string_view resource : resources)
    if (resource == name) return true;
  return false;
}

}  // namespace

// hold_usage(user_id, resource, amount, run_id) returns void
PGTRAIN_FUNCTION(pgtrain_hold_usage) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) throw Error(code::NullNotAllowed, "hold_usage needs a user and a resource");
  const int64_t user_id = PG_GETARG_INT64(0);
  const std::string_view resource = boundary::text_argument(fcinfo, 1);
  const std::optional<int64_t> run_id = PG_ARGISNULL(3) ? std::nullopt : std::optional<int64_t>(PG_GETARG_INT64(3));
  const call::Spi spi;
  if (!is_known(resource)) known_statement.execute(spi, {resource});
  if (PG_ARGISNULL(2) || PG_GETARG_INT64(2) < 0 || PG_GETARG_INT64(2) > largest_amount)
    throw Error(code::InvalidParameter,
                "cannot hold " + (PG_ARGISNULL(2) ? std::string("null") : std::to_string(PG_GETARG_INT64(2))) + " of " + std::string(resource));
  const int64_t amount = PG_GETARG_INT64(2);
  book_statement.execute(spi, {user_id, resource, amount, run_id});
  const call::Rows moved = move_statement.execute(spi, {user_id, resource, amount});
  if (moved.empty()) anew_statement.execute(spi, {user_id, resource, amount});
  else if (!moved[0].is_null(0) && moved[0].boolean(0)) warn_statement.execute(spi, {user_id, resource});
  PG_RETURN_VOID();
}

PGTRAIN_FUNCTION(pgtrain_limits_time_zone) { PG_RETURN_TEXT_P(cstring_to_text(settings.limits_time_zone)); }

PGTRAIN_FUNCTION(pgtrain_payment_grace) { PG_RETURN_INT32(settings.payment_grace_days); }
