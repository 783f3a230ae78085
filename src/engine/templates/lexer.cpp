// The lexer: text up to the next tag, then tokens up to the tag's end.
#include "engine/templates/lexer.hpp"

#include <algorithm>
#include <charconv>

#include "engine/core/json.hpp"
#include "engine/core/utf8.hpp"
#include "engine/templates/text.hpp"

namespace pgtrain::engine::templates {
namespace {

constexpr std::size_t kMaxTokens = 200'000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// jinja2 knows one kind of line end, and drops one at the end of the source.
std::string with_plain_line_ends(std::string_view source) {
  std::string out;
  for (std::size_t at = 0; at < source.size(); ++at) {
    if (source[at] != '\r') {
      out += source[at];
      continue;
    }
    out += '\n';
    if (at + 1 < source.size() && source[at + 1] == '\n') ++at;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(with_plain_line_ends(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_data();
    add(TokenKind::End);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message, bool is_outside_subset = false) const { throw SyntaxFailure{line_, message, is_outside_subset}; }
  Token& add(TokenKind kind, std::string text = "") {
    if (tokens_.size() >= kMaxTokens) fail("more than " + std::to_string(kMaxTokens) + " tokens", true);
    tokens_.push_back({kind, line_, std::move(text), 0, 0});
    return tokens_.back();
  }
  bool starts(std::string_view wanted, std::size_t at) const { return std::string_view(source_).substr(at, wanted.size()) == wanted; }
  bool is_space_at(std::size_t at, std::size_t& size) const {
    const core::CodePoint point = core::decode_utf8(source_, at);
    size = point.bytes;
    return is_space(point.value);
  }

  // Everything that moves on counts lines and remembers whether what was taken last ended a line.
  void take(std::size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + end, '\n'));
    if (end > at_) line_starting_ = source_[end - 1] == '\n';
    at_ = end;
  }
  void take_space() {
    std::size_t end = at_, size = 0;
    while (end < source_.size() && is_space_at(end, size)) end += size;
    take(end);
  }

  static std::string_view without_trailing_space(std::string_view text) {
    while (!text.empty()) {
      std::size_t at = text.size() - 1;
      while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
      if (!is_space(core::decode_utf8(text, at).value)) break;
      text = text.substr(0, at);
    }
    return text;
  }

  void read_data() {
    std::size_t tag = at_;
    while (tag < source_.size() && !(source_[tag] == '{' && tag + 1 < source_.size() && (source_[tag + 1] == '{' || source_[tag + 1] == '%' || source_[tag + 1] == '#'))) ++tag;
    std::string_view data = std::string_view(source_).substr(at_, tag - at_);
    if (tag == source_.size()) {
      if (!data.empty()) add(TokenKind::Data, std::string(data));
      take(tag);
      return;
    }
    const char opened = source_[tag + 1], sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    if (sign == '-') {
      data = without_trailing_space(data);
    } else if (sign != '+' && opened != '{') {
      const std::size_t newline = data.rfind('\n'), line = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line > 0 || line_starting_) && without_trailing_space(data.substr(line)).empty()) data = data.substr(0, line);
    }
    if (!data.empty()) add(TokenKind::Data, std::string(data));
    take(tag + (sign == '-' || sign == '+' ? 3 : 2));
    if (opened == '#') return skip_comment();
    add(opened == '{' ? TokenKind::OutputBegin : TokenKind::BlockBegin);
    read_tokens(opened == '{');
  }

  void skip_comment() {
    const std::size_t close = source_.find("#}", at_);
    if (close == std::string::npos) fail("the comment has no end");
    end_tag(close, close > at_ ? source_[close - 1] : ' ', false);
  }

  // `close` is where the two letters of the end are, `sign` what stands before them.
  void end_tag(std::size_t close, char sign, bool is_output) {
    take(close + 2);
    if (sign == '-') take_space();
    else if (!is_output && sign != '+' && at_ < source_.size() && source_[at_] == '\n') take(at_ + 1);
  }

  void read_tokens(bool is_output) {
    const std::string_view end = is_output ? "}}" : "%}";
    std::string open;
    while (true) {
      std::size_t size = 0;
      while (at_ < source_.size() && is_space_at(at_, size)) take(at_ + size);
      if (at_ == source_.size()) fail("the tag has no end");
      if (open.empty()) {
        const bool is_signed = source_[at_] == '-' || (source_[at_] == '+' && !is_output);
        if (starts(end, at_ + is_signed)) {
          add(is_output ? TokenKind::OutputEnd : TokenKind::BlockEnd);
          return end_tag(at_ + is_signed, is_signed ? source_[at_] : ' ', is_output);
        }
      }
      const char c = source_[at_];
      if (is_digit(c)) read_number();
      else if (is_letter(c)) read_name();
      else if (c == '\'' || c == '"') read_string();
      else read_operator(open);
    }
  }

