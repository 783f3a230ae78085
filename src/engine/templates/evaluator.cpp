// Expressions: names, operators, calls. Statements are in statements.cpp.
#include "engine/templates/evaluator.hpp"

#include "engine/templates/loop.hpp"

namespace pgtrain::engine::templates {
namespace {

// What %-codes mean in C's locale, in universal time. Codes that depend on the machine are refused.
Value format_time(std::time_t now, const Value& format) {
  if (!format.is_text()) throw Failure("strftime_now takes a text");
  std::string checked;
  const std::string& text = format.bytes();
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') continue;
    ++at;
    if (at < text.size() && text[at] == '-') ++at;
    if (at >= text.size() || std::string_view("aAbBdHIjmMpSUwWyY%eFTDR").find(text[at]) == std::string_view::npos) unsupported("strftime_now with '" + text + "'");
  }
  if (text.size() > 200) unsupported("strftime_now with so long a format");
  std::tm parts{};
  gmtime_r(&now, &parts);
  char buffer[2000];
  // A leading letter tells an empty result from one that did not fit.
  const std::string led = "x" + text;
  const std::size_t size = std::strftime(buffer, sizeof buffer, led.c_str(), &parts);
  if (size == 0) unsupported("strftime_now with '" + text + "'");
  return Value::text(std::string(buffer + 1, size - 1));
}

Value function_value(Function function) {
  auto object = std::make_shared<FunctionObject>();
  object->function = function;
  return Value(Kind::Function, std::move(object));
}

constexpr std::pair<const char*, Function> kFunctions[] = {{"range", Function::Range}, {"dict", Function::Dict}, {"namespace", Function::Namespace}, {"raise_exception", Function::RaiseException}, {"strftime_now", Function::StrftimeNow}};

}  // namespace

int find_function(const std::string& name) {
  for (const auto& [known, function] : kFunctions)
    if (name == known) return static_cast<int>(function);
  return -1;
}

Value make_range(const Arguments& arguments, Budget& budget) {
  if (!arguments.keywords.empty()) throw Failure("range takes no arguments by name");
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3) throw Failure("range takes one to three arguments");
  for (const Value& value : given)
    if (!value.is_whole()) throw Failure(std::string("range of a value of type ") + python_type(value));
  Sequence out;
  out.form = Sequence::Form::Numbers;
  out.python_name = "range";
  out.start = given.size() > 1 ? given[0].whole() : 0;
  out.stop = given.size() > 1 ? given[1].whole() : given[0].whole();
  out.step = given.size() > 2 ? given[2].whole() : 1;
  if (out.step == 0) throw Failure("the step of range must not be 0");
  // jinja2's sandbox has this limit.
  constexpr std::int64_t kLongest = 100'000;
  for (__int128 at = out.start; out.step > 0 ? at < out.stop : at > out.stop; at += out.step) {
    if (static_cast<std::int64_t>(out.items.size()) == kLongest) throw Failure("a range of more than 100000 numbers");
    budget.step();
    budget.bytes(sizeof(Value));
    out.items.push_back(Value::integer(static_cast<std::int64_t>(at)));
  }
  return make_sequence(std::move(out));
}

std::optional<Value>& Evaluator::slot(Scope& scope, const Place& place) {
  Scope* at = &scope;
  for (int i = 0; i < place.hops; ++i) at = at->around;
  return at->slots[place.slot];
}

void Evaluator::enter(const Frame& frame, Scope& scope, Scope* around) {
  scope.around = around;
  scope.slots.assign(frame.loads.size(), std::nullopt);
  budget_.step(1 + frame.loads.size() / 8);
  for (std::size_t i = 0; i < frame.loads.size(); ++i) {
    const Load& load = frame.loads[i];
    if (load.from == Load::From::Outer) {
      scope.slots[i] = slot(*around, load.outer);
    } else if (load.from == Load::From::Context) {
      const auto found = variables_.find(load.name);
      if (found != variables_.end()) scope.slots[i] = found->second;
      else if (const int function = find_function(load.name); function >= 0) scope.slots[i] = function_value(static_cast<Function>(function));
    }
  }
}

Value Evaluator::look_up(const Expression& name, Scope& scope) {
  const std::optional<Value>& held = slot(scope, name.place);
  return held ? *held : Value::undefined("'" + name.name + "' is undefined");
}

std::vector<Value> Evaluator::all(const Expression& expression, Scope& scope) {
  std::vector<Value> out;
  budget_.bytes(expression.operands.size() * sizeof(Value));
  for (const auto& operand : expression.operands) out.push_back(evaluate(*operand, scope));
  return out;
}

