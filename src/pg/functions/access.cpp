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

namespace {

using pgtrain::pg::rbac::scope_all;

std::string not_authenticated_detail() {
  const std::string_view reason = rbac::ended_reason();
  return reason.empty() ? std::string() : "Because " + std::string(reason) + ".";
}

}  // namespace

PGTRAIN_FUNCTION(pgtrain_current_user_id) {
  const int64 user = rbac::current_user_id();
  if (user == 0) PG_RETURN_NULL();
  PG_RETURN_INT64(user);
}

// require_user() returns bigint: the caller, or an error.
PGTRAIN_FUNCTION(pgtrain_require_user) {
  const int64 user = rbac::current_user_id();
  if (user == 0)
    throw Error(code::NotAuthenticated, "nobody is logged in", not_authenticated_detail(),
                "Call pgtrain.login and then pgtrain.authenticate with the session token.");
  PG_RETURN_INT64(user);
}

PGTRAIN_FUNCTION(pgtrain_has_permission) {
  const std::string_view action = text_argument(fcinfo, 0), entity = text_argument(fcinfo, 1), access = text_argument(fcinfo, 2);
  if (access != "own" && access != "any")
    throw Error(code::InvalidParameter, "access \"" + std::string(access) + "\" is unknown", "", "It is \"own\" or \"any\".");
  const rbac::Reach reach = rbac::reach(rbac::current_user_id(), action, entity);
  PG_RETURN_BOOL(access == "any" ? reach == rbac::Reach::Any : reach != rbac::Reach::None);
}

// require_permission(action, entity) returns 'own' or 'any', or an error.
PGTRAIN_FUNCTION(pgtrain_require_permission) {
  const std::string_view action = text_argument(fcinfo, 0), entity = text_argument(fcinfo, 1);
  rbac::Reach reach = rbac::Reach::None;
  const int64 user = rbac::current_user_id();
  if (user != 0)
    reach = rbac::reach(user, action, entity);
  else if (rbac::is_server_administrator())
    reach = rbac::Reach::Any;
  else
    throw Error(code::NotAuthenticated, "nobody is logged in", not_authenticated_detail(),
                "Call pgtrain.login and then pgtrain.authenticate with the session token.");
  if (reach == rbac::Reach::None)
    throw Error(code::PermissionDenied, "permission denied to " + std::string(action) + " " + std::string(entity),
                "None of your active roles grants it.", "pgtrain.role_grants shows which roles do; an administrator can grant one.");
  PG_RETURN_TEXT_P(cstring_to_text(reach == rbac::Reach::Any ? "any" : "own"));
}

PGTRAIN_FUNCTION(pgtrain_owner_scope) {
  const int64 user = rbac::current_user_id();
  switch (rbac::reach(user, text_argument(fcinfo, 0), text_argument(fcinfo, 1))) {
    case rbac::Reach::Any: PG_RETURN_INT64(scope_all);
    case rbac::Reach::Own: PG_RETURN_INT64(user);
    case rbac::Reach::None: break;
  }
  PG_RETURN_NULL();
}

PGTRAIN_FUNCTION(pgtrain_may_access) {
  if (PG_ARGISNULL(1) || PG_ARGISNULL(2)) PG_RETURN_BOOL(false);
  const int64 user = rbac::current_user_id();
  switch (rbac::reach(user, text_argument(fcinfo, 1), text_argument(fcinfo, 2))) {
    case rbac::Reach::Any: PG_RETURN_BOOL(true);
    case rbac::Reach::Own: PG_RETURN_BOOL(!PG_ARGISNULL(0) && PG_GETARG_INT64(0) == user);
    case rbac::Reach::None: break;
  }
  PG_RETURN_BOOL(false);
}

// session_id() returns the row of pgtrain.sessions in force, null for none.
PGTRAIN_FUNCTION(pgtrain_current_session_id) {
  const int64 session = rbac::current_session_id();
  if (session == 0) PG_RETURN_NULL();
  PG_RETURN_INT64(session);
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
