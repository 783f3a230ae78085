// Operations on texts as Python's str has them, counted in code points, that keep track of which bytes are data.
#pragma once

#include <functional>
#include <optional>

#include "engine/templates/value.hpp"

namespace pgtrain::engine::templates {

// Puts texts together from pieces of others.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(budget) {}
  void add(std::string_view bytes, bool is_data = false);
  void add(const Text& text) { add(text, 0, text.bytes.size()); }
  void add(const Text& text, std::size_t begin, std::size_t end);
  std::size_t size() const { return text_.bytes.size(); }
  Text take() { return std::move(text_); }
  Value value() { return Value::text(std::move(text_)); }

 private:
  void mark(std::size_t begin, std::size_t end);
  Budget& budget_;
  Text text_;
};

bool is_space(char32_t point);
bool is_printable(char32_t point);
std::size_t count_points(std::string_view bytes);
bool is_data_at(const Text& text, std::size_t byte);
Value part(const Text& text, std::size_t begin, std::size_t end, Budget& budget);  // in bytes
Value character(const Text& text, std::int64_t index, Budget& budget);             // undefined when outside
std::vector<Value> characters(const Text& text, Budget& budget);

// Where a slice of `size` elements begins and how it goes on, as Python resolves it.
struct Slice {
  std::int64_t start = 0, step = 1, count = 0;
};
Slice resolve_slice(const Value& start, const Value& stop, const Value& step, std::size_t size);
Value slice(const Text& text, const Slice& slice, Budget& budget);

enum class Side { Both, Left, Right };
Value strip(const Text& text, Side side, const std::string* characters, Budget& budget);
std::vector<Value> split(const Text& text, const Text* separator, std::int64_t limit, Budget& budget);
std::vector<Value> split_from_right(const Text& text, const Text* separator, std::int64_t limit, Budget& budget);
std::vector<Value> split_lines(const Text& text, bool keep_ends, Budget& budget);
Value replace(const Text& text, const Text& from, const Text& to, std::int64_t limit, Budget& budget);
std::int64_t find(const Text& text, std::string_view wanted, bool from_right);  // in code points; -1 when absent
std::int64_t occurrences(const Text& text, std::string_view wanted);
Value join(const Text& separator, const std::vector<Value>& items, Budget& budget);

enum class Casing { Upper, Lower, Title, Capitalized, TitleFilter };
Value cased(const Text& text, Casing casing, Budget& budget);
bool has_only_case(std::string_view bytes, bool upper);

}  // namespace pgtrain::engine::templates