Arguments Evaluator::arguments_of(const Expression& expression, std::size_t first, Scope& scope) {
  Arguments out;
  for (std::size_t i = first; i < expression.operands.size(); ++i) out.positional.push_back(evaluate(*expression.operands[i], scope));
  for (const auto& [name, value] : expression.keywords) out.keywords.emplace_back(name, evaluate(*value, scope));
  return out;
}

Value Evaluator::evaluate(const Expression& expression, Scope& scope) {
  const DepthGuard guard(depth_);
  budget_.step();
  line_ = expression.line;
  return evaluate_kind(expression, scope);
}

Value Evaluator::evaluate_kind(const Expression& expression, Scope& scope) {
  const auto operand = [&](std::size_t at) { return evaluate(*expression.operands[at], scope); };
  switch (expression.kind) {
    case ExpressionKind::Constant: return expression.constant;
    case ExpressionKind::Name: return look_up(expression, scope);
    case ExpressionKind::Attribute: {
      const Value value = operand(0);
      return value.is(Kind::Loop) ? loop_attribute(value, expression.name) : attribute_of(value, expression.name, budget_);
    }
    case ExpressionKind::Item: return evaluate_item(expression, scope);
    case ExpressionKind::Slice: unsupported("a slice outside of a subscript");
    case ExpressionKind::Call: return call(expression, scope);
    case ExpressionKind::Filter: return evaluate_filter(expression, scope, nullptr);
    case ExpressionKind::Test: {
      const Value value = operand(0);
      return Value::boolean(apply_test(expression.entry, value, arguments_of(expression, 1, scope), budget_));
    }
    case ExpressionKind::Negative: return negative(operand(0));
    case ExpressionKind::Positive: return positive(operand(0));
    case ExpressionKind::Not: return Value::boolean(!is_true(operand(0)));
    case ExpressionKind::And: {
      const Value left = operand(0);
      return is_true(left) ? operand(1) : left;
    }
    case ExpressionKind::Or: {
      const Value left = operand(0);
      return is_true(left) ? left : operand(1);
    }
    case ExpressionKind::Conditional:
      if (is_true(operand(0))) return operand(1);
      return expression.operands[2] ? operand(2) : Value::undefined("the inline if has no else");
    case ExpressionKind::Concatenate: {
      TextBuilder builder(budget_);
      for (const Value& part : all(expression, scope)) builder.add(to_text(part, budget_).as_text());
      return builder.value();
    }
    case ExpressionKind::Compare: return evaluate_compare(expression, scope);
    case ExpressionKind::List: return Value::list(all(expression, scope));
    case ExpressionKind::Tuple: return Value::list(all(expression, scope), Kind::Tuple);
    case ExpressionKind::Mapping: return evaluate_mapping(expression, scope);
    default: break;
  }
  const Value left = operand(0), right = operand(1);
  line_ = expression.line;
  switch (expression.kind) {
    case ExpressionKind::Add: return add(left, right, budget_);
    case ExpressionKind::Subtract: return subtract(left, right);
    case ExpressionKind::Multiply: return multiply(left, right, budget_);
    case ExpressionKind::Divide: return divide(left, right);
    case ExpressionKind::FloorDivide: return floor_divide(left, right);
    default: return modulo(left, right);
  }
}

Value Evaluator::evaluate_compare(const Expression& expression, Scope& scope) {
  Value left = evaluate(*expression.operands[0], scope);
  for (std::size_t i = 0; i < expression.comparisons.size(); ++i) {
    const Value right = evaluate(*expression.operands[i + 1], scope);
    line_ = expression.line;
    bool holds = false;
    switch (expression.comparisons[i]) {
      case Comparison::Equal: holds = equals(left, right, budget_); break;
      case Comparison::NotEqual: holds = !equals(left, right, budget_); break;
      case Comparison::Less: holds = in_order(left, Order::Less, right, budget_); break;
      case Comparison::LessOrEqual: holds = in_order(left, Order::LessOrEqual, right, budget_); break;
      case Comparison::Greater: holds = in_order(left, Order::Greater, right, budget_); break;
      case Comparison::GreaterOrEqual: holds = in_order(left, Order::GreaterOrEqual, right, budget_); break;
      case Comparison::In: holds = contains(right, left, budget_); break;
      case Comparison::NotIn: holds = !contains(right, left, budget_); break;
    }
    if (!holds) return Value::boolean(false);
    left = right;
  }
  return Value::boolean(true);
}

