// The tree of a template: statements and expressions, with every name resolved to its place in a frame.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/templates/value.hpp"

namespace pgtrain::engine::templates {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

// Of the frames around the present one the `hops`th, and the place in it.
struct Place {
  int hops = 0, slot = 0;
};

enum class ExpressionKind {
  Constant, Name, Attribute, Item, Slice, Call, Filter, Test, Negative, Positive, Not, Add, Subtract, Multiply, Divide, FloorDivide, Modulo, Concatenate, Compare, And, Or, Conditional, List, Tuple, Mapping,
};

enum class Comparison { Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual, In, NotIn };

struct Expression {
  ExpressionKind kind = ExpressionKind::Constant;
  int line = 1, depth = 1;
  Value constant;
  std::string name;      // Name, Attribute, Filter, Test
  int entry = -1;        // Filter, Test: which one
  Place place;           // Name
  // Operands in order. Slice: start, stop, step, each may be null. Conditional: test, then, else (may be null). Mapping: key, value, ...
  std::vector<ExpressionPointer> operands;
  std::vector<std::pair<std::string, ExpressionPointer>> keywords;  // Call, Filter, Test
  std::vector<Comparison> comparisons;
};

struct Target {
  int line = 1;
  std::string name;       // empty for a tuple
  std::string attribute;  // of a namespace
  Place place;
  std::vector<Target> parts;
};

// How a variable of a frame begins.
struct Load {
  enum class From { Nothing, Argument, Context, Outer } from = From::Nothing;
  std::string name;
  Place outer;
};

struct Frame {
  std::vector<Load> loads;
};

enum class StatementKind { Data, Output, If, For, Set, SetBlock, With, Macro, Generation, Break, Continue };

struct Statement;
using Body = std::vector<Statement>;

struct Statement {
  StatementKind kind = StatementKind::Data;
  int line = 1;
  std::string data;                            // Data; Macro: its name
  std::vector<ExpressionPointer> expressions;  // Output, If (a test for each body but the last), For (iterated, filter or null), Set, With, SetBlock (filters)
  std::vector<Target> targets;                 // For, Set, SetBlock, With, Macro (the arguments)
  std::vector<ExpressionPointer> defaults;     // Macro: of the last arguments
  std::vector<Body> bodies;                    // If: one for each test and the else; For: body, else
  std::vector<Frame> frames;                   // For: body, filter, else; others: the body's
  Place place;                                 // Macro: where it is stored
  int loop_slot = -1;                          // For: where its body has `loop`
};

struct Program {
  Body body;
  Frame frame;
  bool has_generation = false;
};

// Throws SyntaxFailure.
Program parse_template(std::string_view source);
// Second pass, by parse_template: which variable a name means, as jinja2 decides it before it runs anything.
void resolve_names(Program& program);

}  // namespace pgtrain::engine::templates
