// The documents as tokens, kept small: two bytes per token where the vocabulary allows it.
//
// A document of n tokens has n + 1 predictions: every token from what stands before it (the first one from the end mark
// of the document before), and the end mark from the last. Packing deals in these predictions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::data {

class TokenStore {
 public:
  explicit TokenStore(const tokenizers::Tokenizer& tokenizer) : tokenizer_(tokenizer), is_narrow_(tokenizer.vocab_size() <= 65536) {}

  void add(std::string_view text);
  // A part of the text's tokens as a document of its own.
  void add_tokens(const tokenizers::Tokenizer::Id* tokens, std::size_t count);

  std::size_t size() const { return starts_.size() - 1; }
  std::uint64_t tokens(std::size_t document) const { return starts_[document + 1] - starts_[document]; }
  std::uint64_t predictions(std::size_t document) const { return tokens(document) + 1; }
  std::uint64_t total_tokens() const { return starts_.back(); }
  // Predictions start .. start+count-1 of a document: what is seen and what is to be predicted.
  void copy(std::size_t document, std::uint64_t start, std::size_t count, std::int32_t* inputs, std::int32_t* targets) const;

 private:
  std::int32_t token(std::uint64_t at) const { return is_narrow_ ? narrow_[at] : wide_[at]; }

  const tokenizers::Tokenizer& tokenizer_;
  bool is_narrow_;
  std::vector<std::uint16_t> narrow_;
  std::vector<std::int32_t> wide_;
  std::vector<std::uint64_t> starts_ = {0};
  std::vector<std::int32_t> scratch_;
};

// Which documents are kept for evaluation. By hash of seed and position, so it does not depend on anything else of the
// run; at least one document stays on either side when there are two.
std::vector<bool> choose_held_out(std::size_t documents, double fraction, std::uint64_t seed);

struct SplitTokens {
  TokenStore training, held_out;
  std::uint64_t held_out_documents = 0;
};
// One document alone is cut: its last tokens are held out.
SplitTokens tokenize(const std::vector<std::string_view>& texts, const tokenizers::Tokenizer& tokenizer, double held_out_fraction,
                     std::uint64_t seed, const std::function<void()>& keep_alive = {});

}  // namespace pgtrain::engine::data
