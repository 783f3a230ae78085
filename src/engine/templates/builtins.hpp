// The filters, tests, methods and functions that templates may use. The parser asks by name, the evaluator calls.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/templates/value.hpp"

namespace pgtrain::engine::templates {

// Arguments of a call, without what a filter or test is applied to and without a method's own object.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

int find_filter(const std::string& name);  // -1: none of that name
int find_test(const std::string& name);
int find_function(const std::string& name);
bool is_method(const std::string& name);

Value apply_filter(int filter, const Value& value, const Arguments& arguments, Budget& budget);
bool apply_test(int test, const Value& value, const Arguments& arguments, Budget& budget);
Value call_method(const Method& method, const Arguments& arguments, Budget& budget);
// Attributes and items as jinja2 looks them up: undefined when there is none.
Value attribute_of(const Value& value, const std::string& name, Budget& budget);
Value item_of(const Value& value, const Value& index, Budget& budget);

enum class Function { Range, Dict, Namespace, RaiseException, StrftimeNow };
Value make_range(const Arguments& arguments, Budget& budget);

// Values of arguments by Python's rules: `names` in order, the first `required` without a default. Missing ones stay undefined
// in `out` and false in `given`.
struct Bound {
  std::vector<Value> values;
  std::vector<bool> given;
};
Bound bind(const std::string& what, const Arguments& arguments, std::initializer_list<const char*> names, std::size_t required);

Value add(const Value& left, const Value& right, Budget& budget);
Value subtract(const Value& left, const Value& right);
Value multiply(const Value& left, const Value& right, Budget& budget);
Value divide(const Value& left, const Value& right);
Value floor_divide(const Value& left, const Value& right);
Value modulo(const Value& left, const Value& right);
Value negative(const Value& value);
Value positive(const Value& value);

// Text that a filter or method is to work on: refused when it is marked safe, because markup escapes what meets it.
const Text& plain_text(const Value& value, const char* what);

}  // namespace pgtrain::engine::templates
