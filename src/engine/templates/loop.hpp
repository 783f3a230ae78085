// The objects that only a running template has: loops, macros and functions.
#pragma once

#include "engine/templates/evaluator.hpp"

namespace pgtrain::engine::templates {

// Statements and expressions within each other, through macros too: the machine's stack is finite.
constexpr int kMaxRunning = 600;

struct DepthGuard {
  explicit DepthGuard(int& depth) : depth_(depth) {
    if (++depth_ <= kMaxRunning) return;
    --depth_;
    throw Failure("macros call each other too deep");
  }
  ~DepthGuard() { --depth_; }
  int& depth_;
};

struct FunctionObject : Object {
  Function function = Function::Range;
};

struct Evaluator::Macro : Object {
  const Statement* statement = nullptr;
};

// Goes through the items one by one, because the condition of a for is asked as late as jinja2 asks it: loop.last and the
// like look one item ahead, loop.length at all of them.
struct Evaluator::LoopState : Object {
  bool advance();  // to the next item; false at the end
  bool peek();     // is there another one
  void fill();     // ask the condition for all that are left

  Evaluator* evaluator = nullptr;  // null once the loop has ended
  const Statement* statement = nullptr;
  Scope* scope = nullptr;
  std::vector<Value> source;
  std::size_t asked = 0;      // of source
  std::vector<Value> chosen;  // those that the condition let through
  std::size_t index = 0;      // of the present one, plus 1
};

}  // namespace pgtrain::engine::templates
