// SQL doors to codes, one-time codes and SSH keys. The statements around them are SQL (sql/api/verifications.sql); here is what must
// not be SQL: random codes, their hashes, the seeds of one-time codes, which are made and opened here and nowhere else, and the
// count of guesses, which a rollback must not undo.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/guard.hpp"
#include "pg/crypto/locked.hpp"
#include "pg/crypto/password.hpp"
#include "pg/crypto/random.hpp"
#include "pg/crypto/seal.hpp"
#include "pg/errors.hpp"
#include "pg/guc.hpp"
#include "pg/pure/ssh_key.hpp"
#include "pg/pure/totp.hpp"
#include "pg/rbac/login_guard.hpp"

namespace rbac = pgtrain::pg::rbac;
namespace call = pgtrain::pg::call;
namespace crypto = pgtrain::pg::crypto;
namespace pure = pgtrain::pg::pure;
namespace code = pgtrain::pg::code;
using pgtrain::pg::Error;
using pgtrain::pg::settings;
using pgtrain::pg::boundary::text_argument;

namespace {

Datum text_result(std::string_view value) {
  return call::guarded([&] { return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size()))); });
}

template <size_t N>
Datum text_array_result(const std::array<std::string, N> &values) {
  return call::guarded([&] {
    Datum elements[N];
    for (size_t i = 0; i < N; ++i)
      elements[i] = PointerGetDatum(cstring_to_text_with_len(values[i].data(), static_cast<int>(values[i].size())));
    return PointerGetDatum(construct_array(elements, static_cast<int>(N), TEXTOID, -1, false, TYPALIGN_INT));
  });
}

crypto::PasswordCost cost() {
  return {static_cast<unsigned long long>(settings.password_passes), static_cast<size_t>(settings.password_memory_kb) * 1024};
}

// Refuses when there were too many attempts under the name; counts this one.
void count_attempt(std::string_view name, int64_t memory_seconds, const pgtrain::pg::ErrorCode &refusal, const char *message) {
  const int64 until = rbac::try_attempt(name, memory_seconds);
  if (until == 0) return;
  const char *text = call::guarded([until] { return static_cast<const char *>(timestamptz_to_str(until)); });
  throw Error(refusal, message, "They are refused until " + std::string(text) + ".", "Wait until then.");
}

pure::TotpForm form_argument(FunctionCallInfo fcinfo, int first) {
  const std::string_view algorithm = text_argument(fcinfo, first), char_set = text_argument(fcinfo, first + 3);
  return pure::totp_form(algorithm, PG_GETARG_INT32(first + 1), PG_GETARG_INT32(first + 2), char_set);
}

constexpr int64 unix_epoch_seconds = (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;

}  // namespace

// count_request(name): for what costs others something, such as messages that are sent to them.
PGTRAIN_FUNCTION(pgtrain_count_request) {
  count_attempt(text_argument(fcinfo, 0), settings.login_lock_max_seconds, code::TooManyRequests, "too many requests of this kind");
  PG_RETURN_VOID();
}

// try_attempt(name): for guesses whose refusal must be no error. False when there were too many; then it is not counted.
PGTRAIN_FUNCTION(pgtrain_try_attempt) { PG_RETURN_BOOL(rbac::try_attempt(text_argument(fcinfo, 0), 0) == 0); }

PGTRAIN_FUNCTION(pgtrain_forget_attempts) {
  rbac::clear_failures(text_argument(fcinfo, 0));
  PG_RETURN_VOID();
}

