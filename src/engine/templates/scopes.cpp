// Which variable a name means. jinja2 decides that before anything runs: a frame (template, body of a loop, macro ...) has the
// names that are assigned or first met in it, and each begins as nothing, as the variable of the frame around it, or from outside.
// The order of assignments in the text matters, which is why this follows jinja2's own analysis step by step.
#include <map>
#include <set>

#include "engine/templates/lexer.hpp"
#include "engine/templates/syntax.hpp"

namespace pgtrain::engine::templates {
namespace {

using From = Load::From;

class Scope {
 public:
  Scope(Scope* parent, Frame& frame) : parent_(parent), frame_(frame) {}

  void store(const std::string& name) {
    known_.stores.insert(name);
    if (known_.loads.contains(name)) return;
    if (parent_ != nullptr && parent_->has(name)) known_.loads[name] = From::Outer;
    else known_.loads[name] = From::Nothing;
  }
  void declare_argument(const std::string& name) {
    known_.stores.insert(name);
    known_.loads[name] = From::Argument;
  }
  void load(const std::string& name) {
    if (!has(name)) known_.loads[name] = From::Context;
  }

  void visit(const Expression& expression) {
    if (expression.kind == ExpressionKind::Name) load(expression.name);
    for (const auto& operand : expression.operands)
      if (operand) visit(*operand);
    for (const auto& [name, value] : expression.keywords) visit(*value);
  }

  void visit_target(const Target& target, bool is_argument) {
    if (!target.attribute.empty()) load(target.name);
    else if (target.parts.empty()) is_argument ? declare_argument(target.name) : store(target.name);
    for (const Target& part : target.parts) visit_target(part, is_argument);
  }

  void visit(const Body& body) {
    for (const Statement& statement : body) visit(statement);
  }

  // After the analysis: the places of the frame's variables, and how they begin.
  void number() {
    for (const auto& [name, from] : known_.loads) {
      slots_[name] = static_cast<int>(frame_.loads.size());
      Load load;
      load.from = from, load.name = name;
      if (from == From::Outer) load.outer = parent_->place(name);
      frame_.loads.push_back(load);
    }
  }

  Place place(const std::string& name) const {
    const auto found = slots_.find(name);
    if (found != slots_.end()) return {0, found->second};
    Place outer = parent_->place(name);
    ++outer.hops;
    return outer;
  }
  bool has(const std::string& name) const { return known_.loads.contains(name) || (parent_ != nullptr && parent_->has(name)); }

 private:
  struct Known {
    std::map<std::string, From> loads;
    std::set<std::string> stores;
  };

  void visit(const Statement& statement) {
    switch (statement.kind) {
      case StatementKind::If: return visit_if(statement, 0);
      case StatementKind::For: return visit(*statement.expressions[0]);
      case StatementKind::Macro: return store(statement.data);
      case StatementKind::SetBlock: return visit_target(statement.targets[0], false);
      case StatementKind::Set:
        visit(*statement.expressions[0]);
        return visit_target(statement.targets[0], false);
      default:
        for (const auto& expression : statement.expressions) visit(*expression);
    }
  }

  // What only some branches assign begins as if it were not assigned here.
  void visit_if(const Statement& statement, std::size_t branch) {
    if (branch < statement.expressions.size()) visit(*statement.expressions[branch]);
    const Known before = known_;
    std::vector<Known> branches;
    const auto run = [&](const auto& inside) {
      known_ = before;
      inside();
      branches.push_back(std::move(known_));
    };
    run([&] { visit(statement.bodies[0]); });
    // Each elif is an if of its own, one after the other.
    run([&] {
      for (std::size_t i = 1; i < statement.expressions.size(); ++i) visit_elif(statement, i);
    });
    run([&] { visit(statement.bodies.back()); });
    merge(before, branches);
  }

  void visit_elif(const Statement& statement, std::size_t branch) {
    visit(*statement.expressions[branch]);
    const Known before = known_;
    visit(statement.bodies[branch]);
    std::vector<Known> branches = {std::move(known_), before, before};
    merge(before, branches);
  }

  void merge(const Known& before, const std::vector<Known>& branches) {
    known_ = before;
    std::set<std::string> stored;
    for (const Known& branch : branches)
      for (const std::string& name : branch.stores)
        if (!before.stores.contains(name)) stored.insert(name);
    for (const Known& branch : branches) {
      for (const auto& [name, from] : branch.loads) known_.loads[name] = from;
      known_.stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const std::string& name : stored) known_.loads[name] = parent_ != nullptr && parent_->has(name) ? From::Outer : From::Context;
  }