Value Evaluator::evaluate_item(const Expression& expression, Scope& scope) {
  const Value value = evaluate(*expression.operands[0], scope);
  const Expression& index = *expression.operands[1];
  if (index.kind != ExpressionKind::Slice) {
    const Value at = evaluate(index, scope);
    if (value.is(Kind::Loop)) return loop_attribute(value, at.is_text() ? at.bytes() : "");
    return item_of(value, at, budget_);
  }
  const auto part = [&](std::size_t at) { return index.operands[at] ? evaluate(*index.operands[at], scope) : Value::none(); };
  const Value start = part(0), stop = part(1), step = part(2);
  line_ = expression.line;
  if (value.is_undefined()) return item_of(value, start, budget_);
  const bool is_list = value.is(Kind::List) || value.is(Kind::Tuple);
  if (value.is(Kind::Sequence)) unsupported(std::string("a slice of a value of type ") + python_type(value));
  if (!is_list && !value.is_text()) throw Failure(std::string("a slice of a value of type ") + python_type(value));
  const Slice where = resolve_slice(start, stop, step, length(value));
  if (value.is_text()) return slice(plain_text(value, "a slice"), where, budget_);
  std::vector<Value> items;
  budget_.step(where.count);
  budget_.bytes(where.count * sizeof(Value));
  for (std::int64_t i = 0; i < where.count; ++i) items.push_back(value.items()[where.start + i * where.step]);
  return Value::list(std::move(items), value.kind());
}

Value Evaluator::evaluate_mapping(const Expression& expression, Scope& scope) {
  auto mapping = std::make_shared<Mapping>();
  budget_.bytes(expression.operands.size() * sizeof(Value));
  for (std::size_t i = 0; i < expression.operands.size(); i += 2) {
    Value key = evaluate(*expression.operands[i], scope);
    mapping->set(std::move(key), evaluate(*expression.operands[i + 1], scope));
  }
  return make_mapping(std::move(mapping));
}

// piped: what the innermost filter of {% set x | filter %} is applied to.
Value Evaluator::evaluate_filter(const Expression& expression, Scope& scope, const Value* piped) {
  const Expression* inner = expression.operands[0].get();
  const Value value = inner == nullptr ? *piped : piped != nullptr && inner->kind == ExpressionKind::Filter ? evaluate_filter(*inner, scope, piped) : evaluate(*inner, scope);
  if (value.is(Kind::Loop)) unsupported("a filter of loop");
  const Arguments arguments = arguments_of(expression, 1, scope);
  line_ = expression.line;
  return apply_filter(expression.entry, value, arguments, budget_);
}

Value Evaluator::apply_filters(const Expression& filters, const Value& piped, Scope& scope) { return evaluate_filter(filters, scope, &piped); }

Value Evaluator::call(const Expression& expression, Scope& scope) {
  const Value callee = evaluate(*expression.operands[0], scope);
  const Arguments arguments = arguments_of(expression, 1, scope);
  line_ = expression.line;
  switch (callee.kind()) {
    case Kind::Method: return call_method(static_cast<const Method&>(*callee.object()), arguments, budget_);
    case Kind::Function: return call_function(static_cast<const FunctionObject&>(*callee.object()).function, arguments);
    case Kind::Macro: return call_macro(static_cast<const Macro&>(*callee.object()), arguments);
    case Kind::Undefined: throw Failure(callee.object() != nullptr ? callee.bytes() : "a value is undefined");
    default: throw Failure(std::string("a value of type ") + python_type(callee) + " cannot be called");
  }
}

Value Evaluator::call_function(Function function, const Arguments& arguments) {
  switch (function) {
    case Function::Range: return make_range(arguments, budget_);
    case Function::Dict: {
      if (!arguments.positional.empty()) unsupported("dict() of another value");
      auto mapping = std::make_shared<Mapping>();
      budget_.bytes(sizeof(Mapping) + arguments.keywords.size() * sizeof(Value));
      for (const auto& [name, value] : arguments.keywords) mapping->set(Value::text(name), value);
      return make_mapping(std::move(mapping));
    }
    case Function::Namespace: {
      if (!arguments.positional.empty()) unsupported("namespace() of a mapping");
      auto made = std::make_shared<Namespace>();
      budget_.bytes(sizeof(Namespace) + arguments.keywords.size() * sizeof(Value));
      for (const auto& [name, value] : arguments.keywords) made->attributes[name] = value;
      namespaces_.push_back(made);
      // Values only point to namespaces: one that held itself would never be freed.
      return Value(Kind::Namespace, std::shared_ptr<const Object>(std::shared_ptr<void>(), made.get()));
    }
    case Function::RaiseException: {
      const Bound bound = bind("raise_exception", arguments, {"message"}, 1);
      throw Failure("the template refuses the conversation: " + to_text(bound.values[0], budget_).bytes());
    }
    default: return format_time(now_, bind("strftime_now", arguments, {"format"}, 1).values[0]);
  }
}

}  // namespace pgtrain::engine::templates
