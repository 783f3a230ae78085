// The filters behind `|`.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "engine/templates/builtins.hpp"
#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {
namespace {

using Apply = Value (*)(const Value&, const Arguments&, Budget&);

// The text that jinja2 makes of whatever a filter for texts is applied to.
Text as_plain(const Value& value, const char* filter, Budget& budget) { return plain_text(to_text(value, budget), filter); }

Value trim(const Value& value, const Arguments& arguments, Budget& budget) {
  const Bound bound = bind("trim", arguments, {"chars"}, 0);
  const bool has_characters = bound.given[0] && !bound.values[0].is(Kind::None);
  if (has_characters && !bound.values[0].is_text()) throw Failure("trim takes a text");
  return strip(as_plain(value, "trim", budget), Side::Both, has_characters ? &bound.values[0].bytes() : nullptr, budget);
}

template <Casing casing>
Value change_case(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("the filter", arguments, {}, 0);
  return cased(as_plain(value, "a filter", budget), casing, budget);
}

Value filter_length(const Value& value, const Arguments& arguments, Budget&) {
  bind("length", arguments, {}, 0);
  return Value::integer(static_cast<std::int64_t>(length(value)));
}

Value filter_list(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("list", arguments, {}, 0);
  if (value.is_text()) plain_text(value, "list");
  return Value::list(iterate(value, budget));
}

Value filter_string(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("string", arguments, {}, 0);
  return to_text(value, budget);
}

Value filter_default(const Value& value, const Arguments& arguments, Budget&) {
  const Bound bound = bind("default", arguments, {"default_value", "boolean"}, 0);
  const bool replaces_false = bound.given[1] && is_true(bound.values[1]);
  if (!value.is_undefined() && !(replaces_false && !is_true(value))) return value;
  return bound.given[0] ? bound.values[0] : Value::text("");
}

Value filter_safe(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("safe", arguments, {}, 0);
  TextBuilder builder(budget);
  builder.add(to_text(value, budget).as_text());
  Text text = builder.take();
  text.is_markup = true;
  return Value::text(std::move(text));
}

Value filter_tojson(const Value& value, const Arguments& arguments, Budget& budget) {
  const Bound bound = bind("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonStyle style;
  style.ascii = bound.given[0] && is_true(bound.values[0]);
  style.sorted = bound.given[3] && is_true(bound.values[3]);
  if (bound.given[1] && !bound.values[1].is(Kind::None)) {
    style.is_indented = true;
    style.item = ",";
    if (bound.values[1].is_text()) style.indent = bound.values[1].bytes();
    else if (bound.values[1].is_whole()) style.indent.assign(std::clamp<std::int64_t>(bound.values[1].whole(), 0, 1000), ' ');
    else throw Failure("the indent of tojson is a whole number or a text");
  }
  if (bound.given[2] && !bound.values[2].is(Kind::None)) {
    const Value& pair = bound.values[2];
    if ((!pair.is(Kind::List) && !pair.is(Kind::Tuple)) || pair.items().size() != 2 || !pair.items()[0].is_text() || !pair.items()[1].is_text()) unsupported("tojson with separators that are not two texts");
    style.item = pair.items()[0].bytes(), style.key = pair.items()[1].bytes();
  }
  return to_json(value, style, budget);
}

// "a.b.0" looks up a, then b, then element 0.
class AttributePath {
 public:
  explicit AttributePath(const Value& attribute) {
    if (!attribute.is_text()) {
      parts_.push_back(attribute);
      return;
    }
    const std::string& path = attribute.bytes();
    for (std::size_t begin = 0; begin <= path.size();) {
      const std::size_t end = std::min(path.find('.', begin), path.size());
      const std::string part = path.substr(begin, end - begin);
      std::int64_t index = 0;
      const bool is_index = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; }) && std::from_chars(part.data(), part.data() + part.size(), index).ec == std::errc();
      parts_.push_back(is_index ? Value::integer(index) : Value::text(part));
      begin = end + 1;
    }
  }
  Value get(Value item, const Value& otherwise, Budget& budget) const {
    for (const Value& part : parts_) {
      item = item_of(item, part, budget);
      if (item.is_undefined() && !otherwise.is_undefined() && !otherwise.is(Kind::None)) item = otherwise;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

Value filter_join(const Value& value, const Arguments& arguments, Budget& budget) {
  const Bound bound = bind("join", arguments, {"d", "attribute"}, 0);
  std::vector<Value> items = iterate(value, budget);
  if (bound.given[1] && !bound.values[1].is(Kind::None)) {
    const AttributePath path(bound.values[1]);
    for (Value& item : items) item = path.get(item, Value(), budget);
  }
  for (Value& item : items) item = to_text(item, budget);
  return join(bound.given[0] ? to_text(bound.values[0], budget).as_text() : Text(), items, budget);
}

Value filter_replace(const Value& value, const Arguments& arguments, Budget& budget) {
  const Bound bound = bind("replace", arguments, {"old", "new", "count"}, 2);
  const bool has_count = bound.given[2] && !bound.values[2].is(Kind::None);
  if (has_count && !bound.values[2].is_whole()) throw Failure("the count of replace is a whole number");
  // str() of what is marked safe is a plain text again here.
  return replace(to_text(value, budget).as_text(), to_text(bound.values[0], budget).as_text(), to_text(bound.values[1], budget).as_text(), has_count ? bound.values[2].whole() : -1, budget);
}

Value filter_first(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("first", arguments, {}, 0);
  if (value.is_text() && !value.bytes().empty()) return character(plain_text(value, "first"), 0, budget);
  if (value.is(Kind::Sequence)) {
    const auto& sequence = static_cast<const Sequence&>(*value.object());
    if (sequence.form == Sequence::Form::Generator && sequence.taken < sequence.items.size()) return sequence.items[sequence.taken++];
  }
  const auto items = iterate(value, budget);
  return items.empty() ? Value::undefined("there is no first item, the sequence is empty") : items.front();
}

Value filter_last(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("last", arguments, {}, 0);
  if (value.is_text()) return value.bytes().empty() ? Value::undefined("there is no last item, the sequence is empty") : character(plain_text(value, "last"), -1, budget);
  if (value.is(Kind::Sequence) && static_cast<const Sequence*>(value.object())->form == Sequence::Form::Generator) throw Failure("a generator has no last item");
  const auto items = iterate(value, budget);
  return items.empty() ? Value::undefined("there is no last item, the sequence is empty") : items.back();
}

Value filter_reverse(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("reverse", arguments, {}, 0);
  if (value.is_text()) {
    Slice back;
    back.count = static_cast<std::int64_t>(length(value)), back.start = back.count - 1, back.step = -1;
    return slice(plain_text(value, "reverse"), back, budget);
  }
  auto items = iterate(value, budget);
  std::reverse(items.begin(), items.end());
  return make_generator(std::move(items));
}

Value filter_items(const Value& value, const Arguments& arguments, Budget& budget) {
  bind("items", arguments, {}, 0);
  if (value.is_undefined()) return make_generator({});
  if (!value.is(Kind::Mapping)) throw Failure(std::string("the filter items of a value of type ") + python_type(value));
  std::vector<Value> items;
  budget.bytes(as_mapping(value).entries.size() * 2 * sizeof(Value));
  for (const auto& [key, held] : as_mapping(value).entries) items.push_back(Value::list({key, held}, Kind::Tuple));
  return make_generator(std::move(items));
}

Value filter_map(const Value& value, const Arguments& arguments, Budget& budget) {
  if (!is_true(value)) return make_generator({});
  std::vector<Value> items = iterate(value, budget);
  if (arguments.positional.empty()) {
    const Bound bound = bind("map", arguments, {"attribute", "default"}, 1);
    const AttributePath path(bound.values[0]);
    for (Value& item : items) item = path.get(item, bound.values[1], budget);
    return make_generator(std::move(items));
  }
  const int filter = find_filter(arguments.positional[0].is_text() ? arguments.positional[0].bytes() : "");
  if (filter < 0) unsupported("map of that filter");
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  for (Value& item : items) item = apply_filter(filter, item, rest, budget);
  return make_generator(std::move(items));
}

// Whatever counts as false has nothing to go through, even where it is no list: jinja2 asks that first, here and in map.
Value pick(const Value& value, const Arguments& arguments, bool by_attribute, bool keeps, Budget& budget) {
  if (!is_true(value)) return make_generator({});
  const std::size_t name_at = by_attribute ? 1 : 0;
  if (by_attribute && arguments.positional.empty()) throw Failure("the name of an attribute is missing");
  const AttributePath path(by_attribute ? arguments.positional[0] : Value::text(""));
  const bool has_test = arguments.positional.size() > name_at;
  const int test = has_test && arguments.positional[name_at].is_text() ? find_test(arguments.positional[name_at].bytes()) : -1;
  if (has_test && test < 0) unsupported("choosing by that test");
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + std::min(name_at + 1, rest.positional.size()));
  std::vector<Value> out;
  for (const Value& item : iterate(value, budget)) {
    const Value looked_at = by_attribute ? path.get(item, Value(), budget) : item;
    if ((has_test ? apply_test(test, looked_at, rest, budget) : is_true(looked_at)) == keeps) out.push_back(item);
  }
  return make_generator(std::move(out));
}

template <bool by_attribute, bool keeps>
Value filter_pick(const Value& value, const Arguments& arguments, Budget& budget) {
  return pick(value, arguments, by_attribute, keeps, budget);
}

Value filter_abs(const Value& value, const Arguments& arguments, Budget&) {
  bind("abs", arguments, {}, 0);
  if (value.is(Kind::Float)) return Value::real(std::fabs(value.number()));
  return value.is_whole() && value.whole() >= 0 ? positive(value) : negative(value);
}

// Digits with signs and spaces around them, as Python's int() and float() read them; what they read beyond that is refused.
bool read_real(const Value& value, double& out) {
  if (value.is_whole() || value.is(Kind::Float)) return out = value.number(), true;
  if (!value.is_text()) return false;
  std::string text = value.bytes();
  bool is_odd = false;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && std::string_view("+-0123456789.eE_naifty NAIFTY\t\n\v\f\r\x1c\x1d\x1e\x1f").find(c) == std::string_view::npos) return false;
    is_odd = is_odd || static_cast<unsigned char>(c) >= 0x80 || std::string_view("_naiftyNAIFTY").find(c) != std::string_view::npos;
  }
  if (is_odd) unsupported("reading a number of digits outside of ASCII, with '_' or by a name");
  const auto is_blank = [](char c) { return is_space(static_cast<unsigned char>(c)); };
  while (!text.empty() && is_blank(text.back())) text.pop_back();
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_blank));
  if (!text.empty() && text[0] == '+' && !(text.size() > 1 && text[1] == '-')) text.erase(0, 1);
  if (text.empty() || text.find_first_not_of("+-0123456789.eE") != std::string::npos) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc::result_out_of_range) unsupported("a number that is too large or too small");
  return error == std::errc() && end == text.data() + text.size();
}

