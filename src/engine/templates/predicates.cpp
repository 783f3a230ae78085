// The tests behind `is`.
#include <algorithm>
#include <array>
#include <iterator>

#include "engine/templates/builtins.hpp"
#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {
namespace {

enum class Test { Defined, Undefined, None, True, False, Text, Number, Integer, Float, Boolean, Mapping, Iterable, Sequence, Callable, Odd, Even, DivisibleBy, Lower, Upper, Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual, In };

constexpr std::pair<const char*, Test> kTests[] = {
    {"defined", Test::Defined}, {"undefined", Test::Undefined}, {"none", Test::None}, {"true", Test::True}, {"false", Test::False}, {"string", Test::Text},
    {"number", Test::Number}, {"integer", Test::Integer}, {"float", Test::Float}, {"boolean", Test::Boolean}, {"mapping", Test::Mapping}, {"iterable", Test::Iterable},
    {"sequence", Test::Sequence}, {"callable", Test::Callable}, {"odd", Test::Odd}, {"even", Test::Even}, {"divisibleby", Test::DivisibleBy}, {"lower", Test::Lower},
    {"upper", Test::Upper}, {"eq", Test::Equal}, {"equalto", Test::Equal}, {"==", Test::Equal}, {"ne", Test::NotEqual}, {"!=", Test::NotEqual}, {"lt", Test::Less},
    {"lessthan", Test::Less}, {"<", Test::Less}, {"le", Test::LessOrEqual}, {"<=", Test::LessOrEqual}, {"gt", Test::Greater}, {"greaterthan", Test::Greater},
    {">", Test::Greater}, {"ge", Test::GreaterOrEqual}, {">=", Test::GreaterOrEqual}, {"in", Test::In}};

bool is_generator(const Value& value) { return value.is(Kind::Sequence) && static_cast<const Sequence*>(value.object())->form == Sequence::Form::Generator; }

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::Undefined:
    case Kind::Text:
    case Kind::List:
    case Kind::Tuple:
    case Kind::Mapping:
    case Kind::Sequence:
    case Kind::Loop: return true;
    default: return false;
  }
}

bool is_sequence(const Value& value) {
  if (value.is(Kind::Sequence)) return static_cast<const Sequence*>(value.object())->form == Sequence::Form::Numbers;
  return is_iterable(value) && !value.is(Kind::Loop) && !is_generator(value);
}

bool leaves(const Value& value, const Value& divisor, std::int64_t rest, Budget& budget) { return equals(modulo(value, divisor), Value::integer(rest), budget); }

}  // namespace

int find_test(const std::string& name) {
  const auto* found = std::find_if(std::begin(kTests), std::end(kTests), [&](const auto& entry) { return name == entry.first; });
  return found == std::end(kTests) ? -1 : static_cast<int>(found->second);
}

bool apply_test(int number, const Value& value, const Arguments& arguments, Budget& budget) {
  const Test test = static_cast<Test>(number);
  budget.step(value.is_text() ? 1 + value.bytes().size() / 256 : 1);
  if (test >= Test::Equal || test == Test::DivisibleBy) {
    const Value other = test == Test::DivisibleBy ? bind("divisibleby", arguments, {"num"}, 1).values[0]
                        : test == Test::In        ? bind("in", arguments, {"seq"}, 1).values[0]
                                                  : bind("a comparison", arguments, {"b"}, 1).values[0];
    switch (test) {
      case Test::DivisibleBy: return leaves(value, other, 0, budget);
      case Test::Equal: return equals(value, other, budget);
      case Test::NotEqual: return !equals(value, other, budget);
      case Test::Less: return in_order(value, Order::Less, other, budget);
      case Test::LessOrEqual: return in_order(value, Order::LessOrEqual, other, budget);
      case Test::Greater: return in_order(value, Order::Greater, other, budget);
      case Test::GreaterOrEqual: return in_order(value, Order::GreaterOrEqual, other, budget);
      default: return contains(other, value, budget);
    }
  }
  bind("this test", arguments, {}, 0);
  switch (test) {
    case Test::Defined: return !value.is_undefined();
    case Test::Undefined: return value.is_undefined();
    case Test::None: return value.is(Kind::None);
    case Test::True: return value.is(Kind::Boolean) && value.flag();
    case Test::False: return value.is(Kind::Boolean) && !value.flag();
    case Test::Text: return value.is_text();
    case Test::Number: return value.is_number();
    case Test::Integer: return value.is(Kind::Integer) || value.is(Kind::LargeInteger);
    case Test::Float: return value.is(Kind::Float);
    case Test::Boolean: return value.is(Kind::Boolean);
    case Test::Mapping: return value.is(Kind::Mapping);
    case Test::Iterable: return is_iterable(value);
    case Test::Sequence: return is_sequence(value);
    case Test::Callable: return value.is_undefined() || value.is(Kind::Method) || value.is(Kind::Macro) || value.is(Kind::Function);
    case Test::Odd: return leaves(value, Value::integer(2), 1, budget);
    case Test::Even: return leaves(value, Value::integer(2), 0, budget);
    default: return has_only_case(to_text(value, budget).bytes(), test == Test::Upper);
  }
}

}  // namespace pgtrain::engine::templates
