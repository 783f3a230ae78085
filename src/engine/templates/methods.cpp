// Attributes, items and the methods of texts and mappings, found as jinja2's sandbox finds them on Python's objects.
#include <algorithm>
#include <iterator>

#include "engine/templates/builtins.hpp"
#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {
namespace {

// Methods that may be called. The others that Python's objects have are known by name below, because in Python they hide a
// mapping's entry of the same name.
constexpr const char* kTextMethods[] = {"capitalize", "count", "endswith", "find", "join", "lower", "lstrip", "replace", "rfind", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"};
constexpr const char* kMappingMethods[] = {"get", "items", "keys", "values"};
constexpr const char* kListMethods[] = {"count", "index"};

constexpr const char* kTextAttributes[] = {"casefold", "center", "encode", "expandtabs", "format", "format_map", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "ljust", "maketrans", "partition", "removeprefix", "removesuffix", "rindex", "rjust", "rpartition", "swapcase", "translate", "zfill"};
constexpr const char* kMappingAttributes[] = {"clear", "copy", "fromkeys", "pop", "popitem", "setdefault", "update"};
constexpr const char* kListAttributes[] = {"append", "clear", "copy", "extend", "insert", "pop", "remove", "reverse", "sort"};
constexpr const char* kNumberAttributes[] = {"as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator", "from_bytes", "fromhex", "hex", "imag", "is_integer", "numerator", "real", "to_bytes"};

template <std::size_t N>
bool is_in(const char* const (&names)[N], const std::string& name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// The attribute of Python's own object, if it has one of this name.
bool has_python_attribute(const Value& value, const std::string& name, bool& is_callable_here) {
  is_callable_here = false;
  switch (value.kind()) {
    case Kind::Text: return (is_callable_here = is_in(kTextMethods, name)) || is_in(kTextAttributes, name);
    case Kind::Mapping: return (is_callable_here = is_in(kMappingMethods, name)) || is_in(kMappingAttributes, name);
    case Kind::List: return (is_callable_here = is_in(kListMethods, name)) || is_in(kListAttributes, name);
    case Kind::Tuple: return (is_callable_here = is_in(kListMethods, name));
    case Kind::Boolean:
    case Kind::Integer:
    case Kind::LargeInteger:
    case Kind::Float: return is_in(kNumberAttributes, name);
    case Kind::Sequence:
    case Kind::Method:
    case Kind::Macro:
    case Kind::Function: unsupported(std::string("an attribute of a value of type ") + python_type(value));
    default: return false;
  }
}

bool find_python_attribute(const Value& value, const std::string& name, Value& out) {
  if (name.starts_with("__")) unsupported("the attribute '" + name + "'");
  if (value.is(Kind::Namespace)) {
    const auto& attributes = static_cast<const Namespace&>(*value.object()).attributes;
    const auto found = attributes.find(name);
    if (found == attributes.end()) return false;
    if (name.starts_with("_")) unsupported("the attribute '" + name + "'");
    out = found->second;
    return true;
  }
  bool is_callable_here = false;
  if (!has_python_attribute(value, name, is_callable_here)) return false;
  if (!is_callable_here) unsupported(std::string("the attribute '") + name + "' of a value of type " + python_type(value));
  auto method = std::make_shared<Method>();
  method->self = value;
  method->name = name;
  method->nesting = value.nesting() + 1;
  if (method->nesting > kMaxNesting) throw Failure("values lie in each other too deep");
  out = Value(Kind::Method, std::move(method));
  return true;
}

[[noreturn]] void fail_undefined(const Value& value) { throw Failure(value.object() != nullptr ? value.bytes() : "a value is undefined"); }

Value missing(const Value& value, const std::string& name) { return Value::undefined(std::string("a value of type ") + python_type(value) + " has no '" + name + "'"); }

Value view(const Mapping& mapping, const char* python_name, Budget& budget) {
  Sequence out;
  out.python_name = python_name;
  budget.bytes(mapping.entries.size() * 2 * sizeof(Value));
  const bool has_keys = python_name[5] != 'v', has_values = python_name[5] != 'k';
  for (const auto& [key, value] : mapping.entries) out.items.push_back(has_keys && has_values ? Value::list({key, value}, Kind::Tuple) : has_keys ? key : value);
  return make_sequence(std::move(out));
}

std::int64_t whole_argument(const Bound& bound, std::size_t at, std::int64_t otherwise) {
  if (!bound.given[at]) return otherwise;
  if (!bound.values[at].is_whole()) throw Failure(std::string("a whole number expected, not ") + python_type(bound.values[at]));
  return bound.values[at].whole();
}

const Text& text_argument(const Bound& bound, std::size_t at) {
  if (!bound.values[at].is_text()) throw Failure(std::string("a text expected, not ") + python_type(bound.values[at]));
  return bound.values[at].as_text();
}

// Where Python takes None for "not given".
const Text* optional_text(const Bound& bound, std::size_t at) { return bound.given[at] && !bound.values[at].is(Kind::None) ? &text_argument(bound, at) : nullptr; }

void no_keywords(const Method& method, const Arguments& arguments) {
  if (!arguments.keywords.empty()) throw Failure("." + method.name + "() takes no arguments by name");
}

bool begins_or_ends(const std::string& text, const Value& wanted, bool begins) {
  if (wanted.is_text()) return begins ? text.starts_with(wanted.bytes()) : text.ends_with(wanted.bytes());
  if (!wanted.is(Kind::Tuple)) throw Failure(std::string("a text or a tuple of texts expected, not ") + python_type(wanted));
  for (const Value& one : wanted.items()) {
    if (!one.is_text()) throw Failure(std::string("a text expected, not ") + python_type(one));
    if (begins ? text.starts_with(one.bytes()) : text.ends_with(one.bytes())) return true;
  }
  return false;
}

Value call_text_method(const Method& method, const Arguments& arguments, Budget& budget) {
  const std::string& name = method.name;
  const Text& text = plain_text(method.self, "a method");
  budget.step(text.bytes.size() / 64);
  if (name == "split" || name == "rsplit") {
    const Bound bound = bind(name, arguments, {"sep", "maxsplit"}, 0);
    const std::int64_t limit = whole_argument(bound, 1, -1);
    return Value::list(name == "split" ? split(text, optional_text(bound, 0), limit, budget) : split_from_right(text, optional_text(bound, 0), limit, budget));
  }
  if (name == "splitlines") {
    const Bound bound = bind(name, arguments, {"keepends"}, 0);
    return Value::list(split_lines(text, bound.given[0] && is_true(bound.values[0]), budget));
  }
  no_keywords(method, arguments);
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Bound bound = bind(name, arguments, {"chars"}, 0);
    const Text* characters = optional_text(bound, 0);
    return strip(text, name == "strip" ? Side::Both : name == "lstrip" ? Side::Left : Side::Right, characters ? &characters->bytes : nullptr, budget);
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    bind(name, arguments, {}, 0);
    return cased(text, name == "upper" ? Casing::Upper : name == "lower" ? Casing::Lower : name == "title" ? Casing::Title : Casing::Capitalized, budget);
  }
  if (name == "replace") {
    const Bound bound = bind(name, arguments, {"old", "new", "count"}, 2);
    return replace(text, text_argument(bound, 0), text_argument(bound, 1), whole_argument(bound, 2, -1), budget);
  }
  if (arguments.positional.size() > 1) unsupported("." + name + "() with a start or an end");
  const Bound bound = bind(name, arguments, {"value"}, 1);
  const Value& wanted = bound.values[0];
  if (name == "startswith" || name == "endswith") return Value::boolean(begins_or_ends(text.bytes, wanted, name == "startswith"));
  if (name == "join") {
    const auto items = iterate(wanted, budget);
    for (const Value& item : items) {
      if (!item.is_text()) throw Failure(std::string("join of a value of type ") + python_type(item));
      plain_text(item, "join");
    }
    return join(text, items, budget);
  }
  if (name == "count") return Value::integer(occurrences(text, text_argument(bound, 0).bytes));
  return Value::integer(find(text, text_argument(bound, 0).bytes, name == "rfind"));
}

Value call_list_method(const Method& method, const Arguments& arguments, Budget& budget) {
  no_keywords(method, arguments);
  if (arguments.positional.size() > 1) unsupported("." + method.name + "() with a start or an end");
  const Bound bound = bind(method.name, arguments, {"value"}, 1);
  std::int64_t count = 0, at = 0;
  for (const Value& item : method.self.items()) {
    if (equals(item, bound.values[0], budget)) {
      if (method.name == "index") return Value::integer(at);
      ++count;
    }
    ++at;
  }
  if (method.name == "index") throw Failure("the value is not in the list");
  return Value::integer(count);
}

}  // namespace

bool is_method(const std::string& name) { return is_in(kTextMethods, name) || is_in(kMappingMethods, name) || is_in(kListMethods, name); }

Bound bind(const std::string& what, const Arguments& arguments, std::initializer_list<const char*> names, std::size_t required) {
  Bound out;
  out.values.resize(names.size());
  out.given.resize(names.size());
  if (arguments.positional.size() > names.size()) throw Failure(what + " takes at most " + std::to_string(names.size()) + " arguments");
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) out.values[i] = arguments.positional[i], out.given[i] = true;
  for (const auto& [name, value] : arguments.keywords) {
    const auto* found = std::find_if(names.begin(), names.end(), [&name = name](const char* known) { return name == known; });
    if (found == names.end()) throw Failure(what + " has no argument '" + name + "'");
    const std::size_t at = found - names.begin();
    if (out.given[at]) throw Failure(what + " gets the argument '" + name + "' twice");
    out.values[at] = value, out.given[at] = true;
  }
  for (std::size_t i = 0; i < required; ++i)
    if (!out.given[i]) throw Failure(what + " lacks the argument '" + std::string(names.begin()[i]) + "'");
  return out;
}