bool read_whole(const Value& value, std::int64_t& out) {
  if (value.is_whole()) return out = value.whole(), true;
  if (value.is(Kind::LargeInteger)) unsupported("the filter int of a number of more than 64 bits");
  double real = 0;
  if (!read_real(value, real)) return false;
  if (!std::isfinite(real)) return false;
  if (std::fabs(real) >= 9e15) unsupported("the filter int of a number beyond 9e15");
  return out = static_cast<std::int64_t>(real), true;
}

Value filter_int(const Value& value, const Arguments& arguments, Budget&) {
  const Bound bound = bind("int", arguments, {"default", "base"}, 0);
  if (bound.given[1] && !(bound.values[1].is_whole() && bound.values[1].whole() == 10)) unsupported("the filter int with a base");
  if (value.is_undefined()) throw Failure("int of an undefined value");
  std::int64_t whole = 0;
  if (read_whole(value, whole)) return Value::integer(whole);
  return bound.given[0] ? bound.values[0] : Value::integer(0);
}

Value filter_float(const Value& value, const Arguments& arguments, Budget&) {
  const Bound bound = bind("float", arguments, {"default"}, 0);
  if (value.is_undefined()) throw Failure("float of an undefined value");
  double real = 0;
  if (read_real(value, real)) return Value::real(real);
  return bound.given[0] ? bound.values[0] : Value::real(0);
}

