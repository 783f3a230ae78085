// Python's rules of truth, equality, order and membership for the values of a template.
#include "engine/templates/value.hpp"

#include <algorithm>
#include <cmath>

#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {
namespace {

constexpr std::size_t kLinear = 12;

void check_nesting(std::uint32_t nesting) {
  if (nesting > kMaxNesting) throw Failure("lists lie in each other deeper than " + std::to_string(kMaxNesting));
}

int compare_numbers(const Value& left, const Value& right) {  // 2: not comparable
  if (left.is(Kind::LargeInteger) || right.is(Kind::LargeInteger)) {
    if (left.is(Kind::LargeInteger) && right.is(Kind::LargeInteger) && left.bytes() == right.bytes()) return 0;
    unsupported("comparing a number of more than 64 bits");
  }
  if (left.is_whole() && right.is_whole()) return left.whole() < right.whole() ? -1 : left.whole() > right.whole();
  if (left.is(Kind::Float) && right.is(Kind::Float)) return std::isunordered(left.number(), right.number()) ? 2 : left.number() < right.number() ? -1 : left.number() > right.number();
  // long double holds every 64-bit number and every double exactly.
  const long double a = left.is(Kind::Float) ? left.number() : static_cast<long double>(left.whole());
  const long double b = right.is(Kind::Float) ? right.number() : static_cast<long double>(right.whole());
  return std::isunordered(a, b) ? 2 : a < b ? -1 : a > b;
}

bool equal_items(const std::vector<Value>& left, const std::vector<Value>& right, Budget& budget) {
  return left.size() == right.size() && std::equal(left.begin(), left.end(), right.begin(), [&](const Value& a, const Value& b) { return equals(a, b, budget); });
}

// Keys of equal value are one key; true is 1 in Python.
std::string key_text(const Value& key) {
  switch (key.kind()) {
    case Kind::Text: return "t" + key.bytes();
    case Kind::None: return "n";
    case Kind::Boolean:
    case Kind::Integer: return "i" + std::to_string(key.whole());
    case Kind::Float:
      if (key.number() == std::floor(key.number()) && std::fabs(key.number()) < 9e18) return "i" + std::to_string(static_cast<std::int64_t>(key.number()));
      return "f" + real_text(key.number());
    case Kind::List:
    case Kind::Mapping: throw Failure(std::string("unhashable type: '") + python_type(key) + "'");
    default: unsupported(std::string("a key of type ") + python_type(key));
  }
}

}  // namespace

std::uint32_t nesting_of(const std::vector<Value>& items) {
  std::uint32_t deepest = 0;
  for (const Value& item : items) deepest = std::max(deepest, item.nesting());
  check_nesting(deepest + 1);
  return deepest + 1;
}

Value Value::undefined(std::string description) {
  auto object = std::make_shared<Text>();
  object->bytes = std::move(description);
  return Value(Kind::Undefined, std::move(object));
}

Value Value::boolean(bool value) {
  Value out(Kind::Boolean);
  out.integer_ = value;
  return out;
}

Value Value::integer(std::int64_t value) {
  Value out(Kind::Integer);
  out.integer_ = value;
  return out;
}

Value Value::real(double value) {
  Value out(Kind::Float);
  out.real_ = value;
  return out;
}

Value Value::large_integer(std::string digits) {
  auto object = std::make_shared<Text>();
  object->bytes = std::move(digits);
  return Value(Kind::LargeInteger, std::move(object));
}

Value Value::text(std::string bytes, bool is_data) {
  Text out;
  out.bytes = std::move(bytes);
  if (is_data && !out.bytes.empty()) out.data.push_back({0, out.bytes.size()});
  return text(std::move(out));
}

Value Value::text(Text&& text) { return Value(Kind::Text, std::make_shared<const Text>(std::move(text))); }

Value Value::list(std::vector<Value> items, Kind kind) {
  auto object = std::make_shared<List>();
  object->nesting = nesting_of(items);
  object->items = std::move(items);
  return Value(kind, std::move(object));
}

const std::vector<Value>& Value::items() const { return static_cast<const List&>(*object_).items; }

