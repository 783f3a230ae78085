// Reads JSON that may be hostile: a pull reader that builds nothing, and a small tree on top of it.
//
// Every refusal says which document, at which byte, and why. Depth is limited, strings must be valid UTF-8 and
// duplicate keys are refused by the tree. Callers: io/safetensors (pull), models and tokenizers (tree).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pgtrain::engine::core {

class JsonReader {
 public:
  enum class Kind { Object, Array, String, Number, True, False, Null, End };

  // text must outlive the reader; name stands in messages ("header of model.safetensors").
  JsonReader(std::string_view text, std::string name) : text_(text), name_(std::move(name)) {}

  Kind peek();
  void begin_object();
  bool next_member(std::string& key);  // false at the closing brace, which is taken
  void begin_array();
  bool next_element();                 // false at the closing bracket, which is taken
  std::string read_string();
  std::uint64_t read_unsigned();       // refuses signs, fractions and exponents
  double read_number();
  bool read_boolean();
  void read_null();
  void skip();                         // one value of any kind
  void expect_end();                   // only spaces may follow
  std::size_t position() const { return at_; }
  [[noreturn]] void fail(const std::string& reason) const;

 private:
  void skip_space();
  void open(char bracket);
  bool advance(char closing);
  void take_word(std::string_view word);
  unsigned read_hex4();

  std::string_view text_;
  std::string name_;
  std::size_t at_ = 0;
  std::vector<bool> started_;  // per open bracket: an element was already read
};

// A parsed document. Lookups fail with the path of the field that is missing or of another kind.
class JsonValue {
 public:
  using Kind = JsonReader::Kind;

  static JsonValue parse(std::string_view text, const std::string& name);

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::Null; }
  const JsonValue* find(std::string_view key) const;    // null when absent or not an object
  const JsonValue& at(std::string_view key) const;
  const std::string& as_string() const;
  double as_number() const;
  std::int64_t as_integer() const;
  bool as_boolean() const;
  const std::vector<JsonValue>& elements() const;
  const std::vector<std::pair<std::string, JsonValue>>& members() const;
  const std::string& path() const { return path_; }

 private:
  static JsonValue read(JsonReader& reader, const std::string& path, std::size_t& budget);
  [[noreturn]] void mismatch(const char* wanted) const;

  Kind kind_ = Kind::Null;
  std::string path_, string_;
  double number_ = 0;
  std::vector<JsonValue> elements_;
  std::vector<std::pair<std::string, JsonValue>> members_;
};

std::string json_quote(std::string_view text);          // with the quotes; invalid UTF-8 becomes U+FFFD
std::string printable(std::string_view text, std::size_t limit = 80);  // for messages: escaped and cut

}  // namespace pgtrain::engine::core
