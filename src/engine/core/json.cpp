// The JSON reader. One pass, no recursion deeper than kMaxDepth, no allocation that the text does not pay for.
#include "engine/core/json.hpp"

#include <charconv>
#include <cmath>
#include <unordered_set>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"

namespace pgtrain::engine::core {
namespace {

constexpr std::size_t kMaxDepth = 64;
// A value of the tree costs about 150 bytes of memory for as little as 2 bytes of text.
constexpr std::size_t kMaxValues = 4'000'000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    if (out.size() >= limit) return out + "...";
    const CodePoint point = decode_utf8(text, at);
    const unsigned char byte = static_cast<unsigned char>(text[at]);
    if (point.bytes == 0 || byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
      ++at;
    } else {
      out.append(text.substr(at, point.bytes));
      at += point.bytes;
    }
  }
  return out;
}

std::string json_quote(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : repair_utf8(text)) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

void JsonReader::fail(const std::string& reason) const {
  throw Error("model_invalid", name_ + ": " + reason + " (byte " + std::to_string(at_) + ")", "",
              "The file is damaged or not what its name says; get it again from where it was made.");
}

void JsonReader::skip_space() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
}

JsonReader::Kind JsonReader::peek() {
  skip_space();
  if (at_ == text_.size()) return Kind::End;
  switch (text_[at_]) {
    case '{': return Kind::Object;
    case '[': return Kind::Array;
    case '"': return Kind::String;
    case 't': return Kind::True;
    case 'f': return Kind::False;
    case 'n': return Kind::Null;
    default: break;
  }
  if (is_digit(text_[at_]) || text_[at_] == '-') return Kind::Number;
  fail("unexpected character '" + printable(text_.substr(at_, 1)) + "'");
}

void JsonReader::open(char bracket) {
  skip_space();
  if (at_ == text_.size() || text_[at_] != bracket) fail(std::string("'") + bracket + "' expected");
  if (started_.size() == kMaxDepth) fail("nested deeper than " + std::to_string(kMaxDepth));
  started_.push_back(false);
  ++at_;
}

bool JsonReader::advance(char closing) {
  skip_space();
  if (started_.empty()) fail("no open bracket");
  if (at_ == text_.size()) fail("ends in the middle");
  if (text_[at_] == closing) {
    ++at_;
    started_.pop_back();
    return false;
  }
  if (started_.back()) {
    if (text_[at_] != ',') fail("',' expected");
    ++at_;
    skip_space();
    if (at_ < text_.size() && text_[at_] == closing) fail("nothing after ','");
  }
  started_.back() = true;
  return true;
}

void JsonReader::begin_object() { open('{'); }
void JsonReader::begin_array() { open('['); }
bool JsonReader::next_element() { return advance(']'); }

bool JsonReader::next_member(std::string& key) {
  if (!advance('}')) return false;
  key = read_string();
  skip_space();
  if (at_ == text_.size() || text_[at_] != ':') fail("':' expected");
  ++at_;
  return true;
}

unsigned JsonReader::read_hex4() {
  if (text_.size() - at_ < 4) fail("string ends in the middle of \\u");
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, value, 16);
  if (error != std::errc() || end != text_.data() + at_ + 4) fail("\\u needs four hexadecimal digits");
  at_ += 4;
  return value;
}

std::string JsonReader::read_string() {
  skip_space();
  if (at_ == text_.size() || text_[at_] != '"') fail("string expected");
  ++at_;
  std::string out;
  while (true) {
    if (at_ >= text_.size()) fail("string ends in the middle");
    const unsigned char byte = static_cast<unsigned char>(text_[at_]);
    if (byte == '"') {
      ++at_;
      return out;
    }
    if (byte < 0x20) fail("control character in a string");
    if (byte != '\\') {
      const CodePoint point = decode_utf8(text_, at_);
      if (point.bytes == 0) fail("string is not valid UTF-8");
      out.append(text_.substr(at_, point.bytes));
      at_ += point.bytes;
      continue;
    }
    if (++at_ >= text_.size()) fail("string ends in the middle");
    const char escape = text_[at_++];
    static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    if (const auto found = kFrom.find(escape); found != std::string_view::npos) {
      out += kTo[found];
      continue;
    }
    if (escape != 'u') fail("unknown escape in a string");
    char32_t value = read_hex4();
    if (value >= 0xD800 && value <= 0xDBFF) {
      if (text_.substr(at_, 2) != "\\u") fail("half of a surrogate pair");
      at_ += 2;
      const unsigned low = read_hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
      value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
    } else if (value >= 0xDC00 && value <= 0xDFFF) {
      fail("half of a surrogate pair");
    }
    append_utf8(out, value);
  }
}

std::uint64_t JsonReader::read_unsigned() {
  skip_space();
  std::uint64_t value = 0;
  const char* begin = text_.data() + at_;
  const char* limit = text_.data() + text_.size();
  if (begin == limit || !is_digit(*begin)) fail("whole number of at least 0 expected");
  const auto [end, error] = std::from_chars(begin, limit, value);
  if (error != std::errc()) fail("number does not fit 64 bits");
  if (end - begin > 1 && *begin == '0') fail("number with a leading zero");
  if (end != limit && (*end == '.' || *end == 'e' || *end == 'E')) fail("whole number expected");
  at_ += end - begin;
  return value;
}

