// The table of everything that a run's configuration may hold, for pgtrain.config_fields(): one line a field, columns
// parted by tabs, so that SQL takes it apart without a second list of the fields. Called by sql/api/config_fields.sql.
#include "pg/compat.hpp"

extern "C" {
#include "utils/builtins.h"
}

#include <charconv>
#include <string>

#include "pg/boundary/function.hpp"
#include "pg/call/guard.hpp"
#include "protocol/run_config.hpp"

namespace call = pgtrain::pg::call;
using namespace pgtrain::protocol;

namespace {

const char *kind_name(FieldKind kind) {
  switch (kind) {
    case FieldKind::Integer:
    case FieldKind::Unsigned64: return "integer";
    case FieldKind::Real: return "real";
    case FieldKind::Choice: return "choice";
    case FieldKind::Text: return "text";
  }
  return "";
}

// Past this a bound is only that of the type and tells a user nothing.
constexpr double unbounded = 9.2e18;

std::string number(double value) {
  if (value >= unbounded || value <= -unbounded) return {};
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  return {digits, end.ptr};
}

std::string lines() {
  std::string text;
  for (const ConfigField &field : config_fields()) {
    const bool has_range = field.kind != FieldKind::Choice;
    if (!text.empty()) text += '\n';
    for (const std::string &column :
         {std::string(field.name), std::string(kind_name(field.kind)), std::string(field.default_value), std::string(field.default_rule),
          has_range ? number(field.minimum) : "", has_range ? number(field.maximum) : "", std::string(field.choices),
          std::string(field.unit), std::string(field.description)}) {
      text += column;
      text += '\t';
    }
  }
  return text;
}

}  // namespace

PGTRAIN_FUNCTION(pgtrain_config_field_lines) {
  const std::string text = lines();
  return call::guarded([&] { return PointerGetDatum(cstring_to_text_with_len(text.data(), static_cast<int>(text.size()))); });
}
