// SQL doors to identity and rights: who is calling, what may be done, and the predicates of row security with their planner
// support. The predicates run per row or per statement, so they allocate nothing when the caches are warm.
#include "pg/compat.hpp"

extern "C" {
#include "utils/builtins.h"
}

#include <limits>
#include <string>
#include <string_view>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/errors.hpp"
#include "pg/rbac/rbac.hpp"

namespace rbac = pgtrain::pg::rbac;
namespace code = pgtrain::pg::code;
using pgtrain::pg::Error;
using pgtrain::pg::boundary::text_argument;
using rbac::scope_all;

PGTRAIN_FUNCTION(pgtrain_current_user_id) {
  const int64 user = rbac::current_user_id();
  if (user == 0) PG_RETURN_NULL();
  PG_RETURN_INT64(user);
}

// require_user() returns bigint: the caller, or an error.
PGTRAIN_FUNCTION(pgtrain_require_user) { PG_RETURN_INT64(rbac::require_user()); }

PGTRAIN_FUNCTION(pgtrain_has_permission) {
  const std::string_view action = text_argument(fcinfo, 0), entity = text_argument(fcinfo, 1), access = text_argument(fcinfo, 2);
  if (access != "own" && access != "any")
    throw Error(code::InvalidParameter, "access \"" + std::string(access) + "\" is unknown", "", "It is \"own\" or \"any\".");
  const rbac::Reach reach = rbac::caller_reach(action, entity);
  PG_RETURN_BOOL(access == "any" ? reach == rbac::Reach::Any : reach != rbac::Reach::None);
}

// require_permission(action, entity) returns 'own' or 'any', or an error.
PGTRAIN_FUNCTION(pgtrain_require_permission) {
  const rbac::Reach reach = rbac::require_permission(text_argument(fcinfo, 0), text_argument(fcinfo, 1));
  PG_RETURN_TEXT_P(cstring_to_text(reach == rbac::Reach::Any ? "any" : "own"));
}

PGTRAIN_FUNCTION(pgtrain_owner_scope) {
  const int64 user = rbac::current_user_id();
  switch (rbac::caller_reach(text_argument(fcinfo, 0), text_argument(fcinfo, 1))) {
    case rbac::Reach::Any: PG_RETURN_INT64(scope_all);
    case rbac::Reach::Own: PG_RETURN_INT64(user);
    case rbac::Reach::None: break;
  }
  PG_RETURN_NULL();
}

PGTRAIN_FUNCTION(pgtrain_may_access) {
  if (PG_ARGISNULL(1) || PG_ARGISNULL(2)) PG_RETURN_BOOL(false);
  PG_RETURN_BOOL(rbac::may_access(PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0), text_argument(fcinfo, 1), text_argument(fcinfo, 2)));
}

// session_id() returns the row of pgtrain.sessions in force, null for none.
PGTRAIN_FUNCTION(pgtrain_current_session_id) {
  const int64 session = rbac::current_session_id();
  if (session == 0) PG_RETURN_NULL();
  PG_RETURN_INT64(session);
}

// current_api_key_id() returns the row of pgtrain.api_keys in force, null for none.
PGTRAIN_FUNCTION(pgtrain_current_api_key_id) {
  const int64 key = rbac::current_api_key_id();
  if (key == 0) PG_RETURN_NULL();
  PG_RETURN_INT64(key);
}

PGTRAIN_FUNCTION(pgtrain_is_server_administrator) { PG_RETURN_BOOL(rbac::is_server_administrator()); }

// Per row. Plain, because it runs a million times in a scan.
PGTRAIN_LEAF_FUNCTION(pgtrain_in_scope) {
  const int64 scope = PG_GETARG_INT64(1);
  PG_RETURN_BOOL(scope == PG_GETARG_INT64(0) || scope == scope_all);
}

PGTRAIN_LEAF_FUNCTION(pgtrain_scope_low) {
  const int64 scope = PG_GETARG_INT64(0);
  PG_RETURN_INT64(scope == scope_all ? std::numeric_limits<int64>::min() : scope);
}

PGTRAIN_LEAF_FUNCTION(pgtrain_scope_high) {
  const int64 scope = PG_GETARG_INT64(0);
  PG_RETURN_INT64(scope == scope_all ? std::numeric_limits<int64>::max() : scope);
}
