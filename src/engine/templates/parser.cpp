// From tokens to the tree, with jinja2's grammar. What a template may not use is refused here, by its name and line.
// One class, because statements hold expressions and both look at the same tokens; it reads from top to bottom of the grammar.
#include <algorithm>

#include "engine/templates/builtins.hpp"
#include "engine/templates/lexer.hpp"
#include "engine/templates/syntax.hpp"

namespace pgtrain::engine::templates {
namespace {

// The evaluator and the destructors recurse as deep as this.
constexpr int kMaxDepth = 100;

bool is_one_of(const std::string& text, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return text == name; });
}

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Program run() {
    program_.body = parse_body({});
    for (const auto& [name, line] : called_)
      if (std::find(macros_.begin(), macros_.end(), name) == macros_.end()) throw SyntaxFailure{line, "the function " + name + "()", true};
    return std::move(program_);
  }

 private:
  struct Nesting {
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser_.nesting_ > kMaxDepth) parser_.refuse("nesting deeper than " + std::to_string(kMaxDepth));
    }
    ~Nesting() { --parser_.nesting_; }
    Parser& parser_;
  };

  const Token& now() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  [[noreturn]] void fail(const std::string& message) const { throw SyntaxFailure{now().line, message, false}; }
  [[noreturn]] void refuse(const std::string& what) const { throw SyntaxFailure{now().line, what, true}; }
  bool is_name(const char* name) const { return now().kind == TokenKind::Name && now().text == name; }
  bool is_operator(const char* text) const { return now().kind == TokenKind::Operator && now().text == text; }
  bool take_name(const char* name) { return is_name(name) && ++at_; }
  bool take_operator(const char* text) { return is_operator(text) && ++at_; }
  std::string describe() const {
    switch (now().kind) {
      case TokenKind::OutputEnd:
      case TokenKind::BlockEnd: return "the end of the tag";
      case TokenKind::Integer:
      case TokenKind::Float: return "a number";
      case TokenKind::String: return "a string";
      default: return "'" + now().text + "'";
    }
  }
  void expect_operator(const char* text) {
    if (!take_operator(text)) fail(std::string("'") + text + "' expected, not " + describe());
  }
  std::string expect_name() {
    if (now().kind != TokenKind::Name) fail("a name expected, not " + describe());
    return tokens_[at_++].text;
  }
  void expect_block_end() {
    if (now().kind != TokenKind::BlockEnd) fail("the end of the tag expected, not " + describe());
    ++at_;
  }

  // Statements

  // Up to the tag that has one of these names; that tag's name is the present token then.
  Body parse_body(std::initializer_list<const char*> ends) {
    const Nesting nesting(*this);
    Body body;
    while (true) {
      switch (now().kind) {
        case TokenKind::End:
          if (ends.size() > 0) fail(std::string("the template ends before '") + *(ends.end() - 1) + "'");
          return body;
        case TokenKind::Data:
          body.push_back(statement(StatementKind::Data));
          body.back().data = now().text;
          ++at_;
          break;
        case TokenKind::OutputBegin:
          ++at_;
          body.push_back(statement(StatementKind::Output));
          body.back().expressions.push_back(parse_tuple());
          if (now().kind != TokenKind::OutputEnd) fail("the end of the tag expected, not " + describe());
          ++at_;
          break;
        default: {
          ++at_;
          if (now().kind != TokenKind::Name) fail("the name of a tag expected, not " + describe());
          if (is_one_of(now().text, ends)) return body;
          parse_statement(body);
          expect_block_end();
        }
      }
    }
  }

  Body parse_block(std::initializer_list<const char*> ends) {
    take_operator(":");
    expect_block_end();
    return parse_body(ends);
  }

  Statement statement(StatementKind kind) const {
    Statement out;
    out.kind = kind, out.line = now().line;
    return out;
  }

  void parse_statement(Body& body) {
    const std::string tag = now().text;
    if (tag == "if") body.push_back(parse_if());
    else if (tag == "for") body.push_back(parse_for());
    else if (tag == "set") body.push_back(parse_set());
    else if (tag == "with") body.push_back(parse_with());
    else if (tag == "macro") body.push_back(parse_macro());
    else if (tag == "generation") body.push_back(parse_generation());
    else if (tag == "print") body.push_back(parse_print());
    else if (tag == "break" || tag == "continue") body.push_back(parse_jump());
    else if (is_one_of(tag, {"raw", "call", "filter", "block", "extends", "include", "import", "from", "autoescape", "do", "trans", "debug"})) refuse("the tag '" + tag + "'");
    else fail("the tag '" + tag + "' is not known or not open here");
  }

  Statement parse_print() {
    Statement out = statement(StatementKind::Output);
    ++at_;
    while (now().kind != TokenKind::BlockEnd) {
      if (!out.expressions.empty()) expect_operator(",");
      out.expressions.push_back(parse_expression());
    }
    return out;
  }

  Statement parse_jump() {
    Statement out = statement(is_name("break") ? StatementKind::Break : StatementKind::Continue);
    if (loops_ == 0) fail("'" + now().text + "' outside of a for");
    ++at_;
    return out;
  }

  Statement parse_if() {
    Statement out = statement(StatementKind::If);
    do {
      ++at_;
      out.expressions.push_back(parse_tuple(false));
      out.bodies.push_back(parse_block({"elif", "else", "endif"}));
    } while (is_name("elif"));
    if (take_name("else")) out.bodies.push_back(parse_block({"endif"}));
    else out.bodies.emplace_back();
    ++at_;
    return out;
  }

  Statement parse_for() {
    Statement out = statement(StatementKind::For);
    ++at_;
    out.targets.push_back(parse_target(false, "in"));
    if (!take_name("in")) fail("'in' expected, not " + describe());
    out.expressions.push_back(parse_tuple(false, "recursive"));
    out.expressions.push_back(take_name("if") ? parse_expression() : nullptr);
    if (is_name("recursive")) refuse("for ... recursive");
    ++loops_, ++scopes_;
    out.bodies.push_back(parse_block({"else", "endfor"}));
    --loops_;
    if (take_name("else")) out.bodies.push_back(parse_block({"endfor"}));
    else out.bodies.emplace_back();
    --scopes_;
    ++at_;
    out.frames.resize(3);
    return out;
  }

  Statement parse_set() {
    Statement out = statement(StatementKind::Set);
    ++at_;
    out.targets.push_back(parse_target(true, nullptr));
    if (take_operator("=")) {
      out.expressions.push_back(parse_tuple());
      return out;
    }
    out.kind = StatementKind::SetBlock;
    if (is_operator("|")) out.expressions.push_back(parse_filters(nullptr));
    parse_own_body(out, "endset");
    return out;
  }

  Statement parse_with() {
    Statement out = statement(StatementKind::With);
    ++at_;
    while (now().kind != TokenKind::BlockEnd) {
      if (!out.targets.empty()) expect_operator(",");
      out.targets.push_back(parse_target(false, nullptr));
      expect_operator("=");
      out.expressions.push_back(parse_expression());
    }
    // Loops go on through a with, other bodies end them.
    ++scopes_;
    out.bodies.push_back(parse_block({"endwith"}));
    --scopes_;
    ++at_;
    out.frames.resize(1);
    return out;
  }

  void parse_own_body(Statement& out, const char* end) {
    const int loops = std::exchange(loops_, 0);
    ++scopes_;
    out.bodies.push_back(parse_block({end}));
    --scopes_;
    loops_ = loops;
    ++at_;
    out.frames.resize(1);
  }

  Statement parse_generation() {
    Statement out = statement(StatementKind::Generation);
    ++at_;
    program_.has_generation = true;
    parse_own_body(out, "endgeneration");
    return out;
  }

  Statement parse_macro() {
    if (scopes_ > 0) refuse("a macro inside of another block");
    Statement out = statement(StatementKind::Macro);
    ++at_;
    out.data = expect_name();
    macros_.push_back(out.data);
    expect_operator("(");
    while (!is_operator(")")) {
      if (!out.targets.empty()) expect_operator(",");
      Target argument;
      argument.line = now().line;
      argument.name = expect_name();
      for (const Target& other : out.targets)
        if (other.name == argument.name) fail("the argument '" + argument.name + "' stands twice");
      out.targets.push_back(std::move(argument));
      if (take_operator("=")) out.defaults.push_back(parse_expression());
      else if (!out.defaults.empty()) fail("an argument without a default follows one with a default");
    }
    ++at_;
    in_macro_ = true;
    parse_own_body(out, "endmacro");
    in_macro_ = false;
    return out;
  }

  Target parse_target(bool may_be_namespace, const char* end) {
    std::vector<Target> parts;
    const int line = now().line;
    bool is_tuple = false;
    while (true) {
      if (!parts.empty() && (now().kind != TokenKind::Name || (end != nullptr && is_name(end)))) break;
      parts.push_back(parse_single_target(may_be_namespace));
      if (!take_operator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) return std::move(parts.front());
    Target out;
    out.line = line;
    out.parts = std::move(parts);
    return out;
  }

  Target parse_single_target(bool may_be_namespace) {
    if (is_operator("(")) refuse("brackets around what is assigned to");
    Target out;
    out.line = now().line;
    out.name = expect_name();
    if (is_one_of(out.name, {"true", "false", "none", "True", "False", "None"})) fail("'" + out.name + "' cannot be assigned to");
    if (out.name == "loop") refuse("assigning to 'loop'");
    check_name(out.name);
    if (may_be_namespace && take_operator(".")) out.attribute = expect_name();
    return out;
  }

  void check_name(const std::string& name) const {
    if (is_one_of(name, {"and", "or", "not", "if", "else", "elif", "in", "is", "for"})) refuse("'" + name + "' as a name");
    if (in_macro_ && is_one_of(name, {"caller", "varargs", "kwargs"})) refuse("'" + name + "' inside of a macro");
  }

  // Expressions

  ExpressionPointer make(ExpressionKind kind, int line) const {
    auto out = std::make_unique<Expression>();
    out->kind = kind, out->line = line;
    return out;
  }
  void append(Expression& parent, ExpressionPointer child) const {
    if (child) deepen(parent, *child);
    parent.operands.push_back(std::move(child));
  }
  void deepen(Expression& parent, const Expression& child) const {
    parent.depth = std::max(parent.depth, child.depth + 1);
    if (parent.depth > kMaxDepth) refuse("an expression deeper than " + std::to_string(kMaxDepth));
  }
  ExpressionPointer join(ExpressionKind kind, int line, ExpressionPointer left, ExpressionPointer right) const {
    auto out = make(kind, line);
    append(*out, std::move(left));
    append(*out, std::move(right));
    return out;
  }
  ExpressionPointer constant(Value value) const {
    auto out = make(ExpressionKind::Constant, now().line);
    out->constant = std::move(value);
    return out;
  }

  ExpressionPointer parse_tuple(bool with_condition = true, const char* end = nullptr, bool in_brackets = false) {
    const int line = now().line;
    std::vector<ExpressionPointer> items;
    bool is_tuple = false;
    while (now().kind != TokenKind::OutputEnd && now().kind != TokenKind::BlockEnd && !is_operator(")") && !(end != nullptr && is_name(end))) {
      items.push_back(with_condition ? parse_expression() : parse_or());
      if (!take_operator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && !items.empty()) return std::move(items.front());
    if (!is_tuple && !in_brackets) fail("an expression expected, not " + describe());
    auto out = make(ExpressionKind::Tuple, line);
    for (auto& item : items) append(*out, std::move(item));
    return out;
  }

  ExpressionPointer parse_expression() {
    const Nesting nesting(*this);
    auto value = parse_or();
    while (is_name("if")) {
      auto out = make(ExpressionKind::Conditional, now().line);
      ++at_;
      append(*out, parse_or());
      append(*out, std::move(value));
      append(*out, take_name("else") ? parse_expression() : nullptr);
      value = std::move(out);
    }
    return value;
  }

  ExpressionPointer parse_or() {
    auto left = parse_and();
    while (is_name("or")) {
      const int line = tokens_[at_++].line;
      left = join(ExpressionKind::Or, line, std::move(left), parse_and());
    }
    return left;
  }

  ExpressionPointer parse_and() {
    auto left = parse_not();
    while (is_name("and")) {
      const int line = tokens_[at_++].line;
      left = join(ExpressionKind::And, line, std::move(left), parse_not());
    }
    return left;
  }

  ExpressionPointer parse_not() {
    if (!is_name("not")) return parse_compare();
    const Nesting nesting(*this);
    auto out = make(ExpressionKind::Not, tokens_[at_++].line);
    append(*out, parse_not());
    return out;
  }

  ExpressionPointer parse_compare() {
    static constexpr std::pair<const char*, Comparison> kOperators[] = {{"==", Comparison::Equal}, {"!=", Comparison::NotEqual}, {"<", Comparison::Less}, {"<=", Comparison::LessOrEqual}, {">", Comparison::Greater}, {">=", Comparison::GreaterOrEqual}};
    auto out = make(ExpressionKind::Compare, now().line);
    append(*out, parse_sum());
    while (true) {
      const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators), [this](const auto& entry) { return is_operator(entry.first); });
      if (found != std::end(kOperators)) {
        ++at_;
        out->comparisons.push_back(found->second);
      } else if (take_name("in")) {
        out->comparisons.push_back(Comparison::In);
      } else if (is_name("not") && next().kind == TokenKind::Name && next().text == "in") {
        at_ += 2;
        out->comparisons.push_back(Comparison::NotIn);
      } else {
        break;
      }
      append(*out, parse_sum());
    }
    return out->comparisons.empty() ? std::move(out->operands.front()) : std::move(out);
  }

  ExpressionPointer parse_sum() {
    auto left = parse_concatenation();
    while (is_operator("+") || is_operator("-")) {
      const auto kind = is_operator("+") ? ExpressionKind::Add : ExpressionKind::Subtract;
      const int line = tokens_[at_++].line;
      left = join(kind, line, std::move(left), parse_concatenation());
    }
    return left;
  }

  ExpressionPointer parse_concatenation() {
    auto out = make(ExpressionKind::Concatenate, now().line);
    append(*out, parse_product());
    while (take_operator("~")) append(*out, parse_product());
    return out->operands.size() == 1 ? std::move(out->operands.front()) : std::move(out);
  }

  ExpressionPointer parse_product() {
    static constexpr std::pair<const char*, ExpressionKind> kOperators[] = {{"*", ExpressionKind::Multiply}, {"/", ExpressionKind::Divide}, {"//", ExpressionKind::FloorDivide}, {"%", ExpressionKind::Modulo}};
    auto left = parse_unary();
    while (true) {
      if (is_operator("**")) refuse("the operator **");
      const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators), [this](const auto& entry) { return is_operator(entry.first); });
      if (found == std::end(kOperators)) return left;
      if (found->second == ExpressionKind::Modulo && left->kind == ExpressionKind::Constant && left->constant.is_text()) refuse("the operator % on a text");
      const int line = tokens_[at_++].line;
      left = join(found->second, line, std::move(left), parse_unary());
    }
  }

  ExpressionPointer parse_unary(bool with_filters = true) {
    const Nesting nesting(*this);
    ExpressionPointer value;
    if (is_operator("-") || is_operator("+")) {
      auto out = make(is_operator("-") ? ExpressionKind::Negative : ExpressionKind::Positive, now().line);
      ++at_;
      append(*out, parse_unary(false));
      value = std::move(out);
    } else {
      value = parse_primary();
    }
    value = parse_postfix(std::move(value));
    if (!with_filters) return value;
    while (true) {
      if (is_operator("|")) value = parse_filters(std::move(value));
      else if (is_name("is")) value = parse_test(std::move(value));
      else if (is_operator("(")) value = parse_call(std::move(value));
      else return value;
    }
  }

  ExpressionPointer parse_primary() {
    ExpressionPointer out;
    const Token& token = now();
    switch (token.kind) {
      case TokenKind::Name:
        if (is_one_of(token.text, {"true", "True"})) out = constant(Value::boolean(true));
        else if (is_one_of(token.text, {"false", "False"})) out = constant(Value::boolean(false));
        else if (is_one_of(token.text, {"none", "None"})) out = constant(Value::none());
        else {
          check_name(token.text);
          out = make(ExpressionKind::Name, token.line);
          out->name = token.text;
        }
        ++at_;
        return out;
      case TokenKind::String: {
        std::string text;
        for (; now().kind == TokenKind::String; ++at_) text += now().text;
        return constant(Value::text(std::move(text)));
      }
      case TokenKind::Integer:
        out = constant(Value::integer(token.integer));
        ++at_;
        return out;
      case TokenKind::Float:
        out = constant(Value::real(token.number));
        ++at_;
        return out;
      default: break;
    }
    if (take_operator("(")) {
      out = parse_tuple(true, nullptr, true);
      expect_operator(")");
      return out;
    }
    if (is_operator("[")) return parse_display(ExpressionKind::List, "]");
    if (is_operator("{")) return parse_display(ExpressionKind::Mapping, "}");
    fail("an expression expected, not " + describe());
  }

  ExpressionPointer parse_display(ExpressionKind kind, const char* end) {
    auto out = make(kind, now().line);
    ++at_;
    while (!is_operator(end)) {
      if (!out->operands.empty()) {
        expect_operator(",");
        if (is_operator(end)) break;
      }
      append(*out, parse_expression());
      if (kind != ExpressionKind::Mapping) continue;
      expect_operator(":");
      append(*out, parse_expression());
    }
    ++at_;
    return out;
  }

  ExpressionPointer parse_postfix(ExpressionPointer value) {
    while (true) {
      if (is_operator(".")) value = parse_attribute(std::move(value));
      else if (is_operator("[")) value = parse_item(std::move(value));
      else if (is_operator("(")) value = parse_call(std::move(value));
      else return value;
    }
  }

  ExpressionPointer parse_attribute(ExpressionPointer value) {
    auto out = make(ExpressionKind::Attribute, now().line);
    ++at_;
    append(*out, std::move(value));
    if (now().kind == TokenKind::Integer) {
      out->kind = ExpressionKind::Item;
      append(*out, constant(Value::integer(now().integer)));
      ++at_;
      return out;
    }
    out->name = expect_name();
    if (out->name.starts_with("__")) refuse("the attribute '" + out->name + "'");
    if (out->operands[0]->kind == ExpressionKind::Name && out->operands[0]->name == "loop" && is_one_of(out->name, {"cycle", "changed", "depth", "depth0"})) refuse("loop." + out->name);
    return out;
  }

  ExpressionPointer parse_item(ExpressionPointer value) {
    auto out = make(ExpressionKind::Item, now().line);
    ++at_;
    append(*out, std::move(value));
    append(*out, parse_subscript());
    if (is_operator(",")) refuse("several subscripts at once");
    expect_operator("]");
    return out;
  }

  ExpressionPointer parse_subscript() {
    auto slice = make(ExpressionKind::Slice, now().line);
    ExpressionPointer start;
    if (!is_operator(":")) start = parse_expression();
    if (!take_operator(":")) return start;
    append(*slice, std::move(start));
    const auto part = [this]() -> ExpressionPointer { return is_operator("]") || is_operator(",") || is_operator(":") ? nullptr : parse_expression(); };
    append(*slice, part());
    append(*slice, take_operator(":") ? part() : nullptr);
    return slice;
  }

  void parse_arguments(Expression& call) {
    expect_operator("(");
    bool is_first = true;
    while (!is_operator(")")) {
      if (!is_first) {
        expect_operator(",");
        if (is_operator(")")) break;
      }
      is_first = false;
      if (is_operator("*") || is_operator("**")) refuse("arguments by '" + now().text + "'");
      if (now().kind == TokenKind::Name && next().kind == TokenKind::Operator && next().text == "=") {
        std::string name = expect_name();
        ++at_;
        auto value = parse_expression();
        deepen(call, *value);
        for (const auto& [other, held] : call.keywords)
          if (other == name) fail("the argument '" + name + "' stands twice");
        call.keywords.emplace_back(std::move(name), std::move(value));
      } else {
        if (!call.keywords.empty()) fail("an argument without a name follows one with a name");
        append(call, parse_expression());
      }
    }
    ++at_;
  }

  ExpressionPointer parse_call(ExpressionPointer callee) {
    auto out = make(ExpressionKind::Call, now().line);
    if (callee->kind == ExpressionKind::Attribute) {
      if (!is_method(callee->name)) refuse("the method ." + callee->name + "()");
    } else if (callee->kind != ExpressionKind::Name) {
      refuse("calling what is not a name");
    } else if (find_function(callee->name) < 0) {
      called_.emplace_back(callee->name, callee->line);
    }
    append(*out, std::move(callee));
    parse_arguments(*out);
    return out;
  }

  std::string parse_dotted_name() {
    std::string name = expect_name();
    while (take_operator(".")) name += "." + expect_name();
    return name;
  }

  // value: null in {% set x | filter %}, where the text of the block comes in.
  ExpressionPointer parse_filters(ExpressionPointer value) {
    do {
      auto out = make(ExpressionKind::Filter, now().line);
      ++at_;
      out->name = parse_dotted_name();
      out->entry = find_filter(out->name);
      if (out->entry < 0) {
        --at_;
        refuse("the filter '" + out->name + "'");
      }
      append(*out, std::move(value));
      if (is_operator("(")) parse_arguments(*out);
      check_named_builtin(*out);
      value = std::move(out);
    } while (is_operator("|"));
    return value;
  }

  // Filters that take the name of a filter or of a test are held to the same list as the template itself.
  void check_named_builtin(const Expression& filter) const {
    const bool takes_filter = filter.name == "map";
    const std::size_t at = is_one_of(filter.name, {"selectattr", "rejectattr"}) ? 2 : is_one_of(filter.name, {"select", "reject", "map"}) ? 1 : 0;
    if (at == 0 || filter.operands.size() <= at) return;
    const Expression& name = *filter.operands[at];
    if (name.kind != ExpressionKind::Constant || !name.constant.is_text()) refuse("the filter '" + filter.name + "' with a name that is not a plain string");
    if ((takes_filter ? find_filter(name.constant.bytes()) : find_test(name.constant.bytes())) < 0)
      refuse(std::string(takes_filter ? "the filter '" : "the test '") + name.constant.bytes() + "' in '" + filter.name + "'");
  }

  ExpressionPointer parse_test(ExpressionPointer value) {
    const int line = tokens_[at_++].line;
    const bool is_negated = take_name("not");
    auto out = make(ExpressionKind::Test, line);
    out->name = parse_dotted_name();
    out->entry = find_test(out->name);
    if (out->entry < 0) {
      --at_;
      refuse("the test '" + out->name + "'");
    }
    append(*out, std::move(value));
    const TokenKind kind = now().kind;
    if (is_operator("(")) {
      parse_arguments(*out);
    } else if (is_name("is")) {
      fail("tests cannot follow each other");
    } else if ((kind == TokenKind::Name && !is_one_of(now().text, {"else", "or", "and"})) || kind == TokenKind::String || kind == TokenKind::Integer || kind == TokenKind::Float || is_operator("[") || is_operator("{")) {
      append(*out, parse_postfix(parse_primary()));
    }
    if (!is_negated) return out;
    auto negated = make(ExpressionKind::Not, line);
    append(*negated, std::move(out));
    return negated;
  }

  const std::vector<Token> tokens_;
  Program program_;
  std::size_t at_ = 0;
  int nesting_ = 0, loops_ = 0, scopes_ = 0;
  bool in_macro_ = false;
  std::vector<std::string> macros_;
  std::vector<std::pair<std::string, int>> called_;  // a macro may call one that comes later
};

}  // namespace

Program parse_template(std::string_view source) {
  Program program = Parser(source).run();
  resolve_names(program);
  return program;
}

}  // namespace pgtrain::engine::templates