  Scope* parent_;
  Frame& frame_;
  Known known_;
  std::map<std::string, int> slots_;
};

bool mentions_loop(const Expression& expression) {
  if (expression.kind == ExpressionKind::Name && expression.name == "loop") return true;
  for (const auto& operand : expression.operands)
    if (operand && mentions_loop(*operand)) return true;
  for (const auto& [name, value] : expression.keywords)
    if (mentions_loop(*value)) return true;
  return false;
}

bool mentions_loop(const Body& body) {
  for (const Statement& statement : body) {
    for (const auto& expression : statement.expressions)
      if (expression && mentions_loop(*expression)) return true;
    for (const Body& inner : statement.bodies)
      if (mentions_loop(inner)) return true;
  }
  return false;
}

void place_names(Body& body, Scope& scope);

void place_names(Expression& expression, Scope& scope) {
  if (expression.kind == ExpressionKind::Name) expression.place = scope.place(expression.name);
  for (auto& operand : expression.operands)
    if (operand) place_names(*operand, scope);
  for (auto& [name, value] : expression.keywords) place_names(*value, scope);
}

void place_target(Target& target, Scope& scope) {
  if (target.parts.empty()) target.place = scope.place(target.name);
  for (Target& part : target.parts) place_target(part, scope);
}

void place_for(Statement& statement, Scope& scope) {
  place_names(*statement.expressions[0], scope);
  Scope inside(&scope, statement.frames[0]);
  const bool has_loop = mentions_loop(statement.bodies[0]);
  if (has_loop) inside.declare_argument("loop");
  inside.visit_target(statement.targets[0], true);
  inside.visit(statement.bodies[0]);
  inside.number();
  if (has_loop) statement.loop_slot = inside.place("loop").slot;
  statement.targets.push_back(statement.targets[0]);
  place_target(statement.targets[0], inside);
  place_names(statement.bodies[0], inside);
  if (statement.expressions[1]) {
    Scope filter(&scope, statement.frames[1]);
    filter.visit_target(statement.targets[1], true);
    filter.visit(*statement.expressions[1]);
    filter.number();
    place_target(statement.targets[1], filter);
    place_names(*statement.expressions[1], filter);
  }
  Scope otherwise(&scope, statement.frames[2]);
  otherwise.visit(statement.bodies[1]);
  otherwise.number();
  place_names(statement.bodies[1], otherwise);
}

// With, macro, block set, generation: arguments first, then what belongs to the body.
void place_inner(Statement& statement, Scope& scope, bool has_arguments) {
  Scope inside(&scope, statement.frames[0]);
  const bool is_set = statement.kind == StatementKind::SetBlock;
  if (has_arguments)
    for (const Target& target : statement.targets) inside.visit_target(target, true);
  for (const auto& value : statement.defaults) inside.visit(*value);
  inside.visit(statement.bodies[0]);
  if (is_set)
    for (const auto& filter : statement.expressions) inside.visit(*filter);
  inside.number();
  if (has_arguments)
    for (Target& target : statement.targets) place_target(target, inside);
  for (const auto& value : statement.defaults) place_names(*value, inside);
  if (is_set)
    for (const auto& filter : statement.expressions) place_names(*filter, inside);
  place_names(statement.bodies[0], inside);
}

void place_names(Body& body, Scope& scope) {
  for (Statement& statement : body) {
    switch (statement.kind) {
      case StatementKind::For: place_for(statement, scope); break;
      case StatementKind::Macro:
        statement.place = scope.place(statement.data);
        place_inner(statement, scope, true);
        break;
      case StatementKind::With:
        for (auto& value : statement.expressions) place_names(*value, scope);
        place_inner(statement, scope, true);
        break;
      case StatementKind::SetBlock:
        place_target(statement.targets[0], scope);
        place_inner(statement, scope, false);
        break;
      case StatementKind::Generation: place_inner(statement, scope, false); break;
      default:
        for (auto& expression : statement.expressions) place_names(*expression, scope);
        for (Target& target : statement.targets) place_target(target, scope);
        for (Body& inner : statement.bodies) place_names(inner, scope);
    }
  }
}

}  // namespace

void resolve_names(Program& program) {
  Scope root(nullptr, program.frame);
  root.visit(program.body);
  root.number();
  place_names(program.body, root);
}

}  // namespace pgtrain::engine::templates
