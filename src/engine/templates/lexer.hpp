// Cuts a template into data and tokens, with the white space taken away where jinja2 takes it away under trim_blocks and
// lstrip_blocks, as transformers sets them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::engine::templates {

enum class TokenKind { Data, OutputBegin, OutputEnd, BlockBegin, BlockEnd, Name, String, Integer, Float, Operator, End };

struct Token {
  TokenKind kind = TokenKind::End;
  int line = 1;
  std::string text;  // Data, Name, String (unescaped), Operator
  std::int64_t integer = 0;
  double number = 0;
};

// What a template may not hold, or what makes no sense, with its line.
struct SyntaxFailure {
  int line;
  std::string message;
  bool is_outside_subset;
};

std::vector<Token> tokenize(std::string_view source);

}  // namespace pgtrain::engine::templates
