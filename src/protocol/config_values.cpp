// config_values.cpp: see config_values.hpp.
#include "protocol/config_values.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "protocol/message.hpp"

namespace pgtrain::protocol {

std::string show_number(double value) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

bool read_real(std::string_view text, double& value) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size() && std::isfinite(value);
}

bool read_integer(std::string_view text, int64_t& value) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec == std::errc() && result.ptr == text.data() + text.size()) return true;
  double real = 0;
  if (!read_real(text, real) || real != std::floor(real) || std::fabs(real) > 9.007e15) return false;
  value = static_cast<int64_t>(real);
  return true;
}

std::vector<std::string> split(std::string_view text, char mark) {
  std::vector<std::string> names(1);
  for (const char c : text) {
    if (c == mark)
      names.emplace_back();
    else
      names.back().push_back(c);
  }
  return names;
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return text;
}

std::string quote(std::string_view text) {
  constexpr size_t longest = 60;
  std::string shown(text.substr(0, longest));
  if (text.size() > longest) {
    while (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0xc0) == 0x80) shown.pop_back();
    if (!shown.empty() && static_cast<unsigned char>(shown.back()) >= 0xc0) shown.pop_back();
    shown += "…";
  }
  return "\"" + shown + "\"";
}

namespace {

std::string allowed_range(const ConfigField& field) {
  const std::string unit = *field.unit ? std::string(" ") + field.unit : std::string();
  const auto show = [&](double limit) { return field.kind == FieldKind::Real ? show_number(limit) : std::to_string(static_cast<int64_t>(limit)); };
  if (field.maximum >= no_limit) return "at least " + show(field.minimum) + unit;
  return "between " + show(field.minimum) + " and " + show(field.maximum) + unit;
}

}  // namespace

bool canonical_value(const ConfigField& field, const std::string& given, std::string& value, ConfigError& error) {
  double number = 0;
  int64_t integer = 0;
  switch (field.kind) {
    case FieldKind::Choice: {
      const auto names = split(field.choices, '|');
      if (std::find(names.begin(), names.end(), given) != names.end()) {
        value = given;
        return true;
      }
      error = {field.name, std::string(field.name) + " cannot be " + quote(given), "Choose " + list(names) + "."};
      return false;
    }
    case FieldKind::Text:
      if (!is_clean_utf8(given)) {
        error = {field.name, std::string(field.name) + " is not valid UTF-8, or holds a NUL", "Give text in UTF-8."};
        return false;
      }
      if (given.size() <= field.maximum) {
        value = given;
        return true;
      }
      error = {field.name, std::string(field.name) + " is too long: " + std::to_string(given.size()) + " bytes",
               "Give at most " + show_number(field.maximum) + " bytes."};
      return false;
    case FieldKind::Integer:
    case FieldKind::Unsigned64:
      if (!read_integer(given, integer)) {
        error = {field.name, std::string(field.name) + " is not a whole number: " + quote(given),
                 std::string("Give a whole number ") + allowed_range(field) + "."};
        return false;
      }
      number = static_cast<double>(integer);
      value = std::to_string(integer);
      break;
    case FieldKind::Real:
      if (!read_real(given, number)) {
        error = {field.name, std::string(field.name) + " is not a number: " + quote(given),
                 std::string("Give a number ") + allowed_range(field) + "."};
        return false;
      }
      if (number == 0) number = 0;  // -0 is that too, also where 0 stands for a rule
      value = show_number(number);
      break;
  }
  if (number >= field.minimum && (number <= field.maximum || field.maximum >= no_limit)) return true;
  error = {field.name, std::string(field.name) + " is out of range: " + quote(given), "Give a number " + allowed_range(field) + "."};
  return false;
}

}  // namespace pgtrain::protocol