Value filter_indent(const Value& value, const Arguments& arguments, Budget& budget) {
  const Bound bound = bind("indent", arguments, {"width", "first", "blank"}, 0);
  if (!value.is_text()) throw Failure(std::string("indent of a value of type ") + python_type(value));
  Text indention;
  if (!bound.given[0]) indention.bytes = "    ";
  else if (bound.values[0].is_text()) indention = bound.values[0].as_text();
  else if (bound.values[0].is_whole()) indention.bytes.assign(std::clamp<std::int64_t>(bound.values[0].whole(), 0, 10000), ' ');
  else throw Failure("the width of indent is a whole number or a text");
  const bool indents_first = bound.given[1] && is_true(bound.values[1]), indents_blank = bound.given[2] && is_true(bound.values[2]);
  TextBuilder ended(budget);
  ended.add(plain_text(value, "indent"));
  ended.add("\n");
  const Text text = ended.take();
  TextBuilder out(budget);
  bool is_first = true;
  for (const Value& line : split_lines(text, false, budget)) {
    if (!is_first) out.add("\n");
    if (is_first ? indents_first : indents_blank || !line.bytes().empty()) out.add(indention);
    out.add(line.as_text());
    is_first = false;
  }
  return out.value();
}

constexpr std::pair<const char*, Apply> kFilters[] = {
    {"abs", filter_abs}, {"capitalize", change_case<Casing::Capitalized>}, {"count", filter_length}, {"d", filter_default}, {"default", filter_default},
    {"first", filter_first}, {"float", filter_float}, {"indent", filter_indent}, {"int", filter_int}, {"items", filter_items}, {"join", filter_join},
    {"last", filter_last}, {"length", filter_length}, {"list", filter_list}, {"lower", change_case<Casing::Lower>}, {"map", filter_map},
    {"reject", filter_pick<false, false>}, {"rejectattr", filter_pick<true, false>}, {"replace", filter_replace}, {"reverse", filter_reverse}, {"safe", filter_safe},
    {"select", filter_pick<false, true>}, {"selectattr", filter_pick<true, true>}, {"string", filter_string}, {"title", change_case<Casing::TitleFilter>},
    {"tojson", filter_tojson}, {"trim", trim}, {"upper", change_case<Casing::Upper>}};

}  // namespace

int find_filter(const std::string& name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters), [&](const auto& entry) { return name == entry.first; });
  return found == std::end(kFilters) ? -1 : static_cast<int>(found - std::begin(kFilters));
}

Value apply_filter(int filter, const Value& value, const Arguments& arguments, Budget& budget) {
  budget.step(value.is_text() ? 1 + value.bytes().size() / 128 : 1);
  return kFilters[filter].second(value, arguments, budget);
}

}  // namespace pgtrain::engine::templates
