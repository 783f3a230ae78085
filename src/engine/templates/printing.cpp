// How values become text: Python's str() and repr(), json.dumps, and JSON back into values.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/core/utf8.hpp"
#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {
namespace {

std::string hex(char32_t value, int digits) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out(digits, '0');
  for (int at = digits; at-- > 0; value >>= 4) out[at] = kDigits[value & 15];
  return out;
}

// Changes single code points and keeps the marks of the others. change(point, out): false leaves the point as it is.
template <typename Change>
void add_changed(const Text& text, TextBuilder& builder, Budget& budget, Change change) {
  const std::string_view bytes = text.bytes;
  std::size_t kept = 0;
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    const core::CodePoint point = core::decode_utf8(bytes, at);
    out.clear();
    if (change(point.value, out)) {
      budget.step();
      if (kept < at) builder.add(text, kept, at);
      builder.add(out, is_data_at(text, at));
      kept = at + point.bytes;
    }
    at += point.bytes;
  }
  if (kept < bytes.size()) builder.add(text, kept, bytes.size());
}

void add_quoted(const Text& text, TextBuilder& builder, Budget& budget) {
  const bool has_single = text.bytes.find('\'') != std::string::npos, has_double = text.bytes.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  builder.add(std::string_view(&quote, 1));
  add_changed(text, builder, budget, [quote](char32_t point, std::string& out) {
    if (point == '\\' || point == static_cast<unsigned char>(quote)) out = {'\\', static_cast<char>(point)};
    else if (point == '\n') out = "\\n";
    else if (point == '\r') out = "\\r";
    else if (point == '\t') out = "\\t";
    else if (point < 0x20 || point == 0x7F) out = "\\x" + hex(point, 2);
    else if (point < 0x7F || is_printable(point)) return false;
    else out = point < 0x100 ? "\\x" + hex(point, 2) : point < 0x10000 ? "\\u" + hex(point, 4) : "\\U" + hex(point, 8);
    return true;
  });
  builder.add(std::string_view(&quote, 1));
}

// Python's repr().
void add_spelled(const Value& value, TextBuilder& builder, Budget& budget) {
  budget.step();
  const auto add_items = [&](const std::vector<Value>& items) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) builder.add(", ");
      add_spelled(items[i], builder, budget);
    }
  };
  switch (value.kind()) {
    case Kind::Undefined: builder.add("Undefined"); return;
    case Kind::None: builder.add("None"); return;
    case Kind::Boolean: builder.add(value.flag() ? "True" : "False"); return;
    case Kind::Integer: builder.add(std::to_string(value.whole())); return;
    case Kind::LargeInteger: builder.add(value.bytes()); return;
    case Kind::Float: builder.add(real_text(value.number())); return;
    case Kind::Text:
      if (value.as_text().is_markup) unsupported("printing a list of texts marked safe");
      add_quoted(value.as_text(), builder, budget);
      return;
    case Kind::List:
      builder.add("[");
      add_items(value.items());
      builder.add("]");
      return;
    case Kind::Tuple:
      builder.add("(");
      add_items(value.items());
      builder.add(value.items().size() == 1 ? ",)" : ")");
      return;
    case Kind::Mapping: {
      builder.add("{");
      bool is_first = true;
      for (const auto& [key, held] : as_mapping(value).entries) {
        if (!is_first) builder.add(", ");
        is_first = false;
        add_spelled(key, builder, budget);
        builder.add(": ");
        add_spelled(held, builder, budget);
      }
      builder.add("}");
      return;
    }
    case Kind::Sequence: {
      const auto& sequence = static_cast<const Sequence&>(*value.object());
      if (sequence.form == Sequence::Form::Numbers) {
        builder.add("range(" + std::to_string(sequence.start) + ", " + std::to_string(sequence.stop) + (sequence.step == 1 ? "" : ", " + std::to_string(sequence.step)) + ")");
        return;
      }
      if (sequence.form == Sequence::Form::Generator) break;
      builder.add(std::string(sequence.python_name) + "([");
      add_items(sequence.items);
      builder.add("])");
      return;
    }
    default: break;
  }
  unsupported(std::string("printing a value of type ") + python_type(value));
}

