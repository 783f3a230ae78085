// The errors of the module: our own SQLSTATE class "PT" and the exception that carries one.
// Standard library only, so that pure code may throw them. The boundary turns them into server errors with all four
// fields kept. SQL functions raise the same codes by `errcode`. The list here is the list in docs/errors.md.
#pragma once

#include <exception>
#include <span>
#include <string>
#include <string_view>

namespace pgtrain::pg {

// The last three characters follow the HTTP status of the same meaning, so that gateways such as PostgREST answer with it.
struct ErrorCode {
  const char *sqlstate;  // five characters
  const char *name;      // the name used in docs and tests
  const char *meaning;
};

namespace code {
// Codes of the server that we use for what they already mean.
inline constexpr ErrorCode NotAuthenticated{"28000", "not_authenticated", "nobody is logged in, or the token is not valid"};
inline constexpr ErrorCode PermissionDenied{"42501", "permission_denied", "the caller lacks the right to do this"};
inline constexpr ErrorCode InvalidParameter{"22023", "invalid_parameter", "an argument is outside of what is allowed"};
inline constexpr ErrorCode NullNotAllowed{"22004", "null_not_allowed", "an argument or a value may not be null"};
inline constexpr ErrorCode ReadOnly{"25006", "read_only", "the statement would write where only reading is allowed"};
inline constexpr ErrorCode NotPreloaded{"55000", "not_preloaded", "needs pgtrain in shared_preload_libraries"};
inline constexpr ErrorCode Internal{"XX000", "internal", "a defect of pgtrain"};
inline constexpr ErrorCode OutOfMemory{"53200", "out_of_memory", "no memory left"};
// Our own class.
inline constexpr ErrorCode LimitExceeded{"PT402", "limit_exceeded", "the action would pass a usage limit of the user"};
inline constexpr ErrorCode NotFound{"PT404", "not_found", "no such thing, or not visible to the caller"};
inline constexpr ErrorCode InvalidState{"PT409", "invalid_state", "the thing exists but its state does not allow this"};
inline constexpr ErrorCode InvalidData{"PT422", "invalid_data", "a dataset, sample, config or file is not acceptable"};
inline constexpr ErrorCode AccountLocked{"PT423", "account_locked", "too many failed logins; wait until the time given"};
inline constexpr ErrorCode TooManyRequests{"PT429", "too_many_requests", "the same was asked for too often; wait until the time given"};
inline constexpr ErrorCode AppendOnly{"PT405", "append_only", "rows of this table are never changed or removed"};
inline constexpr ErrorCode SecondFactorNeeded{"PT428", "second_factor_needed", "the password was right; a one-time code is needed too"};
inline constexpr ErrorCode TrainerFailed{"PT500", "trainer_failed", "the trainer program ended without a result"};
inline constexpr ErrorCode Unavailable{"PT503", "unavailable", "nothing is there now that could do this"};
}  // namespace code

// Codes of the class PT, for checks and documentation.
std::span<const ErrorCode> own_codes();

// An error on its way to the caller. `detail` says what was found, `hint` what to do.
class Error : public std::exception {
 public:
  Error(const ErrorCode &code, std::string message, std::string detail = {}, std::string hint = {});
  Error(std::string_view sqlstate, std::string message, std::string detail = {}, std::string hint = {});

  const char *what() const noexcept override { return message_.c_str(); }
  const char *sqlstate() const noexcept { return sqlstate_; }
  const std::string &message() const noexcept { return message_; }
  const std::string &detail() const noexcept { return detail_; }
  const std::string &hint() const noexcept { return hint_; }

 private:
  char sqlstate_[6];
  std::string message_;
  std::string detail_;
  std::string hint_;
};

}  // namespace pgtrain::pg