// verify_secret(name, hash, secret): compares a password or code with its Argon2id string and counts the attempt under the name.
// A null hash costs as much and says no.
PGTRAIN_FUNCTION(pgtrain_verify_secret) {
  const std::string_view name = text_argument(fcinfo, 0);
  const std::string_view hash = PG_ARGISNULL(1) ? std::string_view() : text_argument(fcinfo, 1);
  const std::string_view secret = PG_ARGISNULL(2) ? std::string_view() : text_argument(fcinfo, 2);
  const std::string stored(hash);
  count_attempt(name, 0, code::AccountLocked, "too many wrong passwords or codes");
  bool matches = false;
  {
    rbac::HashTurn turn;
    matches = stored.empty() ? crypto::verify_nothing(secret, cost()) : crypto::verify_password(stored, secret);
  }
  if (matches) rbac::clear_failures(name);
  PG_RETURN_BOOL(matches);
}

// new_code(digits, char_set): evenly distributed random characters.
PGTRAIN_FUNCTION(pgtrain_new_code) {
  const int digits = PG_GETARG_INT32(0);
  const std::string_view char_set = text_argument(fcinfo, 1);
  if (digits < 4 || digits > 64 || char_set.size() < 2 || char_set.size() > 94)
    throw Error(code::InvalidParameter, "a code of this form is not acceptable", "", "Use 4 to 64 places and 2 to 94 characters.");
  return text_result(crypto::random_text(static_cast<size_t>(digits), char_set));
}

// hash_code(code): short codes could be tried out if their plain hash were known, so they cost as much as a password.
PGTRAIN_FUNCTION(pgtrain_hash_code) {
  std::string stored;
  {
    const std::string_view plain = text_argument(fcinfo, 0);
    rbac::HashTurn turn;
    stored = crypto::hash_password(plain, cost());
  }
  return text_result(stored);
}

// new_totp(identity, issuer, account, algorithm, digits, period_seconds, char_set) returns the sealed seed in hexadecimal digits,
// the seed to type and the address to scan: the only time that the seed is told.
PGTRAIN_FUNCTION(pgtrain_new_totp) {
  const std::string_view identity = text_argument(fcinfo, 0), issuer = text_argument(fcinfo, 1), account = text_argument(fcinfo, 2);
  const pure::TotpForm form = form_argument(fcinfo, 3);
  std::array<std::string, 3> answer;
  {
    crypto::LockedBytes seed(crypto::digest_size(form.hash));
    crypto::random_bytes(seed.data(), seed.size());
    answer[0] = crypto::to_hexadecimal(crypto::seal(seed.view(), identity));
    answer[1] = pure::base32(seed.view());
    answer[2] = pure::otpauth_uri(form, seed.view(), issuer, account);
  }
  return text_array_result(answer);
}

// check_totp_form(algorithm, digits, period_seconds, char_set) refuses what no code can be made from.
PGTRAIN_FUNCTION(pgtrain_check_totp_form) {
  form_argument(fcinfo, 0);
  PG_RETURN_VOID();
}

// matching_step(sealed, identity, algorithm, digits, period_seconds, char_set, last_step, code, moment) returns the step whose code
// it is, null for none. Only this number leaves.
PGTRAIN_FUNCTION(pgtrain_matching_step) {
  const std::string_view sealed = text_argument(fcinfo, 0), identity = text_argument(fcinfo, 1), given = text_argument(fcinfo, 7);
  const int64 last_step = PG_GETARG_INT64(6);
  const pure::TotpForm form = form_argument(fcinfo, 2);
  const int64 moment = PG_GETARG_TIMESTAMPTZ(8) / USECS_PER_SEC + unix_epoch_seconds;
  std::optional<int64_t> step;
  {
    const crypto::Opened seed = crypto::open(sealed, identity);
    step = pure::matching_step(form, seed.view(), given, moment, last_step);
  }
  if (!step) PG_RETURN_NULL();
  PG_RETURN_INT64(*step);
}

// parse_ssh_key(key) returns type, line without comment, fingerprint and comment.
PGTRAIN_FUNCTION(pgtrain_parse_ssh_key) {
  const pure::SshKey key = pure::parse_ssh_key(text_argument(fcinfo, 0));
  return text_array_result(std::array<std::string, 4>{key.type, key.line, key.fingerprint, key.comment});
}