double JsonReader::read_number() {
  skip_space();
  const std::size_t begin = at_;
  std::size_t at = at_;
  const auto digits = [&] {
    const std::size_t first = at;
    while (at < text_.size() && is_digit(text_[at])) ++at;
    return at - first;
  };
  if (at < text_.size() && text_[at] == '-') ++at;
  const std::size_t whole = at;
  const std::size_t whole_digits = digits();
  if (whole_digits == 0) fail("number expected");
  if (whole_digits > 1 && text_[whole] == '0') fail("number with a leading zero");
  if (at < text_.size() && text_[at] == '.') {
    ++at;
    if (digits() == 0) fail("digits expected after '.'");
  }
  if (at < text_.size() && (text_[at] == 'e' || text_[at] == 'E')) {
    ++at;
    if (at < text_.size() && (text_[at] == '+' || text_[at] == '-')) ++at;
    if (digits() == 0) fail("digits expected in the exponent");
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text_.data() + begin, text_.data() + at, value);
  if (error != std::errc() || end != text_.data() + at || !std::isfinite(value)) fail("number out of range");
  at_ = at;
  return value;
}

void JsonReader::take_word(std::string_view word) {
  skip_space();
  if (text_.substr(at_, word.size()) != word) fail(std::string(word) + " expected");
  at_ += word.size();
}

bool JsonReader::read_boolean() {
  const bool is_true = peek() == Kind::True;
  take_word(is_true ? "true" : "false");
  return is_true;
}

void JsonReader::read_null() { take_word("null"); }

void JsonReader::skip() {
  switch (peek()) {
    case Kind::Object: {
      begin_object();
      std::string key;
      while (next_member(key)) skip();
      return;
    }
    case Kind::Array:
      begin_array();
      while (next_element()) skip();
      return;
    case Kind::String: read_string(); return;
    case Kind::Number: read_number(); return;
    case Kind::True:
    case Kind::False: read_boolean(); return;
    case Kind::Null: read_null(); return;
    case Kind::End: fail("ends in the middle");
  }
}

void JsonReader::expect_end() {
  if (peek() != Kind::End) fail("something follows the document");
}

JsonValue JsonValue::read(JsonReader& reader, const std::string& path, std::size_t& budget) {
  if (budget-- == 0) reader.fail("more than " + std::to_string(kMaxValues) + " values");
  JsonValue value;
  // Paths of array elements are not kept: a vocabulary has a hundred thousand of them.
  value.kind_ = reader.peek();
  value.path_ = path;
  switch (value.kind_) {
    case Kind::Object: {
      reader.begin_object();
      std::unordered_set<std::string> seen;
      std::string key;
      while (reader.next_member(key)) {
        if (!seen.insert(key).second) reader.fail("field \"" + printable(key) + "\" appears twice");
        const bool is_shallow = path.size() < 200;
        value.members_.emplace_back(key, read(reader, is_shallow ? path + "." + printable(key, 40) : path, budget));
      }
      break;
    }
    case Kind::Array:
      reader.begin_array();
      while (reader.next_element()) value.elements_.push_back(read(reader, path, budget));
      break;
    case Kind::String: value.string_ = reader.read_string(); break;
    case Kind::Number: value.number_ = reader.read_number(); break;
    case Kind::True:
    case Kind::False: reader.read_boolean(); break;
    case Kind::Null: reader.read_null(); break;
    case Kind::End: reader.fail("empty");
  }
  return value;
}

JsonValue JsonValue::parse(std::string_view text, const std::string& name) {
  JsonReader reader(text, name);
  std::size_t budget = kMaxValues;
  JsonValue value = read(reader, name, budget);
  reader.expect_end();
  return value;
}

void JsonValue::mismatch(const char* wanted) const {
  throw Error("model_invalid", path_ + ": " + wanted + " expected", "", "Only files of the documented form can be read.");
}

const JsonValue* JsonValue::find(std::string_view key) const {
  for (const auto& [name, value] : members_)
    if (name == key) return &value;
  return nullptr;
}

const JsonValue& JsonValue::at(std::string_view key) const {
  if (kind_ != Kind::Object) mismatch("object");
  if (const JsonValue* found = find(key)) return *found;
  throw Error("model_invalid", path_ + ": field \"" + std::string(key) + "\" is missing", "",
              "Only files of the documented form can be read.");
}

const std::string& JsonValue::as_string() const {
  if (kind_ != Kind::String) mismatch("string");
  return string_;
}

double JsonValue::as_number() const {
  if (kind_ != Kind::Number) mismatch("number");
  return number_;
}

std::int64_t JsonValue::as_integer() const {
  if (kind_ != Kind::Number || number_ != std::floor(number_) || std::fabs(number_) > 9e15) mismatch("whole number");
  return static_cast<std::int64_t>(number_);
}

bool JsonValue::as_boolean() const {
  if (kind_ != Kind::True && kind_ != Kind::False) mismatch("true or false");
  return kind_ == Kind::True;
}

const std::vector<JsonValue>& JsonValue::elements() const {
  if (kind_ != Kind::Array) mismatch("list");
  return elements_;
}

const std::vector<std::pair<std::string, JsonValue>>& JsonValue::members() const {
  if (kind_ != Kind::Object) mismatch("object");
  return members_;
}

}  // namespace pgtrain::engine::core
