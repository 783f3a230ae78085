// The rights cache: for each user met in this process, and each API key, the set of (entity, action) with its reach, kept until the
// generation moves or the first role assignment that counted runs out. Roles that are inactive or expired give nothing; a key
// gives what its scopes name of what its user may do.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

#include "pg/call/spi.hpp"
#include "pg/rbac/generation.hpp"
#include "pg/rbac/rbac.hpp"

namespace pgtrain::pg::rbac {
namespace {

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

struct Rights {
  uint64_t generation = 0;
  int64_t valid_until = 0;  // server timestamp
  std::unordered_map<std::string, Reach, TextHash, std::equal_to<>> reach_of;  // by Name
};

using Holder = std::pair<int64_t, int64_t>;  // user, API key or 0

constexpr size_t max_cached_holders = 512;
std::map<Holder, Rights> cache;
// Whom the last question was about: most are about the same.
Holder last_holder{};
Rights *last_rights = nullptr;

// Entity, a zero byte, action: without memory of its own, since it is asked for each of a million rows.
class Name {
 public:
  Name(std::string_view action, std::string_view entity) : size_(entity.size() + 1 + action.size()) {
    if (size_ > text_.size()) {
      size_ = 0;  // longer than any permission: nobody has it
      return;
    }
    std::memcpy(text_.data(), entity.data(), entity.size());
    text_[entity.size()] = '\0';
    std::memcpy(text_.data() + entity.size() + 1, action.data(), action.size());
  }
  std::string_view text() const { return {text_.data(), size_}; }

 private:
  std::array<char, 160> text_;
  size_t size_;
};

void read_user(Rights &rights, const call::Spi &spi, int64_t user_id) {
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
  for (const call::Row &row : read.execute(spi, {user_id})) {
    Reach &reach = rights.reach_of[std::string(Name(row.text(1), row.text(0)).text())];
    reach = std::max(reach, row.boolean(2) ? Reach::Any : Reach::Own);
    if (const auto expires = row.optional_int64(3)) rights.valid_until = std::min(rights.valid_until, *expires);
  }
}

// Cuts the rights down to the scopes of a key (action:entity for own rows, action:entity:any); a key without scopes has them all.
void apply_scopes(Rights &rights, const call::Spi &spi, int64_t api_key_id) {
  static const call::Statement read{
      "select pg_catalog.cardinality(k.scopes) = 0, pg_catalog.split_part(s, ':', 1), pg_catalog.split_part(s, ':', 2), "
      "pg_catalog.split_part(s, ':', 3) = 'any' "
      "from pgtrain.api_keys k left join lateral pg_catalog.unnest(k.scopes) s on true where k.id = $1",
      {call::Type::Int8},
      call::Access::ReadOnly};
  decltype(rights.reach_of) within;
  for (const call::Row &row : read.execute(spi, {api_key_id})) {
    if (row.boolean(0)) return;
    const std::string name(Name(row.text(1), row.text(2)).text());
    const auto has = rights.reach_of.find(name);
    if (has == rights.reach_of.end()) continue;
    Reach &reach = within[name];
    reach = std::max(reach, std::min(has->second, row.boolean(3) ? Reach::Any : Reach::Own));
  }
  rights.reach_of = std::move(within);
}

Rights read_rights(Holder holder, uint64_t at_generation) {
  Rights rights;
  rights.generation = at_generation;
  rights.valid_until = DT_NOEND;
  as_owner([&] {
    call::Spi spi;
    read_user(rights, spi, holder.first);
    if (holder.second != 0) apply_scopes(rights, spi, holder.second);
  });
  return rights;
}

bool is_current(const Rights &rights, uint64_t now_generation) {
  return rights.generation == now_generation && (rights.valid_until == DT_NOEND || rights.valid_until > current_time());
}

const Rights &rights_of(Holder holder) {
  const uint64_t now_generation = current_generation();
  if (last_rights != nullptr && last_holder == holder && is_current(*last_rights, now_generation)) return *last_rights;
  auto found = cache.find(holder);
  if (found == cache.end() || !is_current(found->second, now_generation)) {
    Rights rights = read_rights(holder, now_generation);
    if (cache.size() >= max_cached_holders) cache.clear();
    found = cache.insert_or_assign(holder, std::move(rights)).first;
  }
  last_holder = holder;
  last_rights = &found->second;
  return found->second;
}

}  // namespace

Reach reach(int64_t user_id, int64_t api_key_id, std::string_view action, std::string_view entity) {
  if (user_id == 0) return Reach::None;
  const Rights &rights = rights_of({user_id, api_key_id});
  const auto right = rights.reach_of.find(Name(action, entity).text());
  return right == rights.reach_of.end() ? Reach::None : right->second;
}

}  // namespace pgtrain::pg::rbac
