// config_values.hpp: single values of the run configuration: reading, checking and spelling. Used by run_config.cpp only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/run_config.hpp"

namespace pgtrain::protocol {

inline constexpr double no_limit = 9.2e18;

bool read_real(std::string_view text, double& value);
/// Also takes 1e3 and 1000.0, since JSON does not tell them from 1000.
bool read_integer(std::string_view text, int64_t& value);
/// Shortest text that reads back the same.
std::string show_number(double value);

/// The parts of a text between marks; at least one.
std::vector<std::string> split(std::string_view text, char mark);
/// "a, b or c"
std::string list(const std::vector<std::string>& names);
/// In quotes, cut where it is long.
std::string quote(std::string_view text);

/// Turns a given value into its canonical text. False: `error` says what is allowed.
bool canonical_value(const ConfigField& field, const std::string& given, std::string& value, ConfigError& error);

}  // namespace pgtrain::protocol
