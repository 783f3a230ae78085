// Short words are merged by looking for the lowest rank again and again, long ones by a heap; both take the lowest rank
// first and of equals the leftmost, so they give the same.
#include "engine/tokenizers/bpe_model.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <queue>

#include "engine/core/utf8.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::size_t kFewSymbols = 48;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // ▁

std::size_t slots_for(std::size_t count) {
  std::size_t slots = 16;
  while (slots < count * 2) slots *= 2;
  return slots;
}

std::size_t hash_of(std::string_view text) { return std::hash<std::string_view>{}(text); }

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }
bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

void MergeTable::reserve(std::size_t count) {
  if (slots_for(count) > slots_.size()) grow(slots_for(count));
}

void MergeTable::grow(std::size_t slots) {
  std::vector<Slot> old(slots, Slot{kFree, {0, 0}});
  old.swap(slots_);
  mask_ = slots - 1;
  for (const Slot& slot : old) {
    if (slot.key == kFree) continue;
    std::size_t at = hash(slot.key) & mask_;
    while (slots_[at].key != kFree) at = (at + 1) & mask_;
    slots_[at] = slot;
  }
}

void MergeTable::set(TokenId left, TokenId right, Merged merged) {
  reserve(count_ + 1);
  const std::uint64_t key = key_of(left, right);
  std::size_t at = hash(key) & mask_;
  while (slots_[at].key != kFree && slots_[at].key != key) at = (at + 1) & mask_;
  if (slots_[at].key == kFree) ++count_;
  slots_[at] = {key, merged};
}

void BpeModel::reserve(std::size_t tokens, std::size_t merges) {
  tokens_.reserve(tokens);
  merge_list_.reserve(merges);
  table_.reserve(merges);
}

void BpeModel::add_token(std::string token, bool findable) {
  tokens_.push_back(std::move(token));
  findable_.push_back(findable);
  index_.clear();
}

void BpeModel::add_merge(TokenId left, TokenId right, std::int32_t rank, TokenId made) {
  table_.set(left, right, {rank, made});
  merge_list_.push_back({left, right});
}

void BpeModel::index_tokens() {
  index_.assign(slots_for(tokens_.size()), -1);
  const std::size_t mask = index_.size() - 1;
  for (TokenId id = 0; id < size(); ++id) {
    if (!findable_[id]) continue;
    std::size_t at = hash_of(tokens_[id]) & mask;
    while (index_[at] >= 0) at = (at + 1) & mask;
    index_[at] = id;
  }
}

TokenId BpeModel::find(std::string_view token) const {
  if (index_.empty()) {
    for (TokenId id = 0; id < size(); ++id)
      if (findable_[id] && tokens_[id] == token) return id;
    return -1;
  }
  const std::size_t mask = index_.size() - 1;
  for (std::size_t at = hash_of(token) & mask; index_[at] >= 0; at = (at + 1) & mask)
    if (tokens_[index_[at]] == token) return index_[at];
  return -1;
}

bool BpeModel::words_end_before_spaces() const {
  if (byte_level || ignore_merges || find(kSpaceMark) < 0) return false;
  for (const Merge& merge : merge_list_)
    if (!ends_with(tokens_[merge.left], kSpaceMark) && starts_with(tokens_[merge.right], kSpaceMark)) return false;
  return true;
}

void BpeModel::finish() {
  index_tokens();
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    const char itself = static_cast<char>(byte);
    byte_ids_[byte] = find(byte_level ? std::string_view(&itself, 1) : std::string_view(name));
  }
  cuts_words_ = words_end_before_spaces();
  cache_.clear();
}

void BpeModel::encode(std::string_view word, std::vector<TokenId>& out) const {
  if (ignore_merges)
    if (const TokenId whole = find(word); whole >= 0) {
      out.push_back(whole);
      return;
    }
  if (!cuts_words_) return encode_cached(word, out);
  // The front of "▁" where something else stands before it.
  std::size_t begin = 0;
  for (std::size_t at = word.find(kSpaceMark, 1); at != std::string_view::npos; at = word.find(kSpaceMark, at + kSpaceMark.size())) {
    if (ends_with(word.substr(begin, at - begin), kSpaceMark)) continue;
    encode_cached(word.substr(begin, at - begin), out);
    begin = at;
  }
  encode_cached(word.substr(begin), out);
}

void BpeModel::encode_cached(std::string_view word, std::vector<TokenId>& out) const {
  if (byte_level && word.size() == 1 && byte_ids_[static_cast<unsigned char>(word[0])] >= 0) {
    out.push_back(byte_ids_[static_cast<unsigned char>(word[0])]);
    return;
  }
  if (word.empty() || word.size() > CachedWord::kBytes) return encode_now(word, out);
  if (cache_.empty()) cache_.resize(kCachedWords);
  CachedWord& cached = cache_[hash_of(word) % kCachedWords];
  if (cached.length == word.size() && std::memcmp(cached.text, word.data(), word.size()) == 0) {
    out.insert(out.end(), cached.ids, cached.ids + cached.count);
    return;
  }
  const std::size_t before = out.size();
  encode_now(word, out);
  if (out.size() - before > CachedWord::kIds) return;
  cached.length = static_cast<unsigned char>(word.size());
  cached.count = static_cast<unsigned char>(out.size() - before);
  std::memcpy(cached.text, word.data(), word.size());
  std::copy(out.begin() + static_cast<std::ptrdiff_t>(before), out.end(), cached.ids);
}

