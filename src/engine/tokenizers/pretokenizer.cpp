// The scanners. What an alternation of a pattern would try in turn is written as the order of the tests; where the pattern
// would take characters back, the function says why it need not.
#include "engine/tokenizers/pretokenizer.hpp"

#include <algorithm>
#include <utility>

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::string_view kTexts[] = {
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

bool is_newline(char c) { return c == '\r' || c == '\n'; }

// End of the run of characters that have one of `wanted` and none of `unwanted`.
std::size_t run_with(std::string_view text, std::size_t at, unsigned wanted) {
  while (at < text.size()) {
    const Character next = character_at(text, at);
    if ((next.bits & wanted) == 0) break;
    at += static_cast<std::size_t>(next.bytes);
  }
  return at;
}

std::size_t run_without(std::string_view text, std::size_t at, unsigned unwanted) {
  while (at < text.size()) {
    const Character next = character_at(text, at);
    if ((next.bits & unwanted) != 0) break;
    at += static_cast<std::size_t>(next.bytes);
  }
  return at;
}

// \s+(?!\S)|\s+ where a space stands: all of the run at the end of the text, else all but its last character, which then
// leads the next piece; a run of one falls through to \s+.
std::size_t spaces_end(std::string_view text, std::size_t at) {
  const std::size_t end = run_with(text, at, kSpace);
  if (end == text.size()) return end;
  const std::size_t last = character_before(text, end);
  return last == at ? end : last;
}

std::size_t gpt2_contraction_end(std::string_view text, std::size_t at) {
  static constexpr std::string_view kEndings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
  for (const std::string_view ending : kEndings)
    if (text.substr(at, ending.size()) == ending) return at + ending.size();
  return at;
}

std::size_t gpt2_end(std::string_view text, std::size_t at) {
  constexpr unsigned kKnown = kSpace | kLetter | kNumber;
  if (text[at] == '\'')
    if (const std::size_t end = gpt2_contraction_end(text, at); end != at) return end;
  const auto run = [&](std::size_t from, unsigned kind) {
    return kind != 0 ? run_with(text, from, kind) : run_without(text, from, kKnown);
  };
  const unsigned first = character_at(text, at).bits & kKnown;
  if (first != kSpace) return run(at, first);
  if (text[at] == ' ' && at + 1 < text.size())
    if (const unsigned second = character_at(text, at + 1).bits & kKnown; second != kSpace) return run(at + 1, second);
  return spaces_end(text, at);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d): any case, and the long s, which is an s without case.
std::size_t contraction_end(std::string_view text, std::size_t at) {
  const auto lower = [&](std::size_t i) { return i < text.size() ? static_cast<char>(text[i] | 0x20) : '\0'; };
  const auto is_letter = [&](std::size_t i) { return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x40; };
  if (text.substr(at + 1, 2) == "\xC5\xBF") return at + 3;
  if (!is_letter(at + 1)) return at;
  const char first = lower(at + 1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if (!is_letter(at + 2)) return at;
  const char second = lower(at + 2);
  const bool is_two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
  return is_two ? at + 3 : at;
}

// \s*[\r\n]+|\s+(?!\S)|\s+: up to the last line end of the run of spaces, if it has one.
std::size_t spaces_or_lines_end(std::string_view text, std::size_t at) {
  const std::size_t end = run_with(text, at, kSpace);
  for (std::size_t i = end; i > at; --i)
    if (is_newline(text[i - 1])) return i;
  return spaces_end(text, at);
}

struct Modern {
  unsigned word;  // bits of what words consist of
  int most_digits;
  bool ends_with_slash;  // Tekken's [\r\n/]*
};

// Tekken's two alternatives for words, each with and without the character in front, in the pattern's order; `at` where
// none matches. Letters that are neither upper nor lower case, and marks, belong to both classes.
std::size_t cased_word_end(std::string_view text, std::size_t at, std::size_t after_prefix) {
  const auto is_upper_class = [](unsigned bits) { return (bits & kMark) != 0 || ((bits & kLetter) != 0 && (bits & kLower) == 0); };
  const auto is_lower_class = [](unsigned bits) { return (bits & kMark) != 0 || ((bits & kLetter) != 0 && (bits & kUpper) == 0); };
  struct Ends {
    std::size_t upper, last_shared, lower;
  };
  const auto scan = [&](std::size_t from) {
    Ends ends{from, from, from};
    while (ends.upper < text.size()) {
      const Character next = character_at(text, ends.upper);
      if (!is_upper_class(next.bits)) break;
      ends.upper += static_cast<std::size_t>(next.bytes);
      if (is_lower_class(next.bits)) ends.last_shared = ends.upper;
    }
    ends.lower = ends.upper;
    while (ends.lower < text.size()) {
      const Character next = character_at(text, ends.lower);
      if (!is_lower_class(next.bits)) break;
      ends.lower += static_cast<std::size_t>(next.bytes);
    }
    return ends;
  };
  const Ends with = scan(after_prefix), without = after_prefix == at ? with : scan(at);
  for (const auto& [ends, from] : {std::pair{with, after_prefix}, std::pair{without, at}}) {
    if (ends.lower > ends.upper) return ends.lower;
    // The first class gives back until the second can begin: at the last character that is in both.
    if (ends.last_shared > from) return ends.last_shared;
  }
  if (with.upper > after_prefix) return with.upper;
  return without.upper;
}

// [^\r\n\p{L}\p{N}]?\p{L}+, where marks may count as letters; `at` where it does not match.
std::size_t plain_word_end(const Modern& rules, std::string_view text, std::size_t at, std::size_t after_prefix) {
  if (after_prefix != at)
    if (const std::size_t end = run_with(text, after_prefix, rules.word); end != after_prefix) return end;
  return run_with(text, at, rules.word);
}

std::size_t modern_end(const Modern& rules, bool is_cased, std::string_view text, std::size_t at) {
  if (!is_cased && text[at] == '\'')
    if (const std::size_t end = contraction_end(text, at); end != at) return end;
  const Character first = character_at(text, at);
  const std::size_t second = at + static_cast<std::size_t>(first.bytes);
  const std::size_t after_prefix = (first.bits & (kLetter | kNumber)) == 0 && !is_newline(text[at]) ? second : at;
  const std::size_t word = is_cased ? cased_word_end(text, at, after_prefix) : plain_word_end(rules, text, at, after_prefix);
  if (word != at) return word;
  if ((first.bits & kNumber) != 0) {
    std::size_t end = second;
    for (int digits = 1; digits < rules.most_digits && end < text.size(); ++digits) {
      const Character next = character_at(text, end);
      if ((next.bits & kNumber) == 0) break;
      end += static_cast<std::size_t>(next.bytes);
    }
    return end;
  }
  const unsigned known = kSpace | kNumber | rules.word;
  const std::size_t from = text[at] == ' ' ? second : at;
  std::size_t end = run_without(text, from, known);
  if (end == from) return spaces_or_lines_end(text, at);
  while (end < text.size() && (is_newline(text[end]) || (rules.ends_with_slash && text[end] == '/'))) ++end;
  return end;
}

}  // namespace

std::string_view text_of(Pattern pattern) { return kTexts[static_cast<std::size_t>(pattern)]; }

std::optional<Pattern> pattern_of(std::string_view text) {
  for (const Pattern pattern : kPatterns)
    if (text == text_of(pattern)) return pattern;
  return std::nullopt;
}

std::size_t next_piece_end(Pattern pattern, std::string_view text, std::size_t at) {
  switch (pattern) {
    case Pattern::Gpt2:
      return gpt2_end(text, at);
    case Pattern::Llama3:
      return modern_end({kLetter, 3, false}, false, text, at);
    case Pattern::Qwen2:
      return modern_end({kLetter, 1, false}, false, text, at);
    case Pattern::Qwen35:
      return modern_end({kLetter | kMark, 1, false}, false, text, at);
    case Pattern::Tekken:
      return modern_end({kLetter, 1, true}, true, text, at);
  }
  return text.size();
}

std::size_t digits_piece_end(std::string_view text, std::size_t at, bool individual) {
  const Character first = character_at(text, at);
  if ((first.bits & kNumeric) == 0) return run_without(text, at, kNumeric);
  return individual ? at + static_cast<std::size_t>(first.bytes) : run_with(text, at, kNumeric);
}

std::size_t metaspace_piece_end(std::string_view text, std::size_t at, std::string_view replacement) {
  return std::min(text.find(replacement, at + 1), text.size());
}

std::string metaspaced(const PreTokenizerStep& step, std::string_view text, bool is_start) {
  std::string out;
  const bool may_prepend =
      step.prepend == PreTokenizerStep::Prepend::Always || (step.prepend == PreTokenizerStep::Prepend::First && is_start);
  if (may_prepend && text[0] != ' ' && text.substr(0, step.replacement.size()) != step.replacement) out += step.replacement;
  for (const char c : text) {
    if (c == ' ')
      out += step.replacement;
    else
      out += c;
  }
  return out;
}

}  // namespace pgtrain::engine::tokenizers
