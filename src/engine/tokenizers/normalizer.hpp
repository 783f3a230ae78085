// What a tokenizer.json does to text before it is split: a list of steps, each as the `tokenizers` package does it.
//
// Called for every stretch of text between added tokens. Steps that are not listed here are refused when the file is read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::engine::tokenizers {

struct NormalizerStep {
  enum class Kind { Nfc, Nfd, Prepend, Replace, Strip };
  Kind kind;
  std::string pattern, content;  // Prepend uses content
  bool strip_left = false, strip_right = false;
};

// A view of `text` itself where no step changed it, else of `storage`.
std::string_view normalize(const std::vector<NormalizerStep>& steps, std::string_view text, std::string& storage);

// Every `pattern` in text by `content`; the pattern is not empty.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

}  // namespace pgtrain::engine::tokenizers
