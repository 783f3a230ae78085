// The rights cache: for each user met in this process the set of (entity, action) with its reach, kept until the generation
// moves or the first role assignment that counted runs out. Roles that are inactive or expired give nothing.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>

#include "pg/call/spi.hpp"
#include "pg/rbac/generation.hpp"
#include "pg/rbac/rbac.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct Rights {
  uint64_t generation = 0;
  int64_t valid_until = 0;  // server timestamp
  std::map<std::string, Reach, std::less<>> reach_of;  // key: entity, a zero byte, action
};

constexpr size_t max_cached_users = 512;
std::unordered_map<int64_t, Rights> cache;

std::string key_of(std::string_view action, std::string_view entity) {
  std::string key;
  key.reserve(action.size() + entity.size() + 1);
  key.append(entity).push_back('\0');
  key.append(action);
  return key;
}

Rights read_rights(int64_t user_id, uint64_t at_generation) {
  static const call::Statement read{
      "select p.entity, p.action, p.access = 'any', ur.expires_at "
      "from pgtrain.user_roles ur "
      "join pgtrain.users u on u.id = ur.user_id "
      "join pgtrain.role_permissions rp on rp.role_id = ur.role_id "
      "join pgtrain.permissions p on p.id = rp.permission_id "
      "where ur.user_id = $1 and u.is_active and ur.is_active and rp.is_granted "
      "and (ur.expires_at is null or ur.expires_at > pg_catalog.clock_timestamp())",
      {call::Type::Int8},
      call::Access::ReadOnly};
  Rights rights;
  rights.generation = at_generation;
  rights.valid_until = DT_NOEND;
  as_owner([&] {
    call::Spi spi;
    for (const call::Row &row : read.execute(spi, {user_id})) {
      Reach &reach = rights.reach_of[key_of(row.text(1), row.text(0))];
      if (row.boolean(2))
        reach = Reach::Any;
      else if (reach == Reach::None)
        reach = Reach::Own;
      if (const auto expires = row.optional_int64(3)) rights.valid_until = std::min(rights.valid_until, *expires);
    }
  });
  return rights;
}

}  // namespace

Reach reach(int64_t user_id, std::string_view action, std::string_view entity) {
  if (user_id == 0) return Reach::None;
  const uint64_t now_generation = current_generation();
  auto found = cache.find(user_id);
  if (found == cache.end() || found->second.generation != now_generation ||
      found->second.valid_until <= current_time()) {
    if (cache.size() >= max_cached_users) cache.clear();
    found = cache.insert_or_assign(user_id, read_rights(user_id, now_generation)).first;
  }
  const auto right = found->second.reach_of.find(key_of(action, entity));
  return right == found->second.reach_of.end() ? Reach::None : right->second;
}

}  // namespace pgtrain::pg::rbac