class JsonPrinter {
 public:
  JsonPrinter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget), builder_(budget) {}
  Value print(const Value& value) {
    add(value, 0);
    return builder_.value();
  }

 private:
  void add(const Value& value, int level) {
    budget_.step();
    switch (value.kind()) {
      case Kind::None: builder_.add("null"); return;
      case Kind::Boolean: builder_.add(value.flag() ? "true" : "false"); return;
      case Kind::Integer: builder_.add(std::to_string(value.whole())); return;
      case Kind::LargeInteger: builder_.add(value.bytes()); return;
      case Kind::Float: builder_.add(number(value.number())); return;
      case Kind::Text: add_text(value.as_text()); return;
      case Kind::List:
      case Kind::Tuple: add_list(value.items(), level); return;
      case Kind::Mapping: add_mapping(as_mapping(value), level); return;
      default: throw Failure(std::string("a value of type ") + python_type(value) + " has no JSON form");
    }
  }

  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return real_text(value);
  }

  void add_text(const Text& text) {
    builder_.add("\"");
    add_changed(text, builder_, budget_, [this](char32_t point, std::string& out) {
      if (point == '"' || point == '\\') out = {'\\', static_cast<char>(point)};
      else if (point == '\n') out = "\\n";
      else if (point == '\r') out = "\\r";
      else if (point == '\t') out = "\\t";
      else if (point == '\b') out = "\\b";
      else if (point == '\f') out = "\\f";
      else if (point < 0x20) out = "\\u" + hex(point, 4);
      else if (!style_.ascii || point < 0x7F) return false;
      else if (point < 0x10000) out = "\\u" + hex(point, 4);
      else out = "\\u" + hex(0xD800 + ((point - 0x10000) >> 10), 4) + "\\u" + hex(0xDC00 + ((point - 0x10000) & 0x3FF), 4);
      return true;
    });
    builder_.add("\"");
  }

  void start_line(int level) {
    if (!style_.is_indented) return;
    builder_.add("\n");
    for (int i = 0; i < level; ++i) builder_.add(style_.indent);
  }

  void add_list(const std::vector<Value>& items, int level) {
    builder_.add("[");
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) builder_.add(style_.item);
      start_line(level + 1);
      add(items[i], level + 1);
    }
    if (!items.empty()) start_line(level);
    builder_.add("]");
  }

  Text key_text(const Value& key) {
    Text out;
    switch (key.kind()) {
      case Kind::Text: return key.as_text();
      case Kind::None: out.bytes = "null"; break;
      case Kind::Boolean: out.bytes = key.flag() ? "true" : "false"; break;
      case Kind::Integer: out.bytes = std::to_string(key.whole()); break;
      case Kind::Float: out.bytes = number(key.number()); break;
      default: throw Failure(std::string("a key of type ") + python_type(key) + " has no JSON form");
    }
    return out;
  }

  void add_mapping(const Mapping& mapping, int level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : mapping.entries) entries.push_back(&entry);
    if (style_.sorted) {
      budget_.step(entries.size() * 8);
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) { return in_order(a->first, Order::Less, b->first, budget_); });
    }
    builder_.add("{");
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) builder_.add(style_.item);
      start_line(level + 1);
      add_text(key_text(entries[i]->first));
      builder_.add(style_.key);
      add(entries[i]->second, level + 1);
    }
    if (!entries.empty()) start_line(level);
    builder_.add("}");
  }

  const JsonStyle& style_;
  Budget& budget_;
  TextBuilder builder_;
};

Value read_number(core::JsonReader& reader, std::string_view text) {
  const std::size_t skipped = text.find_first_not_of(" \t\r\n", reader.position());
  const double value = reader.read_number();
  const std::string_view written = text.substr(skipped, reader.position() - skipped);
  if (written.find_first_of(".eE") != std::string_view::npos) return Value::real(value);
  std::int64_t whole = 0;
  const auto [end, error] = std::from_chars(written.data(), written.data() + written.size(), whole);
  return error == std::errc() ? Value::integer(whole) : Value::large_integer(std::string(written));
}

// A value costs about 100 bytes of memory for as little as 2 bytes of text.
constexpr std::size_t kMaxValues = 4'000'000;

Value read_value(core::JsonReader& reader, std::string_view text, std::size_t& values) {
  if (++values > kMaxValues) reader.fail("more than " + std::to_string(kMaxValues) + " values");
  using Json = core::JsonReader::Kind;
  switch (reader.peek()) {
    case Json::Object: {
      auto mapping = std::make_shared<Mapping>();
      reader.begin_object();
      std::string key;
      while (reader.next_member(key)) mapping->set(Value::text(key, true), read_value(reader, text, values));
      return make_mapping(std::move(mapping));
    }
    case Json::Array: {
      std::vector<Value> items;
      reader.begin_array();
      while (reader.next_element()) items.push_back(read_value(reader, text, values));
      return Value::list(std::move(items));
    }
    case Json::String: return Value::text(reader.read_string(), true);
    case Json::Number: return read_number(reader, text);
    case Json::True:
    case Json::False: return Value::boolean(reader.read_boolean());
    case Json::Null: reader.read_null(); return Value::none();
    case Json::End: reader.fail("ends in the middle");
  }
  return {};
}

}  // namespace

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto scientific = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string_view written(buffer, scientific.ptr - buffer);
  const std::size_t mark = written.find('e');
  int exponent = 0;
  std::from_chars(written.data() + mark + (written[mark + 1] == '+' ? 2 : 1), written.data() + written.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(written);
  char fixed[64];
  const auto plain = std::to_chars(fixed, fixed + sizeof fixed, value, std::chars_format::fixed);
  std::string out(fixed, plain.ptr);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

Value to_text(const Value& value, Budget& budget) {
  if (value.is_text()) return value;
  if (value.is_undefined()) return Value::text("");
  TextBuilder builder(budget);
  add_spelled(value, builder, budget);
  return builder.value();
}

Value to_json(const Value& value, const JsonStyle& style, Budget& budget) { return JsonPrinter(style, budget).print(value); }

Value from_json(std::string_view text, const std::string& name) {
  try {
    core::JsonReader reader(text, name);
    std::size_t values = 0;
    const Value value = read_value(reader, text, values);
    reader.expect_end();
    return value;
  } catch (const core::Error& error) {
    throw core::Error("data_invalid", error.message, error.detail, "Messages, tools and variables of a chat template are JSON documents.");
  }
}

}  // namespace pgtrain::engine::templates
