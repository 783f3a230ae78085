// The one exception of the engine: what went wrong (code), where and why (message, detail), and what to do (hint).
//
// Codes: config_invalid, data_invalid, out_of_memory, device_fault, non_finite_loss, model_invalid, io_error. The trainer
// passes the four fields on as they are.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace pgtrain::engine::core {

class Error : public std::runtime_error {
 public:
  Error(std::string error_code, const std::string& error_message, std::string error_detail = "", std::string error_hint = "")
      : std::runtime_error(error_message),
        code(std::move(error_code)),
        message(error_message),
        detail(std::move(error_detail)),
        hint(std::move(error_hint)) {}

  std::string code, message, detail, hint;
};

}  // namespace pgtrain::engine::core
