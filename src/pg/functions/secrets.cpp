// SQL doors to secrets: storing one, and looking at sealed bytes. None returns plain text; what is opened here is compared or sealed
// again, and is wiped before the server is called.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
}

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/crypto/key_ring.hpp"
#include "pg/crypto/seal.hpp"
#include "pg/errors.hpp"
#include "pg/guc.hpp"
#include "pg/rbac/hidden_statement.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/secrets/root_keys.hpp"

namespace rbac = pgtrain::pg::rbac;
namespace call = pgtrain::pg::call;
namespace crypto = pgtrain::pg::crypto;
namespace code = pgtrain::pg::code;
namespace secrets = pgtrain::pg::secrets;
using pgtrain::pg::Error;
using pgtrain::pg::boundary::text_argument;

namespace {

Datum text_result(std::string_view value) {
  return call::guarded([&] { return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size()))); });
}

bool is_acceptable_name(std::string_view name) {
  const auto is_letter_or_digit = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 100 && is_letter_or_digit(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '/' || c == '-'; });
}

// Neither is quoted: who mixes up the two arguments must not find his secret in a log.
void check_arguments(std::string_view name, std::string_view value) {
  if (!is_acceptable_name(name))
    throw Error(code::InvalidParameter, "the name of the secret is not acceptable", "",
                "Use 1 to 100 letters, digits, dots, slashes, hyphens and underscores, beginning with a letter or digit.");
  if (value.empty() || value.size() > crypto::plain_bytes_max)
    throw Error(code::InvalidParameter, "the secret has an unacceptable length", "",
                "Use 1 to " + std::to_string(crypto::plain_bytes_max) + " bytes.");
}

}  // namespace

namespace {

// Sealed values count against no limit of a plan, so their number has one of its own. Called when there is one more: the lock makes two
// sessions that store at once see each other, and the count has a snapshot of its own after it.
void check_number(const call::Spi &spi, int64_t owner) {
  static const call::Statement lock{"select from pgtrain.users where id = $1 for no key update", {call::Type::Int8}};
  static const call::Statement count{"select pg_catalog.count(*) from pgtrain.secrets where owner_id = $1", {call::Type::Int8}};
  const int allowed = pgtrain::pg::settings.secrets_per_user;
  if (allowed < 0) return;
  lock.execute(spi, {owner});
  if (count.execute(spi, {owner})[0].int64(0) <= allowed) return;
  throw Error(code::LimitExceeded, "you have " + std::to_string(allowed) + " secrets already",
              "pgtrain.secrets_per_user allows no more.",
              "Delete one that is not needed any more (pgtrain.delete_secret), or store the value under a name that you have.");
}

}  // namespace

// store_secret(name, value)
PGTRAIN_FUNCTION(pgtrain_store_secret) {
  static const call::Statement store{
      "insert into pgtrain.secrets (owner_id, name, sealed) values ($1, $2, $3) "
      "on conflict on constraint secrets_owner_id_name_key do update set sealed = excluded.sealed returning id, xmax = 0",
      {call::Type::Int8, call::Type::Text, call::Type::Bytea}};
  static const call::Statement audit{
      "select pgtrain_private.write_audit('secret_stored', null, pg_catalog.jsonb_build_object('name', $1))", {call::Type::Text}};
  rbac::hide_statement();
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) throw Error(code::NullNotAllowed, "a secret has a name and a value; one of them is null");
  const std::string_view name = text_argument(fcinfo, 0), value = text_argument(fcinfo, 1);
  PreventCommandIfReadOnly("store_secret");
  rbac::require_permission("create", "secrets");
  const int64_t owner = rbac::require_user();
  check_arguments(name, value);
  const std::string sealed = crypto::seal(value, "secrets/sealed/" + std::to_string(owner) + "/" + std::string(name));
  const call::Spi spi;
  const call::Rows stored = store.execute(spi, {owner, name, sealed});
  const int64_t id = stored[0].int64(0);
  if (stored[0].boolean(1)) check_number(spi, owner);
  audit.execute(spi, {name});
  PG_RETURN_INT64(id);
}

PGTRAIN_FUNCTION(pgtrain_sealed_key) {
  std::string id;
  try {
    id = crypto::to_text(crypto::key_of(text_argument(fcinfo, 0)));
  } catch (const Error &) {
    PG_RETURN_NULL();
  }
  return text_result(id);
}

// sealed_problem(sealed, identity)
PGTRAIN_FUNCTION(pgtrain_sealed_problem) {
  const std::string_view sealed = text_argument(fcinfo, 0), identity = text_argument(fcinfo, 1);
  std::string problem;
  try {
    (void)crypto::open(sealed, identity);
  } catch (const Error &error) {
    problem = error.message() + ": " + error.detail();
  }
  if (problem.empty()) PG_RETURN_NULL();
  return text_result(problem);
}

// seal_again(sealed, identity)
PGTRAIN_FUNCTION(pgtrain_seal_again) {
  const std::string sealed = crypto::seal_again(text_argument(fcinfo, 0), text_argument(fcinfo, 1));
  return text_result(sealed);  // bytea and text share their layout
}

PGTRAIN_FUNCTION(pgtrain_root_key_ids) {
  std::vector<std::string> ids;
  try {
    const crypto::KeyRing &ring = crypto::key_ring();
    ids.push_back(crypto::to_text(ring.current_id()));
    for (auto id = ring.ids().rbegin(); id != ring.ids().rend(); ++id)
      if (*id != ring.current_id()) ids.push_back(crypto::to_text(*id));
  } catch (const Error &) {
    ids.clear();  // none, which root_key_problem explains
  }
  return call::guarded([&] {
    auto *texts = static_cast<Datum *>(palloc(sizeof(Datum) * Max(ids.size(), 1)));
    for (size_t i = 0; i < ids.size(); ++i) texts[i] = CStringGetTextDatum(ids[i].c_str());
    return PointerGetDatum(construct_array(texts, static_cast<int>(ids.size()), TEXTOID, -1, false, TYPALIGN_INT));
  });
}

PGTRAIN_FUNCTION(pgtrain_root_key_problem) {
  std::string problem = secrets::root_key_problem();
  if (problem.empty()) {
    try {
      (void)crypto::key_ring();
    } catch (const Error &error) {
      problem = error.detail() + " " + error.hint();
    }
  }
  if (problem.empty()) PG_RETURN_NULL();
  return text_result(problem);
}