Value make_sequence(Sequence&& sequence) {
  sequence.nesting = nesting_of(sequence.items);
  return Value(Kind::Sequence, std::make_shared<const Sequence>(std::move(sequence)));
}

Value make_generator(std::vector<Value> items) {
  Sequence sequence;
  sequence.items = std::move(items);
  sequence.form = Sequence::Form::Generator;
  sequence.python_name = "generator";
  return make_sequence(std::move(sequence));
}

Value make_mapping(std::shared_ptr<Mapping> mapping) {
  for (const auto& [key, value] : mapping->entries) mapping->nesting = std::max(mapping->nesting, value.nesting());
  check_nesting(++mapping->nesting);
  return Value(Kind::Mapping, std::move(mapping));
}

std::size_t Mapping::position(const Value& key) const {
  if (entries.size() > kLinear) {
    const auto found = texts_.find(key_text(key));
    return found == texts_.end() ? entries.size() : found->second;
  }
  const bool is_text = key.is_text();
  const std::string wanted = is_text ? "" : key_text(key);
  std::size_t at = 0;
  while (at < entries.size()) {
    const Value& other = entries[at].first;
    if (is_text ? other.is_text() && other.bytes() == key.bytes() : !other.is_text() && key_text(other) == wanted) break;
    ++at;
  }
  return at;
}

void Mapping::set(Value key, Value value) {
  const std::size_t at = position(key);
  if (at < entries.size()) {
    entries[at].second = std::move(value);
    return;
  }
  entries.emplace_back(std::move(key), std::move(value));
  if (entries.size() <= kLinear) return;
  for (std::size_t i = texts_.size(); i < entries.size(); ++i) texts_.emplace(key_text(entries[i].first), i);
}

const Value* Mapping::find(const Value& key) const {
  const std::size_t at = position(key);
  return at < entries.size() ? &entries[at].second : nullptr;
}

const char* python_type(const Value& value) {
  switch (value.kind()) {
    case Kind::Undefined: return "Undefined";
    case Kind::None: return "NoneType";
    case Kind::Boolean: return "bool";
    case Kind::Integer:
    case Kind::LargeInteger: return "int";
    case Kind::Float: return "float";
    case Kind::Text: return "str";
    case Kind::List: return "list";
    case Kind::Tuple: return "tuple";
    case Kind::Mapping: return "dict";
    case Kind::Sequence: return static_cast<const Sequence*>(value.object())->python_name;
    case Kind::Namespace: return "Namespace";
    case Kind::Method: return "method";
    case Kind::Macro: return "Macro";
    case Kind::Function: return "function";
    case Kind::Loop: return "LoopContext";
  }
  return "?";
}

bool is_true(const Value& value) {
  switch (value.kind()) {
    case Kind::Undefined:
    case Kind::None: return false;
    case Kind::Boolean:
    case Kind::Integer: return value.flag();
    case Kind::Float: return value.number() != 0;
    case Kind::Text: return !value.bytes().empty();
    case Kind::List:
    case Kind::Tuple: return !value.items().empty();
    case Kind::Mapping: return !as_mapping(value).entries.empty();
    case Kind::Sequence: return static_cast<const Sequence*>(value.object())->form == Sequence::Form::Generator || !value.items().empty();
    case Kind::Loop: unsupported("the truth of loop");
    default: return true;
  }
}

bool equals(const Value& left, const Value& right, Budget& budget) {
  budget.step();
  if (left.is_number() && right.is_number()) return compare_numbers(left, right) == 0;
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::Undefined:
    case Kind::None: return true;
    case Kind::Text:
      budget.step(left.bytes().size() / 256);
      return left.bytes() == right.bytes();
    case Kind::List:
    case Kind::Tuple: return equal_items(left.items(), right.items(), budget);
    case Kind::Mapping: {
      const auto &a = as_mapping(left), &b = as_mapping(right);
      if (a.entries.size() != b.entries.size()) return false;
      return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
        const Value* other = b.find(entry.first);
        return other != nullptr && equals(entry.second, *other, budget);
      });
    }
    case Kind::Namespace: return left.object() == right.object();
    default: unsupported(std::string("comparing values of type ") + python_type(left));
  }
}

