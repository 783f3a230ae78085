// What a function demands of its caller, see rbac.hpp.
#include "pg/compat.hpp"

#include <string>

#include "pg/errors.hpp"
#include "pg/rbac/rbac.hpp"

namespace pgtrain::pg::rbac {
namespace {

[[noreturn]] void refuse_nobody() {
  const std::string_view reason = ended_reason();
  throw Error(code::NotAuthenticated, "nobody is logged in", reason.empty() ? std::string() : "Because " + std::string(reason) + ".",
              "Call pgtrain.login and then pgtrain.authenticate with the session token.");
}

}  // namespace

int64_t require_user() {
  const int64_t user = current_user_id();
  if (user == 0) refuse_nobody();
  return user;
}

Reach require_permission(std::string_view action, std::string_view entity) {
  const int64_t user = current_user_id();
  if (user == 0 && is_server_administrator()) return Reach::Any;
  if (user == 0) refuse_nobody();
  const Reach granted = caller_reach(action, entity);
  if (granted == Reach::None)
    throw Error(code::PermissionDenied, "permission denied to " + std::string(action) + " " + std::string(entity),
                "None of your active roles grants it.", "pgtrain.role_grants shows which roles do; an administrator can grant one.");
  return granted;
}

bool may_access(int64_t owner_id, std::string_view action, std::string_view entity) {
  const int64_t user = current_user_id();
  const Reach granted = caller_reach(action, entity);
  return granted == Reach::Any || (granted == Reach::Own && owner_id == user);
}

}  // namespace pgtrain::pg::rbac
