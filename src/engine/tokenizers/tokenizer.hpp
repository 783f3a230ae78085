// Text to token ids and back: byte-level BPE, of which the plain byte tokenizer is the case without merges.
//
// Bytes are ids 0 to 255 and <|endoftext|> is 256 in what we make; files of others may number freely. Any bytes can be
// encoded and decode(encode(x)) == x. "<|endoftext|>" inside a text is text, never the mark: a document cannot end itself.
// Files are tokenizer.json as the Hugging Face library writes and reads it. Not safe for two threads at once (word cache).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace pgtrain::engine::core {
class JsonValue;
}  // namespace pgtrain::engine::core

namespace pgtrain::engine::tokenizers {

inline constexpr std::string_view kEndOfText = "<|endoftext|>";

class Tokenizer {
 public:
  using Id = std::int32_t;
  struct Merge {
    Id left, right;
  };

  static Tokenizer bytes();
  // Merge i makes token 257 + i of the bytes of its two parts. Parts must exist before they are used.
  static Tokenizer from_merges(const std::vector<Merge>& merges);
  // Refuses what it would not encode exactly alike, naming the field; model_invalid.
  static Tokenizer from_json(std::string_view text, const std::string& name);

  std::string to_json() const;
  int vocab_size() const { return static_cast<int>(tokens_.size()); }
  Id end_of_text() const { return end_of_text_; }
  bool is_special(Id id) const { return special_[id]; }
  bool is_plain_bytes() const { return merges_.empty(); }
  const std::string& token_bytes(Id id) const { return tokens_[id]; }

  void encode(std::string_view text, std::vector<Id>& out) const;  // appends
  std::string decode(const std::vector<Id>& ids) const;            // special tokens give nothing

 private:
  struct Merged {
    std::int32_t rank;
    Id id;
  };
  static std::uint64_t key(Id left, Id right) { return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right); }
  // Parts of from_json.
  void take_tokens(const std::unordered_map<std::string, Id>& ids, const std::unordered_set<std::string>& special, const std::string& name);
  void take_merges(const core::JsonValue& merges, const std::unordered_map<std::string, Id>& ids, const std::string& name);
  void encode_piece(std::string_view piece, std::vector<Id>& out) const;
  void merge_piece(std::string_view piece, std::vector<Id>& out) const;

  std::vector<std::string> tokens_;
  std::vector<bool> special_;
  std::array<Id, 256> byte_ids_{};
  Id end_of_text_ = -1;
  std::unordered_map<std::uint64_t, Merged> merges_;
  std::vector<Merge> merge_list_;
  mutable std::unordered_map<std::string, std::vector<Id>> cache_;
};

}  // namespace pgtrain::engine::tokenizers