void BpeModel::encode_now(std::string_view word, std::vector<TokenId>& out) const {
  symbols_.clear();
  symbols_of(word, symbols_);
  if (symbols_.size() <= kFewSymbols)
    merge_few(symbols_);
  else
    merge_many(symbols_);
  out.insert(out.end(), symbols_.begin(), symbols_.end());
  if (symbols_.capacity() > std::size_t{1} << 20) std::vector<TokenId>().swap(symbols_);
}

bool BpeModel::find_byte_tokens(std::string_view character, std::vector<TokenId>& out) const {
  for (const char c : character)
    if (byte_ids_[static_cast<unsigned char>(c)] < 0) return false;
  for (const char c : character) out.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  return true;
}

void BpeModel::symbols_of(std::string_view word, std::vector<TokenId>& symbols) const {
  bool is_pending = false;
  const auto flush = [&] {
    if (is_pending) symbols.push_back(unknown);
    is_pending = false;
  };
  for (std::size_t at = 0; at < word.size();) {
    TokenId id = -1;
    std::size_t bytes = 1;
    if (byte_level) {
      id = byte_ids_[static_cast<unsigned char>(word[at])];
    } else {
      bytes = static_cast<std::size_t>(std::max(1, core::decode_utf8(word, at).bytes));
      id = find(word.substr(at, bytes));
    }
    const std::string_view character = word.substr(at, bytes);
    at += bytes;
    if (id >= 0) {
      flush();
      symbols.push_back(id);
      continue;
    }
    // An unknown that waits stays behind the bytes that follow it: so the package has it.
    if (byte_fallback && !byte_level && find_byte_tokens(character, symbols)) continue;
    if (unknown < 0) continue;
    if (!fuse_unknown) flush();
    is_pending = true;
  }
  flush();
}

void BpeModel::merge_few(std::vector<TokenId>& symbols) const {
  constexpr std::int32_t kNone = INT32_MAX;
  std::int32_t ranks[kFewSymbols];
  TokenId made[kFewSymbols];
  std::size_t count = symbols.size();
  const auto look = [&](std::size_t at) {
    const MergeTable::Merged* found = table_.find(symbols[at], symbols[at + 1]);
    ranks[at] = found == nullptr ? kNone : found->rank;
    if (found != nullptr) made[at] = found->id;
  };
  for (std::size_t i = 0; i + 1 < count; ++i) look(i);
  while (count > 1) {
    const std::size_t best = static_cast<std::size_t>(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[best] == kNone) break;
    symbols[best] = made[best];
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 2, symbols.begin() + static_cast<std::ptrdiff_t>(count),
              symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    std::copy(ranks + best + 1, ranks + count - 1, ranks + best);
    std::copy(made + best + 1, made + count - 1, made + best);
    --count;
    if (best + 1 < count) look(best);
    if (best > 0) look(best - 1);
  }
  symbols.resize(count);
}

void BpeModel::merge_many(std::vector<TokenId>& symbols) const {
  struct Candidate {
    std::int32_t rank;
    std::uint32_t at;
    TokenId made;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  constexpr std::uint32_t kNone = UINT32_MAX;
  const std::uint32_t count = static_cast<std::uint32_t>(symbols.size());
  std::vector<std::uint32_t> next(count), previous(count);
  for (std::uint32_t i = 0; i < count; ++i) previous[i] = i == 0 ? kNone : i - 1, next[i] = i + 1 < count ? i + 1 : kNone;
  std::vector<Candidate> candidates;
  const auto candidate_at = [&](std::uint32_t at, auto take) {
    if (at == kNone || next[at] == kNone) return;
    const MergeTable::Merged* found = table_.find(symbols[at], symbols[next[at]]);
    if (found != nullptr) take(Candidate{found->rank, at, found->id});
  };
  for (std::uint32_t i = 0; i < count; ++i) candidate_at(i, [&](const Candidate& made) { candidates.push_back(made); });
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(std::greater<>(), std::move(candidates));
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    if (symbols[best.at] < 0 || next[best.at] == kNone) continue;
    const std::uint32_t right = next[best.at];
    // The neighbours may have changed since this was pushed; then the pair is another or none.
    const MergeTable::Merged* found = table_.find(symbols[best.at], symbols[right]);
    if (found == nullptr || found->id != best.made) continue;
    symbols[best.at] = best.made;
    symbols[right] = -1;
    next[best.at] = next[right];
    if (next[right] != kNone) previous[next[right]] = best.at;
    const auto push = [&](const Candidate& made) { heap.push(made); };
    candidate_at(best.at, push);
    candidate_at(previous[best.at], push);
  }
  symbols.erase(std::remove_if(symbols.begin(), symbols.end(), [](TokenId id) { return id < 0; }), symbols.end());
}

}  // namespace pgtrain::engine::tokenizers
