// What a chat template computes with: Python's None, bool, int, float, str, list, tuple, dict and the few objects that Jinja adds.
//
// Values never change once made (jinja2's sandbox forbids it as well); only namespaces do, and the evaluator owns those. A text
// knows which of its bytes came from the conversation, so that a tokenizer can tell the template's own marks from the same letters
// written by a user. Operations follow Python; what Python refuses is thrown as Failure, to which the evaluator adds the line.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace pgtrain::engine::templates {

// outside_subset: jinja2 would go on here, we refuse rather than differ from it.
struct Failure : std::runtime_error {
  explicit Failure(const std::string& message, bool is_outside_subset = false) : std::runtime_error(message), outside_subset(is_outside_subset) {}
  bool outside_subset;
};

[[noreturn]] inline void unsupported(const std::string& what) { throw Failure(what + " is not supported", true); }

// Work that a rendering may still do. Hostile templates and messages run into these limits instead of into the machine's.
class Budget {
 public:
  Budget(std::uint64_t steps, std::uint64_t bytes, std::uint64_t longest) : steps_(steps), bytes_(bytes), longest_(longest) {}
  void step(std::uint64_t count = 1);
  void bytes(std::uint64_t count);     // created, whether or not they live on
  void length(std::uint64_t bytes) const;  // of one text
  std::uint64_t steps_left() const { return steps_; }

 private:
  std::uint64_t steps_, bytes_, longest_;
};

struct Range {
  std::size_t begin = 0, end = 0;
  bool operator==(const Range&) const = default;
};

enum class Kind { Undefined, None, Boolean, Integer, LargeInteger, Float, Text, List, Tuple, Mapping, Sequence, Namespace, Method, Macro, Function, Loop };

// How deep lists may lie in lists; printing, comparing and freeing them recurses.
constexpr std::uint32_t kMaxNesting = 150;

struct Object {
  virtual ~Object() = default;
  std::uint32_t nesting = 0;
};

class Value;

struct Text : Object {
  std::string bytes;
  std::vector<Range> data;  // sorted, apart: the bytes that came from the conversation
  bool is_markup = false;   // by the filter safe
};

class Value {
 public:
  Value() = default;  // undefined
  static Value undefined(std::string description);
  static Value none() { return Value(Kind::None); }
  static Value boolean(bool value);
  static Value integer(std::int64_t value);
  static Value real(double value);
  static Value large_integer(std::string digits);
  static Value text(std::string bytes, bool is_data = false);
  static Value text(Text&& text);
  static Value list(std::vector<Value> items, Kind kind = Kind::List);
  Value(Kind kind, std::shared_ptr<const Object> object) : kind_(kind), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::Undefined; }
  bool is_text() const { return kind_ == Kind::Text; }
  bool is_number() const { return kind_ == Kind::Boolean || kind_ == Kind::Integer || kind_ == Kind::LargeInteger || kind_ == Kind::Float; }
  bool is_whole() const { return kind_ == Kind::Boolean || kind_ == Kind::Integer; }
  bool flag() const { return integer_ != 0; }
  std::int64_t whole() const { return integer_; }
  double number() const { return kind_ == Kind::Float ? real_ : static_cast<double>(integer_); }
  const Text& as_text() const { return static_cast<const Text&>(*object_); }
  const std::string& bytes() const { return as_text().bytes; }
  const std::vector<Value>& items() const;  // List, Tuple, Sequence
  const Object* object() const { return object_.get(); }
  const std::shared_ptr<const Object>& shared() const { return object_; }
  std::uint32_t nesting() const { return object_ ? object_->nesting : 0; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::Undefined;
  union {
    std::int64_t integer_ = 0;
    double real_;
  };
  std::shared_ptr<const Object> object_;
};

struct List : Object {
  std::vector<Value> items;
};

// What Python iterates over without it being a list: views of mappings, ranges, and generators, which can be run through once.
struct Sequence : List {
  enum class Form { View, Numbers, Generator } form = Form::View;
  const char* python_name = "";
  mutable std::size_t taken = 0;  // of a generator
  std::int64_t start = 0, stop = 0, step = 1;  // Numbers
};

struct Mapping : Object {
  std::vector<std::pair<Value, Value>> entries;
  void set(Value key, Value value);
  const Value* find(const Value& key) const;

 private:
  std::size_t position(const Value& key) const;
  std::unordered_map<std::string, std::size_t> texts_;  // once there are many
};

struct Method : Object {
  Value self;
  std::string name;
};

struct Namespace : Object {
  std::unordered_map<std::string, Value> attributes;
};

inline const Mapping& as_mapping(const Value& value) { return static_cast<const Mapping&>(*value.object()); }
Value make_mapping(std::shared_ptr<Mapping> mapping);
Value make_sequence(Sequence&& sequence);
Value make_generator(std::vector<Value> items);
std::uint32_t nesting_of(const std::vector<Value>& items);

const char* python_type(const Value& value);
bool is_true(const Value& value);
bool equals(const Value& left, const Value& right, Budget& budget);
enum class Order { Less, LessOrEqual, Greater, GreaterOrEqual };
bool in_order(const Value& left, Order order, const Value& right, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);
std::vector<Value> iterate(const Value& value, Budget& budget);
std::size_t length(const Value& value);

// Python's str() and repr(), and json.dumps.
Value to_text(const Value& value, Budget& budget);
std::string real_text(double value);
struct JsonStyle {
  bool ascii = false, sorted = false, is_indented = false;
  std::string indent, item = ", ", key = ": ";
};
Value to_json(const Value& value, const JsonStyle& style, Budget& budget);
// Every text of the document is marked as data. Fails with data_invalid.
Value from_json(std::string_view text, const std::string& name);

}  // namespace pgtrain::engine::templates
