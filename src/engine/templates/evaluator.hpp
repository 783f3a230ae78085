// Runs a parsed template over one conversation.
#pragma once

#include <ctime>
#include <deque>
#include <optional>
#include <unordered_map>

#include "engine/templates/builtins.hpp"
#include "engine/templates/syntax.hpp"
#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {

using Variables = std::unordered_map<std::string, Value>;

class Evaluator {
 public:
  Evaluator(const Program& program, const Variables& variables, std::time_t now, Budget& budget) : program_(program), variables_(variables), now_(now), budget_(budget) {}

  // The text, and what lay inside of {% generation %}.
  Text run();
  std::vector<Range> generated() const { return generated_; }
  int line() const { return line_; }

 private:
  // The variables of one run of a body. `around` outlives it.
  struct Scope {
    Scope* around = nullptr;
    std::vector<std::optional<Value>> slots;  // empty: jinja2's "missing", which reads as undefined
  };
  enum class Flow { On, Break, Continue };
  struct LoopState;
  struct Macro;
  friend struct LoopState;

  void enter(const Frame& frame, Scope& variables, Scope* around);
  std::optional<Value>& slot(Scope& variables, const Place& place);
  Flow run(const Body& body, Scope& variables, TextBuilder& out);
  Flow run(const Statement& statement, Scope& variables, TextBuilder& out);
  Flow run_for(const Statement& statement, Scope& variables, TextBuilder& out);
  Flow run_with(const Statement& statement, Scope& variables, TextBuilder& out);
  void run_set_block(const Statement& statement, Scope& variables);
  void run_generation(const Statement& statement, Scope& variables, TextBuilder& out);
  void define_macro(const Statement& statement, Scope& variables);
  void assign(const Target& target, const Value& value, Scope& variables, Scope& names);

  Value evaluate(const Expression& expression, Scope& variables);
  Value evaluate_kind(const Expression& expression, Scope& variables);
  Value evaluate_compare(const Expression& expression, Scope& variables);
  Value evaluate_item(const Expression& expression, Scope& variables);
  Value evaluate_mapping(const Expression& expression, Scope& variables);
  Value evaluate_filter(const Expression& expression, Scope& variables, const Value* piped);
  Value look_up(const Expression& name, Scope& variables);
  Value call(const Expression& expression, Scope& variables);
  Value call_function(Function function, const Arguments& arguments);
  Value call_macro(const Macro& macro, const Arguments& arguments);
  Value loop_attribute(const Value& loop, const std::string& name);
  Arguments arguments_of(const Expression& expression, std::size_t first, Scope& variables);
  std::vector<Value> all(const Expression& expression, Scope& variables);
  Value apply_filters(const Expression& filters, const Value& piped, Scope& variables);

  const Program& program_;
  const Variables& variables_;
  const std::time_t now_;
  Budget& budget_;
  Scope root_;
  std::deque<std::shared_ptr<Namespace>> namespaces_;
  std::vector<Range> generated_;
  int line_ = 1, depth_ = 0, buffers_ = 0;
};

}  // namespace pgtrain::engine::templates
