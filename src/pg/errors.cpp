// The exception of the module and the table of its own SQLSTATE class. Standard library only.
#include "pg/errors.hpp"

#include <array>
#include <cstring>
#include <utility>

namespace pgtrain::pg {

std::span<const ErrorCode> own_codes() {
  static constexpr std::array codes{code::LimitExceeded,      code::NotFound,      code::AppendOnly,
                                    code::InvalidState,       code::InvalidData,   code::AccountLocked,
                                    code::SecondFactorNeeded, code::TrainerFailed, code::Unavailable,
                                    code::TooManyRequests};
  return codes;
}

Error::Error(const ErrorCode &code, std::string message, std::string detail, std::string hint)
    : Error(std::string_view(code.sqlstate), std::move(message), std::move(detail), std::move(hint)) {}

Error::Error(std::string_view sqlstate, std::string message, std::string detail, std::string hint)
    : message_(std::move(message)), detail_(std::move(detail)), hint_(std::move(hint)) {
  // A malformed code would become an arbitrary class in the server, so it is replaced by "internal error".
  const std::string_view state = sqlstate.size() == 5 ? sqlstate : std::string_view(code::Internal.sqlstate);
  std::memcpy(sqlstate_, state.data(), 5);
  sqlstate_[5] = '\0';
}

}  // namespace pgtrain::pg
