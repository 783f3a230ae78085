// Encoding by a heap over merge ranks: a piece of n bytes costs n log n, however long it is.
#include "engine/tokenizers/tokenizer.hpp"

#include <algorithm>
#include <queue>

#include "engine/tokenizers/pretokenizer.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::size_t kCachedWords = 1 << 17, kCachedBytes = 64;

}  // namespace

Tokenizer Tokenizer::bytes() { return from_merges({}); }

Tokenizer Tokenizer::from_merges(const std::vector<Merge>& merges) {
  Tokenizer made;
  for (int byte = 0; byte < 256; ++byte) {
    made.tokens_.emplace_back(1, static_cast<char>(byte));
    made.byte_ids_[byte] = byte;
  }
  made.end_of_text_ = 256;
  made.tokens_.emplace_back(kEndOfText);
  for (const Merge& merge : merges) {
    made.merges_.emplace(key(merge.left, merge.right), Merged{static_cast<std::int32_t>(made.merge_list_.size()), made.vocab_size()});
    made.tokens_.push_back(made.tokens_[merge.left] + made.tokens_[merge.right]);
    made.merge_list_.push_back(merge);
  }
  made.special_.assign(made.tokens_.size(), false);
  made.special_[made.end_of_text_] = true;
  return made;
}

void Tokenizer::encode(std::string_view text, std::vector<Id>& out) const {
  if (is_plain_bytes()) {
    out.reserve(out.size() + text.size());
    for (const char c : text) out.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    return;
  }
  for_each_piece(text, [&](std::string_view piece) { encode_piece(piece, out); });
}

void Tokenizer::encode_piece(std::string_view piece, std::vector<Id>& out) const {
  if (piece.size() == 1) {
    out.push_back(byte_ids_[static_cast<unsigned char>(piece[0])]);
    return;
  }
  if (piece.size() > kCachedBytes) {
    merge_piece(piece, out);
    return;
  }
  std::string word(piece);
  auto found = cache_.find(word);
  if (found == cache_.end()) {
    if (cache_.size() >= kCachedWords) cache_.clear();
    std::vector<Id> ids;
    merge_piece(piece, ids);
    found = cache_.emplace(std::move(word), std::move(ids)).first;
  }
  out.insert(out.end(), found->second.begin(), found->second.end());
}

void Tokenizer::merge_piece(std::string_view piece, std::vector<Id>& out) const {
  struct Symbol {
    Id id;
    std::int64_t previous, next;  // -1 = none; id -1 = merged away
  };
  struct Candidate {
    std::int32_t rank;
    std::int64_t at;
    Id made;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  const std::int64_t count = static_cast<std::int64_t>(piece.size());
  std::vector<Symbol> symbols(piece.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto consider = [&](std::int64_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const auto found = merges_.find(key(symbols[at].id, symbols[symbols[at].next].id));
    if (found != merges_.end()) heap.push({found->second.rank, at, found->second.id});
  };
  for (std::int64_t i = 0; i < count; ++i)
    symbols[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], i - 1, i + 1 < count ? i + 1 : -1};
  for (std::int64_t i = 0; i < count; ++i) consider(i);
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    Symbol& left = symbols[best.at];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // The neighbours may have changed since this was pushed; then the pair is another or none.
    const auto found = merges_.find(key(left.id, right.id));
    if (found == merges_.end() || found->second.id != best.made) continue;
    left.id = best.made;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.at;
    consider(best.at);
    consider(left.previous);
  }
  for (std::int64_t i = 0; i >= 0; i = symbols[i].next) out.push_back(symbols[i].id);
}

std::string Tokenizer::decode(const std::vector<Id>& ids) const {
  std::string out;
  for (const Id id : ids)
    if (id >= 0 && id < vocab_size() && !special_[id]) out += tokens_[id];
  return out;
}

}  // namespace pgtrain::engine::tokenizers
