// The merging core: a vocabulary, the ranks of its merges, and the tokens of one word.
//
// Two ways to begin: byte_level, where a word is bytes and tokens are kept as the bytes they stand for; else a word is
// characters, and one that has no token becomes its bytes <0xNN> (byte_fallback) or the unknown token. A word of n symbols
// costs n log n whatever it is; up to kCachedWords short words are remembered. Not safe for two threads (the cache).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::engine::tokenizers {

using TokenId = std::int32_t;

// From a pair of tokens to what they merge to. Open addressing: one cache line for most questions, of which encoding
// asks several per byte of text.
class MergeTable {
 public:
  struct Merged {
    std::int32_t rank;
    TokenId id;
  };
  void reserve(std::size_t count);
  void set(TokenId left, TokenId right, Merged merged);  // the later of two for one pair counts
  const Merged* find(TokenId left, TokenId right) const {
    if (slots_.empty()) return nullptr;
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = hash(key) & mask_;; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return &slots_[at].merged;
      if (slots_[at].key == kFree) return nullptr;
    }
  }
  std::size_t size() const { return count_; }

 private:
  struct Slot {
    std::uint64_t key;
    Merged merged;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};  // no pair: ids are not negative
  static std::uint64_t key_of(TokenId left, TokenId right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }
  static std::uint64_t hash(std::uint64_t key) {
    key *= 0x9E3779B97F4A7C15ull;
    key ^= key >> 32;
    key *= 0xD6E8FEB86659FD93ull;
    return key ^ key >> 32;
  }
  void grow(std::size_t slots);

  std::vector<Slot> slots_;
  std::size_t mask_ = 0, count_ = 0;
};

class BpeModel {
 public:
  struct Merge {
    TokenId left, right;
  };

  bool byte_level = true, ignore_merges = false, fuse_unknown = false, byte_fallback = false;
  TokenId unknown = -1;

  // Ids count up from 0. The bytes (byte_level) or the text. findable: false for a spelling that is no byte-level one.
  void add_token(std::string token, bool findable = true);
  // The later of two for one pair counts; equal ranks go from left to right.
  void add_merge(TokenId left, TokenId right, std::int32_t rank, TokenId made);
  void reserve(std::size_t tokens, std::size_t merges);
  // After the last token and merge.
  void finish();

  int size() const { return static_cast<int>(tokens_.size()); }
  const std::string& token(TokenId id) const { return tokens_[id]; }
  bool is_findable(TokenId id) const { return findable_[id]; }
  TokenId find(std::string_view token) const;  // -1 = none
  TokenId byte_token(unsigned char byte) const { return byte_ids_[byte]; }
  const std::vector<Merge>& merges() const { return merge_list_; }
  const MergeTable& merge_table() const { return table_; }

  void encode(std::string_view word, std::vector<TokenId>& out) const;  // appends

 private:
  struct CachedWord {
    static constexpr std::size_t kBytes = 46, kIds = 16;
    unsigned char length = 0, count = 0;  // length 0 = free
    char text[kBytes];
    TokenId ids[kIds];
  };
  static constexpr std::size_t kCachedWords = 1 << 14;

  void index_tokens();
  void encode_cached(std::string_view word, std::vector<TokenId>& out) const;
  void encode_now(std::string_view word, std::vector<TokenId>& out) const;
  void symbols_of(std::string_view word, std::vector<TokenId>& symbols) const;
  void merge_few(std::vector<TokenId>& symbols) const;
  void merge_many(std::vector<TokenId>& symbols) const;
  bool find_byte_tokens(std::string_view character, std::vector<TokenId>& out) const;
  bool words_end_before_spaces() const;

  std::vector<std::string> tokens_;
  std::vector<bool> findable_;
  std::vector<TokenId> index_;  // open addressing over tokens_, -1 = free
  std::array<TokenId, 256> byte_ids_{};
  std::vector<Merge> merge_list_;
  MergeTable table_;
  bool cuts_words_ = false;  // no merge reaches over the front of "▁": text may be cut there
  mutable std::vector<CachedWord> cache_;
  mutable std::vector<TokenId> symbols_;
};

}  // namespace pgtrain::engine::tokenizers
