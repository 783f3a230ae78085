// Text to token ids and back: byte pair encoding as GPT-2, Llama, Mistral, Qwen and SmolLM have it.
//
// Made from nothing (bytes, from_merges), from a tokenizer.json, or from the vocabulary inside a GGUF file; what was read
// encodes and decodes exactly as the `tokenizers` package does, and what would not is refused by name. A text of any bytes
// can be encoded. Special tokens are recognised only in text that the caller calls a template: a document or a user's
// message cannot end itself. Not safe for two threads at once (word cache): each takes a copy.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/tokenizers/added_tokens.hpp"
#include "engine/tokenizers/bpe_model.hpp"
#include "engine/tokenizers/decoder.hpp"
#include "engine/tokenizers/normalizer.hpp"
#include "engine/tokenizers/pretokenizer.hpp"

namespace pgtrain::engine::tokenizers {

class LearnedMarks;

inline constexpr std::string_view kEndOfText = "<|endoftext|>";

// What a GGUF file says under tokenizer.ggml.*; empty where it says nothing.
struct GgufVocabulary {
  std::string model, pre;  // "gpt2" or "llama"; "llama-bpe", "qwen2", "smollm" ...
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<float> scores;
  std::optional<std::int64_t> bos, eos, pad, unknown;
  std::optional<bool> adds_bos, adds_eos, adds_space_prefix;
};

// The names of the values of `pre` that are read, for messages and documents.
std::vector<std::string> known_gguf_pre_tokenizers();

class Tokenizer {
 public:
  using Id = TokenId;
  using Merge = BpeModel::Merge;

  // A part of a text; only in template parts are special tokens recognised.
  struct TextPart {
    std::string_view text;
    bool is_template = false;
    bool is_learned = false;  // see encode_parts
  };
  // -1 = none known.
  struct SpecialIds {
    Id bos = -1, eos = -1, pad = -1, unknown = -1;
  };

  static Tokenizer bytes();
  // Merge i makes token 257 + i of the bytes of its two parts. Parts must exist before they are used.
  static Tokenizer from_merges(const std::vector<Merge>& merges);
  // Refuses what it would not encode exactly alike, naming the field; model_invalid.
  static Tokenizer from_json(std::string_view text, const std::string& name);
  static Tokenizer from_gguf(const GgufVocabulary& vocabulary, const std::string& name);

  // The text that was read, byte for byte, or a tokenizer.json that says the same.
  std::string to_json() const;
  // What from_gguf makes this tokenizer of; model_invalid, naming the part, where GGUF has no words for it.
  GgufVocabulary to_gguf() const;
  int vocab_size() const { return model_.size() + static_cast<int>(extra_.size()); }
  bool is_plain_bytes() const { return is_plain_bytes_; }
  bool is_special(Id id) const { return special_[id]; }
  // What the token gives when it is decoded alone, before any step that looks at its neighbours.
  const std::string& token_bytes(Id id) const { return id < model_.size() ? model_.token(id) : extra_[id - model_.size()]; }
  std::string token_text(Id id) const;                        // as files spell it
  std::optional<Id> find_token(std::string_view text) const;  // by that spelling

  // Guessed from well-known names by from_json, said by from_gguf, told by take_config.
  const SpecialIds& special_ids() const { return special_ids_; }
  void set_special_ids(const SpecialIds& ids) { special_ids_ = ids; }
  // bos_token, eos_token, pad_token and unk_token of a tokenizer_config.json or special_tokens_map.json.
  void take_config(std::string_view json, const std::string& name);
  // What stands between documents: <|endoftext|> where there is one, else the end of sequence. Refused where neither is known.
  Id end_of_text() const;

  // A text without special tokens in it, nothing added. Appends, as all of these do.
  void encode(std::string_view text, std::vector<Id>& out) const { encode_parts({{text, false}}, false, out); }
  // Special tokens are recognised; adds_special: also what the file's template puts around a text (BOS, EOS).
  void encode_template(std::string_view text, bool adds_special, std::vector<Id>& out) const {
    encode_parts({{text, true}}, adds_special, out);
  }
  // What adds_special puts before a text.
  void begin_text(std::vector<Id>& out) const {
    for (const auto& [name, id] : before_) out.push_back(id);
  }
  // As if the parts were one text. learned: for each token that is appended, whether a byte of it lies in a learned part.
  void encode_parts(const std::vector<TextPart>& parts, bool adds_special, std::vector<Id>& out, std::vector<bool>* learned = nullptr) const;

  // The bytes, special tokens left out; may end in the middle of a character, as the ids may.
  std::string decode(const std::vector<Id>& ids) const { return decode_as(ids, true, true); }
  // Valid UTF-8, as the package gives it.
  std::string decode_text(const std::vector<Id>& ids, bool skips_special) const { return decode_as(ids, skips_special, false); }

 private:
  friend class TokenizerBuilder;
  friend class TokenizerWriter;
  friend class GgufVocabularyWriter;

  void encode_stretch(std::string_view text, std::size_t begin, const Marking& marking, std::vector<Id>& out, LearnedMarks* marks) const;
  Marking marking_after_normalizing(const Marking& marking, std::string_view text, std::size_t begin, std::string_view normalized) const;
  std::string decode_as(const std::vector<Id>& ids, bool skips_special, bool keeps_bytes) const;
  std::string spelling_for_decoding(Id id) const;

  BpeModel model_;
  bool is_plain_bytes_ = false;
  std::vector<NormalizerStep> normalizers_;
  std::vector<PreTokenizerStep> pre_tokenizers_;
  std::vector<DecoderStep> decoders_;
  std::vector<std::pair<std::string, Id>> before_, after_;  // what adds_special puts around a text
  std::vector<AddedToken> added_;                           // by id
  std::unordered_map<std::string, Id> added_ids_;
  std::unordered_map<Id, std::string> decoded_as_;  // added tokens that normalizing changes
  std::vector<std::string> extra_;                  // added tokens that the model does not have, from id model_.size()
  std::vector<bool> special_;
  AddedTokenMatcher raw_, normalized_;
  bool has_normalized_special_ = false;
  SpecialIds special_ids_;
  Id end_of_text_ = -1;
  std::string source_;  // what from_json read
};

}  // namespace pgtrain::engine::tokenizers
