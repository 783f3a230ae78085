// See tokenizer_builder.hpp.
#include "engine/tokenizers/tokenizer_builder.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/tokenizers/byte_characters.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::size_t kMaxAddedTokenBytes = 1024;

}  // namespace

void refuse(const std::string& name, const std::string& field, const std::string& reason) {
  throw core::Error("model_invalid", name + ": " + field + ": " + reason, "",
                    "Read are the tokenizers of GPT-2, Llama 2 and 3, Mistral, Qwen 2 to 3.5 and SmolLM (byte pair encoding), and those "
                    "that tokenizer => byte or bpe makes.");
}

void TokenizerBuilder::add_token(const std::string& text) {
  BpeModel& model = made_.model_;
  if (!model.byte_level) return model.add_token(text);
  std::string bytes;
  const bool is_spelled = unspell(text, bytes) && !bytes.empty();
  model.add_token(is_spelled ? bytes : text, is_spelled);
}

void TokenizerBuilder::add_added(AddedToken token) {
  const std::string shown = "\"" + core::printable(token.content) + "\"";
  if (token.content.empty()) refuse(name_, "added_tokens", "a token without text");
  if (token.content.size() > kMaxAddedTokenBytes)
    refuse(name_, "added_tokens", shown + " is longer than " + std::to_string(kMaxAddedTokenBytes) + " bytes");
  const int known = made_.vocab_size();
  if (token.id > known)
    refuse(name_, "added_tokens", shown + " has id " + std::to_string(token.id) + ", " + std::to_string(known) + " comes next");
  if (token.id == known) {
    std::string bytes;
    made_.extra_.push_back(made_.model_.byte_level && unspell(token.content, bytes) ? bytes : token.content);
  }
  token.pattern = token.content;
  if (token.normalized) {
    std::string storage;
    token.pattern = normalize(made_.normalizers_, token.content, storage);
    if (token.pattern.empty()) refuse(name_, "added_tokens", "the normalizer leaves nothing of " + shown);
    if (token.pattern != token.content) made_.decoded_as_[token.id] = token.pattern;
  }
  if (!made_.added_ids_.emplace(token.content, token.id).second) refuse(name_, "added_tokens", shown + " appears twice");
  made_.added_.push_back(std::move(token));
}

void TokenizerBuilder::guess_special_ids() {
  Tokenizer::SpecialIds& ids = made_.special_ids_;
  const auto first_of = [&](std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names)
      if (const auto found = made_.added_ids_.find(std::string(name)); found != made_.added_ids_.end()) return found->second;
    return TokenId{-1};
  };
  made_.end_of_text_ = first_of({kEndOfText, "<|end_of_text|>"});
  if (ids.bos < 0) ids.bos = !made_.before_.empty() ? made_.before_[0].second : first_of({"<s>", "<|begin_of_text|>", "<bos>"});
  if (ids.eos < 0) ids.eos = first_of({kEndOfText, "<|end_of_text|>", "</s>", "<eos>"});
  if (ids.unknown < 0) ids.unknown = made_.model_.unknown;
}

// Each byte is one token whatever stands around it, as long as special tokens are not looked for.
bool TokenizerBuilder::is_plain_bytes() const {
  const BpeModel& model = made_.model_;
  if (!model.byte_level || model.ignore_merges || !model.merges().empty() || !made_.normalizers_.empty()) return false;
  for (const PreTokenizerStep& step : made_.pre_tokenizers_)
    if (step.adds_prefix_space || step.kind == PreTokenizerStep::Kind::Metaspace) return false;
  for (const AddedToken& token : made_.added_)
    if (!token.special) return false;
  for (int byte = 0; byte < 256; ++byte)
    if (model.byte_token(static_cast<unsigned char>(byte)) < 0) return false;
  return true;
}

Tokenizer TokenizerBuilder::finish() {
  std::stable_sort(made_.added_.begin(), made_.added_.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  made_.special_.assign(static_cast<std::size_t>(made_.vocab_size()), false);
  for (std::size_t i = 0; i < made_.added_.size(); ++i) {
    const AddedToken& token = made_.added_[i];
    if (i > 0 && made_.added_[i - 1].id == token.id) refuse(name_, "added_tokens", "id " + std::to_string(token.id) + " is used twice");
    if (token.special) made_.special_[token.id] = true;
    (token.normalized ? made_.normalized_ : made_.raw_).add(token);
    if (token.normalized && token.special) made_.has_normalized_special_ = true;
  }
  guess_special_ids();
  made_.is_plain_bytes_ = is_plain_bytes();
  return std::move(made_);
}

Tokenizer Tokenizer::bytes() { return from_merges({}); }

Tokenizer Tokenizer::from_merges(const std::vector<Merge>& merges) {
  TokenizerBuilder builder("tokenizer");
  BpeModel& model = builder.model();
  model.reserve(257 + merges.size(), merges.size());
  for (int byte = 0; byte < 256; ++byte) model.add_token(std::string(1, static_cast<char>(byte)));
  model.add_token(std::string(kEndOfText));
  for (const Merge& merge : merges) {
    model.add_merge(merge.left, merge.right, static_cast<std::int32_t>(model.merges().size()), model.size());
    model.add_token(model.token(merge.left) + model.token(merge.right));
  }
  model.finish();
  builder.pre_tokenizers().push_back({.kind = PreTokenizerStep::Kind::ByteLevel, .replacement = ""});
  builder.decoders().push_back({.kind = DecoderStep::Kind::ByteLevel, .pattern = "", .content = ""});
  AddedToken end;
  end.id = 256;
  end.content = kEndOfText;
  end.special = true;
  builder.add_added(end);
  return builder.finish();
}

}  // namespace pgtrain::engine::tokenizers
