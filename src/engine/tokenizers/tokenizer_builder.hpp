// Puts a Tokenizer together from parts that a reader found, checking what all sources have in common.
//
// Called by from_json, from_gguf and from_merges; each sets the pipeline, then tokens, merges and added tokens, then finish().
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::tokenizers {

// An error of a file that cannot be read: `field` is where, `reason` what; model_invalid.
[[noreturn]] void refuse(const std::string& name, const std::string& field, const std::string& reason);

class TokenizerBuilder {
 public:
  explicit TokenizerBuilder(std::string name) : name_(std::move(name)) {}

  BpeModel& model() { return made_.model_; }
  std::vector<NormalizerStep>& normalizers() { return made_.normalizers_; }
  std::vector<PreTokenizerStep>& pre_tokenizers() { return made_.pre_tokenizers_; }
  std::vector<DecoderStep>& decoders() { return made_.decoders_; }
  std::vector<std::pair<std::string, TokenId>>& before() { return made_.before_; }
  std::vector<std::pair<std::string, TokenId>>& after() { return made_.after_; }
  Tokenizer::SpecialIds& special_ids() { return made_.special_ids_; }

  // `text` as files spell it, with the id that comes next.
  void add_token(const std::string& text);
  void add_added(AddedToken token);
  void keep_source(std::string_view text) { made_.source_ = text; }
  Tokenizer finish();

 private:
  void guess_special_ids();
  bool is_plain_bytes() const;

  std::string name_;
  Tokenizer made_;
};

}  // namespace pgtrain::engine::tokenizers
