// Which tokens of a text lie in what is to be learned of it, told while the text is encoded.
//
// Walks the normalized text beside the tokens made of it, letter by letter, since normalizers and pre-tokenizers put other
// letters in place of spaces and in front. A token is learned when any byte of it is. Caller: Tokenizer::encode_parts.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizers/bpe_model.hpp"
#include "engine/tokenizers/normalizer.hpp"
#include "engine/tokenizers/pretokenizer.hpp"

namespace pgtrain::engine::tokenizers {

class LearnedMarks {
 public:
  LearnedMarks(const BpeModel& model, const std::vector<PreTokenizerStep>& steps, std::vector<bool>& learned);

  // A stretch of the text that is learned; in order, apart.
  void add_range(std::size_t begin, std::size_t end);

  void take_token(std::size_t begin, std::size_t end);  // bytes of the text
  void take_unlearned(std::size_t count) { learned_.insert(learned_.end(), count, false); }

  // What follows is about text[begin ...), which became `normal`.
  void begin_stretch(const std::vector<NormalizerStep>& normalizers, std::string_view text, std::size_t begin, std::string_view normal);
  void take_added(std::size_t begin, std::size_t end);  // bytes of normal
  // The next tokens of normal.
  void take_tokens(const TokenId* tokens, std::size_t count);

 private:
  using Ranges = std::vector<std::pair<std::size_t, std::size_t>>;

  static bool meets(const Ranges& ranges, std::size_t& first, std::size_t begin, std::size_t end);
  std::size_t follow(std::string_view letters, std::size_t at) const;
  std::size_t normal_position(const std::vector<NormalizerStep>& normalizers, std::string_view text, std::size_t at) const;

  const BpeModel& model_;
  std::string_view space_;  // what Metaspace puts in place of a space
  std::vector<bool>& learned_;
  Ranges ranges_, stretch_ranges_;  // of the text; of normal_
  std::size_t first_ = 0, stretch_first_ = 0;  // ranges before these lie behind
  std::string_view normal_;
  std::size_t at_ = 0;  // in normal_
};

}  // namespace pgtrain::engine::tokenizers