bool in_order(const Value& left, Order order, const Value& right, Budget& budget) {
  budget.step();
  const auto judge = [order](int sign) { return order == Order::Less ? sign < 0 : order == Order::LessOrEqual ? sign <= 0 : order == Order::Greater ? sign > 0 : sign >= 0; };
  if (left.is_number() && right.is_number()) {
    const int sign = compare_numbers(left, right);
    return sign != 2 && judge(sign);
  }
  if (left.is_text()) budget.step(left.bytes().size() / 256);
  if (left.is_text() && right.is_text()) return judge(left.bytes().compare(right.bytes()));
  if (left.kind() == right.kind() && (left.is(Kind::List) || left.is(Kind::Tuple))) {
    const auto &a = left.items(), &b = right.items();
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!equals(a[i], b[i], budget)) return in_order(a[i], order, b[i], budget);
    return judge(a.size() < b.size() ? -1 : a.size() > b.size());
  }
  if (left.is(Kind::Sequence) && right.is(Kind::Sequence)) unsupported(std::string("the order of values of type ") + python_type(left));
  throw Failure(std::string("values of the types ") + python_type(left) + " and " + python_type(right) + " have no order");
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  budget.step();
  switch (container.kind()) {
    case Kind::Text:
      if (!item.is_text()) throw Failure(std::string("'in' of a text needs a text on its left, not ") + python_type(item));
      budget.step(container.bytes().size() / 64);
      return container.bytes().find(item.bytes()) != std::string::npos;
    case Kind::Mapping:
      if (item.is_text()) budget.step(item.bytes().size() / 64);
      return as_mapping(container).find(item) != nullptr;
    case Kind::Undefined: return false;
    case Kind::List:
    case Kind::Tuple:
    case Kind::Sequence: {
      const auto items = iterate(container, budget);
      return std::any_of(items.begin(), items.end(), [&](const Value& other) { return equals(other, item, budget); });
    }
    case Kind::Loop: unsupported("'in' of loop");
    default: throw Failure(std::string("'in' of a value of type ") + python_type(container));
  }
}

std::vector<Value> iterate(const Value& value, Budget& budget) {
  switch (value.kind()) {
    case Kind::Undefined: return {};
    case Kind::Text: return characters(value.as_text(), budget);
    case Kind::Sequence: {
      const auto& sequence = static_cast<const Sequence&>(*value.object());
      if (sequence.form == Sequence::Form::Generator) {
        budget.bytes((sequence.items.size() - sequence.taken) * sizeof(Value));
        std::vector<Value> rest(sequence.items.begin() + static_cast<std::ptrdiff_t>(sequence.taken), sequence.items.end());
        sequence.taken = sequence.items.size();
        return rest;
      }
      [[fallthrough]];
    }
    case Kind::List:
    case Kind::Tuple:
      budget.step(value.items().size() / 4);
      budget.bytes(value.items().size() * sizeof(Value));
      return value.items();
    case Kind::Mapping: {
      std::vector<Value> keys;
      budget.bytes(as_mapping(value).entries.size() * sizeof(Value));
      for (const auto& [key, held] : as_mapping(value).entries) keys.push_back(key);
      return keys;
    }
    case Kind::Loop: unsupported("going through loop");
    default: throw Failure(std::string("a value of type ") + python_type(value) + " cannot be gone through");
  }
}

std::size_t length(const Value& value) {
  switch (value.kind()) {
    case Kind::Undefined: return 0;
    case Kind::Text: return count_points(value.bytes());
    case Kind::Mapping: return as_mapping(value).entries.size();
    case Kind::List:
    case Kind::Tuple: return value.items().size();
    case Kind::Sequence:
      if (static_cast<const Sequence*>(value.object())->form != Sequence::Form::Generator) return value.items().size();
      [[fallthrough]];
    default: break;
  }
  if (value.is(Kind::Loop)) unsupported("the length of loop");
  throw Failure(std::string("a value of type ") + python_type(value) + " has no length");
}

}  // namespace pgtrain::engine::templates