Value call_method(const Method& method, const Arguments& arguments, Budget& budget) {
  if (method.self.is_text()) return call_text_method(method, arguments, budget);
  if (!method.self.is(Kind::Mapping)) return call_list_method(method, arguments, budget);
  no_keywords(method, arguments);
  const Mapping& mapping = as_mapping(method.self);
  if (method.name == "get") {
    const Bound bound = bind("get", arguments, {"key", "default"}, 1);
    if (bound.values[0].is_text()) budget.step(bound.values[0].bytes().size() / 64);
    if (const Value* found = mapping.find(bound.values[0])) return *found;
    return bound.given[1] ? bound.values[1] : Value::none();
  }
  bind(method.name, arguments, {}, 0);
  return view(mapping, method.name == "items" ? "dict_items" : method.name == "keys" ? "dict_keys" : "dict_values", budget);
}

Value attribute_of(const Value& value, const std::string& name, Budget& budget) {
  budget.step();
  if (value.is_undefined()) fail_undefined(value);
  Value out;
  if (find_python_attribute(value, name, out)) return out;
  if (value.is(Kind::Mapping))
    if (const Value* found = as_mapping(value).find(Value::text(name))) return *found;
  return missing(value, name);
}

Value item_of(const Value& value, const Value& index, Budget& budget) {
  budget.step(index.is_text() ? 1 + index.bytes().size() / 64 : 1);
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::Mapping)) {
    if (!index.is(Kind::List) && !index.is(Kind::Mapping))
      if (const Value* found = as_mapping(value).find(index)) return *found;
  } else if (value.is_text() && index.is_whole()) {
    return character(value.as_text(), index.whole(), budget);
  } else if ((value.is(Kind::List) || value.is(Kind::Tuple) || value.is(Kind::Sequence)) && index.is_whole()) {
    const bool is_view = value.is(Kind::Sequence) && static_cast<const Sequence*>(value.object())->form != Sequence::Form::Numbers;
    const auto size = static_cast<std::int64_t>(value.items().size());
    const std::int64_t at = index.whole() < 0 ? index.whole() + size : index.whole();
    if (is_view || at < 0 || at >= size) return Value::undefined("there is no element " + std::to_string(index.whole()) + " in the list");
    return value.items()[at];
  }
  Value out;
  if (index.is_text() && find_python_attribute(value, index.bytes(), out)) return out;
  return missing(value, index.is_text() ? index.bytes() : std::string("element of that index"));
}

}  // namespace pgtrain::engine::templates
