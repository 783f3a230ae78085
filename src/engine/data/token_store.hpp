// The samples as sequences of tokens, kept small and outside of memory: two bytes per token where the vocabulary allows it,
// one bit per token that says whether it is learned, in files of the run's folder once there are many.
//
// A sequence of tokens s0 .. sm has m predictions: s1 from s0, and so on. Packing deals in these. A document for training
// from scratch is the end mark, its tokens, the end mark; a record is what RecordReader makes of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/spill.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::data {

struct Sequence {
  std::vector<tokenizers::Tokenizer::Id> tokens;
  std::vector<bool> learned;  // as many; the first token's does not matter, nothing predicts it
};

struct SequenceFacts {
  std::uint64_t start = 0;        // of its tokens in the store
  std::uint32_t predictions = 0;  // up to the last that is learned
  std::uint32_t learned = 0;      // of these
  std::uint32_t sample = 0;       // which one of the dataset, from 0
};

class TokenStore {
 public:
  // An empty folder keeps everything in memory.
  explicit TokenStore(int vocab_size, const std::string& folder = "");

  // What follows the last learned token is left off: nothing is predicted from it. At least one token must be learned.
  void add(const Sequence& sequence, std::size_t sample);
  void add_document(const tokenizers::Tokenizer::Id* tokens, std::size_t count, tokenizers::Tokenizer::Id end_mark, std::size_t sample);

  std::size_t size() const { return static_cast<std::size_t>(count_); }
  std::uint64_t total_predictions() const { return total_predictions_; }
  std::uint64_t total_learned() const { return total_learned_; }
  bool is_all_learned() const { return total_predictions_ == total_learned_; }
  SequenceFacts facts(std::size_t sequence) const;

  // Predictions start .. start+count-1 of a sequence: what is seen and what is to be predicted, -1 where it is not learned.
  // Returns how many are learned.
  std::uint64_t copy(std::size_t sequence, std::uint64_t start, std::size_t count, std::int32_t* inputs, std::int32_t* targets) const;
  std::uint64_t learned_between(const SequenceFacts& facts, std::uint64_t start, std::uint64_t count) const;

 private:
  using Word = std::uint64_t;
  static constexpr std::size_t kFactsAtOnce = 256;

  void append_tokens(const tokenizers::Tokenizer::Id* tokens, std::size_t count);
  void append_bit(bool bit);
  void finish_sequence(SequenceFacts facts);
  void read_tokens(std::uint64_t at, std::size_t count, std::int32_t* out) const;
  void read_bits(std::uint64_t at, std::uint64_t count) const;  // into words_
  bool bit(std::uint64_t at, std::uint64_t first) const;        // of words_, read from bit `first`

  bool is_narrow_;
  Spill tokens_, bits_, index_;
  Word last_word_ = 0;  // bits that do not fill a word yet
  std::uint64_t count_ = 0, token_count_ = 0, bit_count_ = 0, total_predictions_ = 0, total_learned_ = 0;
  std::vector<std::uint16_t> scratch_;
  mutable std::vector<std::uint16_t> narrow_;
  mutable std::vector<std::int32_t> ids_;
  mutable std::vector<Word> words_;
  mutable std::vector<SequenceFacts> block_;  // the last stretch of the index that was read
  mutable std::uint64_t block_first_ = 0;
};

// Which samples are kept for evaluation. By hash of seed and position, so it does not depend on anything else of the
// run; at least one stays on either side when there are two.
std::vector<bool> choose_held_out(std::size_t samples, double fraction, std::uint64_t seed);

}  // namespace pgtrain::engine::data
