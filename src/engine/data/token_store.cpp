// Keeps tokens, bits and an index of sequences, and decides which samples are held out.
#include "engine/data/token_store.hpp"

#include <algorithm>

#include "engine/data/streams.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr std::uint64_t kWordBits = 64;

}  // namespace

TokenStore::TokenStore(int vocab_size, const std::string& folder) : is_narrow_(vocab_size <= 65536), tokens_(folder), bits_(folder), index_(folder) {}

void TokenStore::append_tokens(const tokenizers::Tokenizer::Id* tokens, std::size_t count) {
  if (is_narrow_) {
    scratch_.assign(tokens, tokens + count);
    tokens_.append(scratch_.data(), count * sizeof(std::uint16_t));
  } else {
    tokens_.append(tokens, count * sizeof(std::int32_t));
  }
  token_count_ += count;
}

void TokenStore::append_bit(bool bit) {
  const std::uint64_t at = bit_count_++ % kWordBits;
  if (bit) last_word_ |= Word{1} << at;
  if (at + 1 == kWordBits) {
    bits_.append(&last_word_, sizeof last_word_);
    last_word_ = 0;
  }
}

void TokenStore::finish_sequence(SequenceFacts facts) {
  index_.append(&facts, sizeof facts);
  block_.clear();
  ++count_;
  total_predictions_ += facts.predictions;
  total_learned_ += facts.learned;
}

void TokenStore::add(const Sequence& sequence, std::size_t sample) {
  std::size_t size = sequence.tokens.size();
  while (size > 1 && !sequence.learned[size - 1]) --size;
  SequenceFacts facts;
  facts.start = token_count_;
  facts.predictions = static_cast<std::uint32_t>(size - 1);
  facts.sample = static_cast<std::uint32_t>(sample);
  for (std::size_t i = 0; i < size; ++i) {
    const bool is_learned = i > 0 && sequence.learned[i];
    facts.learned += is_learned;
    append_bit(is_learned);
  }
  append_tokens(sequence.tokens.data(), size);
  finish_sequence(facts);
}

void TokenStore::add_document(const tokenizers::Tokenizer::Id* tokens, std::size_t count, tokenizers::Tokenizer::Id end_mark, std::size_t sample) {
  Sequence sequence;
  sequence.tokens.reserve(count + 2);
  sequence.tokens.push_back(end_mark);
  sequence.tokens.insert(sequence.tokens.end(), tokens, tokens + count);
  sequence.tokens.push_back(end_mark);
  sequence.learned.assign(sequence.tokens.size(), true);
  add(sequence, sample);
}

SequenceFacts TokenStore::facts(std::size_t sequence) const {
  if (block_.empty() || sequence < block_first_ || sequence >= block_first_ + block_.size()) {
    block_first_ = sequence - sequence % kFactsAtOnce;
    block_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kFactsAtOnce, count_ - block_first_)));
    index_.read(block_first_ * sizeof(SequenceFacts), block_.data(), block_.size() * sizeof(SequenceFacts));
  }
  return block_[sequence - block_first_];
}

void TokenStore::read_tokens(std::uint64_t at, std::size_t count, std::int32_t* out) const {
  if (!is_narrow_) return tokens_.read(at * sizeof(std::int32_t), out, count * sizeof(std::int32_t));
  narrow_.resize(count);
  tokens_.read(at * sizeof(std::uint16_t), narrow_.data(), count * sizeof(std::uint16_t));
  std::copy(narrow_.begin(), narrow_.end(), out);
}

void TokenStore::read_bits(std::uint64_t at, std::uint64_t count) const {
  const std::uint64_t first = at / kWordBits, end = (at + count + kWordBits - 1) / kWordBits, stored = bits_.size() / sizeof(Word);
  words_.assign(static_cast<std::size_t>(end - first), last_word_);
  const std::uint64_t from_file = std::min(end, stored) - std::min(first, stored);
  bits_.read(first * sizeof(Word), words_.data(), static_cast<std::size_t>(from_file) * sizeof(Word));
}

bool TokenStore::bit(std::uint64_t at, std::uint64_t first) const {
  return words_[static_cast<std::size_t>(at / kWordBits - first / kWordBits)] >> at % kWordBits & 1;
}

std::uint64_t TokenStore::copy(std::size_t sequence, std::uint64_t start, std::size_t count, std::int32_t* inputs, std::int32_t* targets) const {
  const SequenceFacts facts = this->facts(sequence);
  const std::uint64_t begin = facts.start + start;
  ids_.resize(count + 1);
  read_tokens(begin, count + 1, ids_.data());
  std::copy(ids_.begin(), ids_.end() - 1, inputs);
  std::copy(ids_.begin() + 1, ids_.end(), targets);
  if (facts.learned == facts.predictions) return count;
  read_bits(begin + 1, count);
  std::uint64_t learned = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (bit(begin + 1 + i, begin + 1)) ++learned;
    else targets[i] = -1;
  }
  return learned;
}

std::uint64_t TokenStore::learned_between(const SequenceFacts& facts, std::uint64_t start, std::uint64_t count) const {
  if (facts.learned == facts.predictions) return count;
  if (start == 0 && count == facts.predictions) return facts.learned;
  const std::uint64_t first = facts.start + start + 1;
  read_bits(first, count);
  std::uint64_t learned = 0;
  for (std::uint64_t i = 0; i < count; ++i) learned += bit(first + i, first);
  return learned;
}

std::vector<bool> choose_held_out(std::size_t samples, double fraction, std::uint64_t seed) {
  std::vector<bool> is_held_out(samples, false);
  if (fraction <= 0 || samples < 2) return is_held_out;
  std::size_t chosen = 0, lowest = 0, highest = 0;
  double least = 2, most = -1;
  for (std::size_t i = 0; i < samples; ++i) {
    const double draw = draw_uniform(seed, Stream::HeldOut, 0, i);
    if (draw < least) least = draw, lowest = i;
    if (draw > most) most = draw, highest = i;
    is_held_out[i] = draw < fraction;
    chosen += is_held_out[i];
  }
  if (chosen == 0) is_held_out[lowest] = true;
  if (chosen == samples) is_held_out[highest] = false;
  return is_held_out;
}

}  // namespace pgtrain::engine::data