  void read_name() {
    std::size_t end = at_;
    while (end < source_.size() && (is_letter(source_[end]) || is_digit(source_[end]))) ++end;
    if (end < source_.size() && static_cast<unsigned char>(source_[end]) >= 0x80) fail("a name with letters outside of ASCII", true);
    add(TokenKind::Name, source_.substr(at_, end - at_));
    take(end);
  }

  void read_number() {
    std::size_t end = at_;
    const auto digits = [&] {
      const std::size_t first = end;
      while (end < source_.size() && is_digit(source_[end])) ++end;
      return end > first;
    };
    digits();
    bool is_float = false;
    if (at_ == 0 || source_[at_ - 1] != '.') {
      const std::size_t whole = end;
      if (end < source_.size() && source_[end] == '.') {
        ++end;
        is_float = digits();
        if (!is_float) end = whole;
      }
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        const std::size_t mark = end++;
        if (end < source_.size() && (source_[end] == '+' || source_[end] == '-')) ++end;
        if (digits()) is_float = true;
        else end = mark;
      }
    }
    if (end < source_.size() && (is_letter(source_[end]) || static_cast<unsigned char>(source_[end]) >= 0x80)) fail("a number that is not written in plain decimal digits", true);
    const std::string_view text = std::string_view(source_).substr(at_, end - at_);
    Token& token = add(is_float ? TokenKind::Float : TokenKind::Integer);
    if (!is_float && text.size() > 1 && text[0] == '0') fail("a number with a leading zero", true);
    const auto result = is_float ? std::from_chars(text.data(), text.data() + text.size(), token.number) : std::from_chars(text.data(), text.data() + text.size(), token.integer);
    if (result.ec != std::errc()) fail("a number of more than 64 bits", true);
    take(end);
  }

  void read_string() {
    const char quote = source_[at_];
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("the string has no end");
    std::string text;
    for (std::size_t at = at_ + 1; at < end;) {
      if (source_[at] != '\\') text += source_[at++];
      else unescape(++at, text);
    }
    add(TokenKind::String, std::move(text));
    take(end + 1);
  }

  unsigned read_escape_digits(std::size_t& at, std::size_t most, int base, bool exactly) {
    unsigned value = 0;
    const std::size_t limit = std::min(at + most, source_.size());
    const auto result = std::from_chars(source_.data() + at, source_.data() + limit, value, base);
    const std::size_t read = result.ptr - (source_.data() + at);
    if (result.ec != std::errc() || (exactly && read != most)) fail("an escape with too few digits in a string");
    at += read;
    return value;
  }

  // at: behind the backslash.
  void unescape(std::size_t& at, std::string& text) {
    static constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    const char c = source_[at];
    if (const auto found = kFrom.find(c); found != std::string_view::npos) {
      text += kTo[found];
      ++at;
    } else if (c == '\n') {
      ++at;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      ++at;
      append_point(read_escape_digits(at, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16, true), text);
    } else if (c >= '0' && c <= '7') {
      append_point(read_escape_digits(at, 3, 8, false), text);
    } else if (c == 'N') {
      fail("a character by its name in a string", true);
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      fail("a backslash before a letter outside of ASCII in a string", true);
    } else {
      text += '\\';
    }
  }

  void append_point(unsigned value, std::string& text) {
    if (value > 0x10FFFF) fail("an escape beyond the last character in a string");
    if (value >= 0xD800 && value <= 0xDFFF) fail("half of a surrogate pair in a string", true);
    core::append_utf8(text, value);
  }

  void read_operator(std::string& open) {
    static constexpr std::string_view kLong[] = {"**", "//", "==", "!=", "<=", ">="};
    for (const std::string_view text : kLong) {
      if (!starts(text, at_)) continue;
      add(TokenKind::Operator, std::string(text));
      return take(at_ + 2);
    }
    const char c = source_[at_];
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(c) == std::string_view::npos)
      fail("the character '" + core::printable(std::string_view(source_).substr(at_, core::decode_utf8(source_, at_).bytes)) + "' has no meaning here");
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) fail(std::string("'") + c + "' without its opening bracket");
      open.pop_back();
    }
    add(TokenKind::Operator, std::string(1, c));
    take(at_ + 1);
  }

  const std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace pgtrain::engine::templates
