// Python's arithmetic on what templates compute with, in 64 bits; what would need more is refused.
#include <cmath>

#include "engine/templates/builtins.hpp"
#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {
namespace {

[[noreturn]] void no_such_operation(const char* sign, const Value& left, const Value& right) {
  if (left.is_undefined() || right.is_undefined()) {
    const Value& missing = left.is_undefined() ? left : right;
    throw Failure(missing.object() != nullptr ? missing.bytes() : "a value is undefined");
  }
  if (left.is(Kind::LargeInteger) || right.is(Kind::LargeInteger)) unsupported("arithmetic with numbers of more than 64 bits");
  throw Failure(std::string("'") + sign + "' of values of the types " + python_type(left) + " and " + python_type(right));
}

bool are_whole(const Value& left, const Value& right) { return left.is_whole() && right.is_whole(); }
bool are_numbers(const Value& left, const Value& right) { return left.is_number() && right.is_number() && !left.is(Kind::LargeInteger) && !right.is(Kind::LargeInteger); }
[[noreturn]] void too_large() { unsupported("a whole number of more than 64 bits"); }

void check_divisor(const Value& right) {
  if (right.is_whole() ? right.whole() == 0 : right.number() == 0) throw Failure("division by zero");
}

Value repeated(const Value& value, std::int64_t times, Budget& budget) {
  times = std::max<std::int64_t>(times, 0);
  const std::uint64_t size = value.is_text() ? value.bytes().size() : value.items().size();
  if (size == 0) times = 0;
  if (static_cast<std::uint64_t>(times) > (std::uint64_t{1} << 32)) throw Failure("more memory is needed than a template may take");
  budget.step(times);
  if (value.is_text()) {
    budget.length(size * times);
    TextBuilder builder(budget);
    for (std::int64_t i = 0; i < times; ++i) builder.add(value.as_text());
    return builder.value();
  }
  budget.bytes(size * times * sizeof(Value));
  std::vector<Value> items;
  for (std::int64_t i = 0; i < times; ++i) items.insert(items.end(), value.items().begin(), value.items().end());
  return Value::list(std::move(items), value.kind());
}

bool can_repeat(const Value& value) { return value.is_text() || value.is(Kind::List) || value.is(Kind::Tuple); }

}  // namespace

const Text& plain_text(const Value& value, const char* what) {
  if (value.as_text().is_markup) unsupported(std::string(what) + " of a text marked safe");
  return value.as_text();
}

Value add(const Value& left, const Value& right, Budget& budget) {
  if (are_whole(left, right)) {
    std::int64_t sum = 0;
    if (__builtin_add_overflow(left.whole(), right.whole(), &sum)) too_large();
    return Value::integer(sum);
  }
  if (are_numbers(left, right)) return Value::real(left.number() + right.number());
  if (left.is_text() && right.is_text()) {
    TextBuilder builder(budget);
    builder.add(plain_text(left, "'+'"));
    builder.add(plain_text(right, "'+'"));
    return builder.value();
  }
  if (left.kind() == right.kind() && (left.is(Kind::List) || left.is(Kind::Tuple))) {
    budget.bytes((left.items().size() + right.items().size()) * sizeof(Value));
    std::vector<Value> items = left.items();
    items.insert(items.end(), right.items().begin(), right.items().end());
    return Value::list(std::move(items), left.kind());
  }
  no_such_operation("+", left, right);
}

Value subtract(const Value& left, const Value& right) {
  if (are_whole(left, right)) {
    std::int64_t difference = 0;
    if (__builtin_sub_overflow(left.whole(), right.whole(), &difference)) too_large();
    return Value::integer(difference);
  }
  if (are_numbers(left, right)) return Value::real(left.number() - right.number());
  if (left.is(Kind::Sequence) && right.is(Kind::Sequence)) unsupported("'-' of views");
  no_such_operation("-", left, right);
}

Value multiply(const Value& left, const Value& right, Budget& budget) {
  if (are_whole(left, right)) {
    std::int64_t product = 0;
    if (__builtin_mul_overflow(left.whole(), right.whole(), &product)) too_large();
    return Value::integer(product);
  }
  if (are_numbers(left, right)) return Value::real(left.number() * right.number());
  if (can_repeat(left) && right.is_whole()) {
    if (left.is_text()) plain_text(left, "'*'");
    return repeated(left, right.whole(), budget);
  }
  if (can_repeat(right) && left.is_whole()) {
    if (right.is_text()) plain_text(right, "'*'");
    return repeated(right, left.whole(), budget);
  }
  no_such_operation("*", left, right);
}

Value divide(const Value& left, const Value& right) {
  if (!are_numbers(left, right)) no_such_operation("/", left, right);
  check_divisor(right);
  constexpr std::int64_t kExact = std::int64_t{1} << 53;
  // Python divides whole numbers exactly before it rounds.
  if (are_whole(left, right) && (left.whole() > kExact || left.whole() < -kExact || right.whole() > kExact || right.whole() < -kExact)) unsupported("'/' of whole numbers beyond 2^53");
  return Value::real(left.number() / right.number());
}

Value floor_divide(const Value& left, const Value& right) {
  if (!are_numbers(left, right)) no_such_operation("//", left, right);
  check_divisor(right);
  if (are_whole(left, right)) {
    const std::int64_t a = left.whole(), b = right.whole();
    if (a == INT64_MIN && b == -1) too_large();
    return Value::integer(a / b - (a % b != 0 && (a < 0) != (b < 0)));
  }
  const double a = left.number(), b = right.number();
  const double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
  if (quotient == 0) return Value::real(std::copysign(0.0, a / b));
  double whole = std::floor(quotient);
  if (quotient - whole > 0.5) whole += 1;
  return Value::real(whole);
}

Value modulo(const Value& left, const Value& right) {
  if (left.is_text()) unsupported("the operator % on a text");
  if (!are_numbers(left, right)) no_such_operation("%", left, right);
  check_divisor(right);
  if (are_whole(left, right)) {
    if (right.whole() == -1) return Value::integer(0);
    const std::int64_t rest = left.whole() % right.whole();
    return Value::integer(rest != 0 && (rest < 0) != (right.whole() < 0) ? rest + right.whole() : rest);
  }
  double rest = std::fmod(left.number(), right.number());
  if (rest == 0) return Value::real(std::copysign(0.0, right.number()));
  if ((right.number() < 0) != (rest < 0)) rest += right.number();
  return Value::real(rest);
}

Value negative(const Value& value) {
  if (value.is_whole()) {
    if (value.whole() == INT64_MIN) too_large();
    return Value::integer(-value.whole());
  }
  if (value.is(Kind::Float)) return Value::real(-value.number());
  no_such_operation("-", value, Value::none());
}

Value positive(const Value& value) {
  if (value.is_whole()) return Value::integer(value.whole());
  if (value.is(Kind::Float)) return value;
  no_such_operation("+", value, Value::none());
}

}  // namespace pgtrain::engine::templates
