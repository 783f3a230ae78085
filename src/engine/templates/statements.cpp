// Statements: output, if, for with its loop variable, set, with, macro, generation.
#include <algorithm>

#include "engine/templates/evaluator.hpp"
#include "engine/templates/loop.hpp"

namespace pgtrain::engine::templates {

bool Evaluator::LoopState::peek() {
  while (chosen.size() == index && asked < source.size()) {
    const Value& item = source[asked++];
    const Expression* condition = statement->expressions[1].get();
    if (condition != nullptr) {
      if (evaluator == nullptr) unsupported("looking ahead in a loop that has ended");
      Evaluator::Scope inner;
      evaluator->enter(statement->frames[1], inner, scope);
      evaluator->assign(statement->targets[1], item, inner, inner);
      if (!is_true(evaluator->evaluate(*condition, inner))) continue;
    }
    chosen.push_back(item);
  }
  return chosen.size() > index;
}

void Evaluator::LoopState::fill() {
  const std::size_t present = index;
  for (index = chosen.size(); peek(); index = chosen.size()) {}
  index = present;
}

bool Evaluator::LoopState::advance() {
  if (!peek()) return false;
  ++index;
  return true;
}

Value Evaluator::loop_attribute(const Value& loop, const std::string& name) {
  // Asking the condition changes nothing that a template could see but how far it was asked.
  auto& state = const_cast<LoopState&>(static_cast<const LoopState&>(*loop.object()));
  const auto number = [](std::size_t value) { return Value::integer(static_cast<std::int64_t>(value)); };
  budget_.step();
  if (name == "index") return number(state.index);
  if (name == "index0") return number(state.index - 1);
  if (name == "first") return Value::boolean(state.index == 1);
  if (name == "last") return Value::boolean(!state.peek());
  if (name == "previtem") return state.index < 2 ? Value::undefined("there is no previous item") : state.chosen[state.index - 2];
  if (name == "nextitem") return state.peek() ? state.chosen[state.index] : Value::undefined("there is no next item");
  if (name == "length" || name == "revindex" || name == "revindex0") {
    state.fill();
    const std::size_t length = state.chosen.size();
    return number(name == "length" ? length : name == "revindex" ? length - state.index + 1 : length - state.index);
  }
  if (name.starts_with("_") || name == "depth" || name == "depth0" || name == "changed" || name == "cycle") unsupported("loop." + name);
  return Value::undefined("loop has no '" + name + "'");
}

Text Evaluator::run() {
  TextBuilder out(budget_);
  enter(program_.frame, root_, nullptr);
  run(program_.body, root_, out);
  return out.take();
}

Evaluator::Flow Evaluator::run(const Body& body, Scope& scope, TextBuilder& out) {
  for (const Statement& statement : body) {
    const Flow flow = run(statement, scope, out);
    if (flow != Flow::On) return flow;
  }
  return Flow::On;
}

Evaluator::Flow Evaluator::run(const Statement& statement, Scope& scope, TextBuilder& out) {
  const DepthGuard guard(depth_);
  budget_.step();
  line_ = statement.line;
  switch (statement.kind) {
    case StatementKind::Data: out.add(statement.data); return Flow::On;
    case StatementKind::Output:
      for (const auto& expression : statement.expressions) out.add(to_text(evaluate(*expression, scope), budget_).as_text());
      return Flow::On;
    case StatementKind::If:
      for (std::size_t i = 0; i < statement.expressions.size(); ++i)
        if (is_true(evaluate(*statement.expressions[i], scope))) return run(statement.bodies[i], scope, out);
      return run(statement.bodies.back(), scope, out);
    case StatementKind::For: return run_for(statement, scope, out);
    case StatementKind::Set: {
      const Value value = evaluate(*statement.expressions[0], scope);
      assign(statement.targets[0], value, scope, scope);
      return Flow::On;
    }
    case StatementKind::SetBlock: run_set_block(statement, scope); return Flow::On;
    case StatementKind::With: return run_with(statement, scope, out);
    case StatementKind::Macro: define_macro(statement, scope); return Flow::On;
    case StatementKind::Generation: run_generation(statement, scope, out); return Flow::On;
    case StatementKind::Break: return Flow::Break;
    case StatementKind::Continue: return Flow::Continue;
  }
  return Flow::On;
}

// scope: where the target's variables are; names: from where a namespace is looked up.
void Evaluator::assign(const Target& target, const Value& value, Scope& scope, Scope& names) {
  line_ = target.line;
  if (!target.parts.empty()) {
    const auto items = iterate(value, budget_);
    if (items.size() != target.parts.size()) throw Failure(std::to_string(items.size()) + " values for " + std::to_string(target.parts.size()) + " names");
    for (std::size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope, names);
    return;
  }
  if (target.attribute.empty()) {
    slot(scope, target.place) = value;
    return;
  }
  const std::optional<Value>& held = slot(names, target.place);
  if (!held || !held->is(Kind::Namespace)) throw Failure("'" + target.name + "' is no namespace, its attributes cannot be assigned to");
  budget_.bytes(sizeof(Value) + target.attribute.size());
  const_cast<Namespace&>(static_cast<const Namespace&>(*held->object())).attributes[target.attribute] = value;
}

Evaluator::Flow Evaluator::run_for(const Statement& statement, Scope& scope, TextBuilder& out) {
  auto state = std::make_shared<LoopState>();
  const Value iterated = evaluate(*statement.expressions[0], scope);
  state->source = iterate(iterated, budget_);
  state->nesting = nesting_of(state->source) + 1;
  state->evaluator = this, state->statement = &statement, state->scope = &scope;
  const struct End {
    ~End() { state.evaluator = nullptr; }
    LoopState& state;
  } end{*state};
  Scope inner;
  bool is_empty = true;
  while (state->advance()) {
    budget_.step();
    enter(statement.frames[0], inner, &scope);
    if (statement.loop_slot >= 0) inner.slots[statement.loop_slot] = Value(Kind::Loop, state);
    assign(statement.targets[0], state->chosen[state->index - 1], inner, inner);
    const Flow flow = run(statement.bodies[0], inner, out);
    // jinja2 notes at the end of the body that it ran.
    if (flow == Flow::On) is_empty = false;
    if (flow == Flow::Break) break;
  }
  if (!is_empty || statement.bodies[1].empty()) return Flow::On;
  Scope otherwise;
  enter(statement.frames[2], otherwise, &scope);
  return run(statement.bodies[1], otherwise, out);
}

Evaluator::Flow Evaluator::run_with(const Statement& statement, Scope& scope, TextBuilder& out) {
  Scope inner;
  enter(statement.frames[0], inner, &scope);
  for (std::size_t i = 0; i < statement.targets.size(); ++i) assign(statement.targets[i], evaluate(*statement.expressions[i], scope), inner, inner);
  return run(statement.bodies[0], inner, out);
}

void Evaluator::run_set_block(const Statement& statement, Scope& scope) {
  Scope inner;
  enter(statement.frames[0], inner, &scope);
  TextBuilder buffer(budget_);
  ++buffers_;
  run(statement.bodies[0], inner, buffer);
  --buffers_;
  Value value = buffer.value();
  if (!statement.expressions.empty()) value = apply_filters(*statement.expressions[0], value, inner);
  assign(statement.targets[0], value, scope, scope);
}

void Evaluator::run_generation(const Statement& statement, Scope& scope, TextBuilder& out) {
  if (buffers_ > 0) unsupported("generation inside of a macro or a block of set");
  const std::size_t begin = out.size();
  Scope inner;
  enter(statement.frames[0], inner, &scope);
  run(statement.bodies[0], inner, out);
  generated_.push_back({begin, out.size()});
}

void Evaluator::define_macro(const Statement& statement, Scope& scope) {
  auto macro = std::make_shared<Macro>();
  macro->statement = &statement;
  slot(scope, statement.place) = Value(Kind::Macro, std::move(macro));
}

Value Evaluator::call_macro(const Macro& macro, const Arguments& arguments) {
  const Statement& statement = *macro.statement;
  Scope inner;
  enter(statement.frames[0], inner, &root_);
  const auto& targets = statement.targets;
  if (arguments.positional.size() > targets.size()) throw Failure("macro '" + statement.data + "' takes at most " + std::to_string(targets.size()) + " arguments");
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) inner.slots[targets[i].place.slot] = arguments.positional[i];
  for (const auto& [name, value] : arguments.keywords) {
    const auto found = std::find_if(targets.begin(), targets.end(), [&name = name](const Target& target) { return target.name == name; });
    if (found == targets.end()) throw Failure("macro '" + statement.data + "' has no argument '" + name + "'");
    if (inner.slots[found->place.slot]) throw Failure("macro '" + statement.data + "' gets the argument '" + name + "' twice");
    inner.slots[found->place.slot] = value;
  }
  const std::size_t without_default = targets.size() - statement.defaults.size();
  for (std::size_t i = 0; i < targets.size(); ++i) {
    std::optional<Value>& held = inner.slots[targets[i].place.slot];
    if (!held && i >= without_default) held = evaluate(*statement.defaults[i - without_default], inner);
  }
  TextBuilder buffer(budget_);
  ++buffers_;
  run(statement.bodies[0], inner, buffer);
  --buffers_;
  return buffer.value();
}

}  // namespace pgtrain::engine::templates
