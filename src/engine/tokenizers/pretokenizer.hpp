// Cuts text into the pieces inside which tokens may merge.
//
// Hand-written scanners for the patterns of the model families that are read, known by their exact text; each cuts as the
// pattern does in the `tokenizers` package. Bytes that are not UTF-8 count as "other". Callers: encode, the BPE trainer.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizers/char_class.hpp"

namespace pgtrain::engine::tokenizers {

enum class Pattern { Gpt2, Llama3, Qwen2, Qwen35, Tekken };

inline constexpr Pattern kPatterns[] = {Pattern::Gpt2, Pattern::Llama3, Pattern::Qwen2, Pattern::Qwen35, Pattern::Tekken};

std::string_view text_of(Pattern pattern);
std::optional<Pattern> pattern_of(std::string_view text);

// End of the piece that begins at byte `at`; at < text.size().
std::size_t next_piece_end(Pattern pattern, std::string_view text, std::size_t at);

template <typename Visit>
void for_each_piece(Pattern pattern, std::string_view text, Visit&& visit) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = next_piece_end(pattern, text, at);
    visit(text.substr(at, end - at));
    at = end;
  }
}

template <typename Visit>
void for_each_piece(std::string_view text, Visit&& visit) {
  for_each_piece(Pattern::Gpt2, text, visit);
}

struct PreTokenizerStep {
  enum class Kind { Split, Digits, ByteLevel, Metaspace };
  enum class Prepend { First, Always, Never };
  Kind kind;
  Pattern pattern = Pattern::Gpt2;                      // of Split
  bool individual_digits = true;                        // of Digits
  bool adds_prefix_space = false, uses_pattern = true;  // of ByteLevel, whose pattern is GPT-2's
  std::string replacement;                              // of Metaspace
  Prepend prepend = Prepend::Always;
  bool splits = true;
};

// The pieces of text after steps[first...]. is_start: text begins where the document begins.
template <typename Visit>
void pre_tokenize(const std::vector<PreTokenizerStep>& steps, std::size_t first, std::string_view text, bool is_start, Visit&& visit);

// Parts of pre_tokenize.
std::size_t digits_piece_end(std::string_view text, std::size_t at, bool individual);
std::size_t metaspace_piece_end(std::string_view text, std::size_t at, std::string_view replacement);
// With what Metaspace puts in place of spaces and in front.
std::string metaspaced(const PreTokenizerStep& step, std::string_view text, bool is_start);

template <typename Visit>
void pre_tokenize(const std::vector<PreTokenizerStep>& steps, std::size_t first, std::string_view text, bool is_start, Visit&& visit) {
  using Kind = PreTokenizerStep::Kind;
  if (text.empty()) return;
  if (first == steps.size()) {
    visit(text);
    return;
  }
  const PreTokenizerStep& step = steps[first];
  const auto deeper = [&](std::string_view piece, bool starts) { pre_tokenize(steps, first + 1, piece, starts, visit); };
  const auto cut = [&](std::string_view whole, auto end_of) {
    for (std::size_t at = 0; at < whole.size();) {
      const std::size_t end = end_of(whole, at);
      deeper(whole.substr(at, end - at), is_start && at == 0);
      at = end;
    }
  };
  if (step.kind == Kind::Split) {
    cut(text, [&](std::string_view whole, std::size_t at) { return next_piece_end(step.pattern, whole, at); });
  } else if (step.kind == Kind::Digits) {
    cut(text, [&](std::string_view whole, std::size_t at) { return digits_piece_end(whole, at, step.individual_digits); });
  } else if (step.kind == Kind::Metaspace) {
    const std::string spaced = metaspaced(step, text, is_start);
    if (!step.splits) return deeper(spaced, is_start);
    cut(spaced, [&](std::string_view whole, std::size_t at) { return metaspace_piece_end(whole, at, step.replacement); });
  } else {
    std::string prefixed;
    if (step.adds_prefix_space && text[0] != ' ') text = prefixed.append(" ").append(text);
    if (!step.uses_pattern) return deeper(text, is_start);
    cut(text, [](std::string_view whole, std::size_t at) { return next_piece_end(Pattern::Gpt2, whole, at); });
  }
}

}  // namespace pgtrain::engine::tokenizers
