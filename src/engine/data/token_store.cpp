// Tokenizes the documents and decides which are held out.
#include "engine/data/token_store.hpp"

#include <algorithm>
#include <cmath>

#include "engine/core/error.hpp"
#include "engine/data/streams.hpp"

namespace pgtrain::engine::data {

void TokenStore::add(std::string_view text) {
  scratch_.clear();
  tokenizer_.encode(text, scratch_);
  add_tokens(scratch_.data(), scratch_.size());
}

void TokenStore::add_tokens(const tokenizers::Tokenizer::Id* tokens, std::size_t count) {
  if (is_narrow_) narrow_.insert(narrow_.end(), tokens, tokens + count);
  else wide_.insert(wide_.end(), tokens, tokens + count);
  starts_.push_back(starts_.back() + count);
}

void TokenStore::copy(std::size_t document, std::uint64_t start, std::size_t count, std::int32_t* inputs, std::int32_t* targets) const {
  const std::uint64_t begin = starts_[document], length = tokens(document);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t at = start + i;
    inputs[i] = at == 0 ? tokenizer_.end_of_text() : token(begin + at - 1);
    targets[i] = at == length ? tokenizer_.end_of_text() : token(begin + at);
  }
}

std::vector<bool> choose_held_out(std::size_t documents, double fraction, std::uint64_t seed) {
  std::vector<bool> is_held_out(documents, false);
  if (fraction <= 0 || documents < 2) return is_held_out;
  std::size_t chosen = 0, lowest = 0, highest = 0;
  std::vector<double> draws(documents);
  for (std::size_t i = 0; i < documents; ++i) {
    draws[i] = draw_uniform(seed, Stream::HeldOut, 0, i);
    if (draws[i] < draws[lowest]) lowest = i;
    if (draws[i] > draws[highest]) highest = i;
    is_held_out[i] = draws[i] < fraction;
    chosen += is_held_out[i];
  }
  if (chosen == 0) is_held_out[lowest] = true;
  if (chosen == documents) is_held_out[highest] = false;
  return is_held_out;
}

SplitTokens tokenize(const std::vector<std::string_view>& texts, const tokenizers::Tokenizer& tokenizer, double held_out_fraction,
                     std::uint64_t seed, const std::function<void()>& keep_alive) {
  SplitTokens split{TokenStore(tokenizer), TokenStore(tokenizer), 0};
  const std::vector<bool> is_held_out = choose_held_out(texts.size(), held_out_fraction, seed);
  std::size_t since_call = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts.size() == 1 && held_out_fraction > 0) {
      std::vector<tokenizers::Tokenizer::Id> ids;
      tokenizer.encode(texts[0], ids);
      if (ids.size() >= 2) {
        const std::size_t tail = std::clamp<std::size_t>(static_cast<std::size_t>(std::llround(held_out_fraction * static_cast<double>(ids.size()))), 1, ids.size() - 1);
        split.training.add_tokens(ids.data(), ids.size() - tail);
        split.held_out.add_tokens(ids.data() + ids.size() - tail, tail);
        split.held_out_documents = 1;
        break;
      }
    }
    (is_held_out[i] ? split.held_out : split.training).add(texts[i]);
    split.held_out_documents += is_held_out[i];
    since_call += texts[i].size();
    if (keep_alive && since_call >= std::size_t{1} << 20) {
      keep_alive();
      since_call = 0;
    }
  }
  return split;
}

}  // namespace pgtrain::engine::data
