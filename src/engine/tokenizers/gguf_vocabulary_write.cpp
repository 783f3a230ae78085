// A Tokenizer as the vocabulary of a GGUF file, the other direction of gguf_vocabulary.cpp.
//
// SentencePiece's BPE has scores there instead of merges: a token's score is minus the place of its first merge. That says the same only
// where merges that make one token stand together and none of its splits is left out, as in every tokenizer.json that was made from a
// SentencePiece model; others are refused.
#include <algorithm>
#include <unordered_map>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/tokenizers/gguf_pre_tokenizers.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6;
const std::string kSpaceMark = "\xE2\x96\x81";  // ▁

[[noreturn]] void refuse_part(const std::string& part, const std::string& reason) {
  throw core::Error("model_invalid", "the tokenizer has no form in a GGUF file: " + part + ": " + reason, "",
                    "Export this model as safetensors.");
}

bool is_byte_text(const std::string& text) { return text.size() == 6 && text.rfind("<0x", 0) == 0 && text[5] == '>'; }

}  // namespace

class GgufVocabularyWriter {
 public:
  explicit GgufVocabularyWriter(const Tokenizer& tokenizer) : tokenizer_(tokenizer), model_(tokenizer.model_) {}

  GgufVocabulary write() {
    out_.model = model_.byte_level ? "gpt2" : "llama";
    if (model_.byte_level)
      set_byte_pipeline();
    else
      set_scored_pipeline();
    set_tokens();
    if (model_.byte_level)
      set_merges();
    else
      set_scores();
    set_special_ids();
    return std::move(out_);
  }

 private:
  void set_byte_pipeline() {
    const auto& normalizers = tokenizer_.normalizers_;
    const bool composes = normalizers.size() == 1 && normalizers[0].kind == NormalizerStep::Kind::Nfc;
    if (!composes && !normalizers.empty()) refuse_part("normalizer", "only NFC, or none, can be said");
    std::vector<PreTokenizerStep> steps = tokenizer_.pre_tokenizers_;
    using Kind = PreTokenizerStep::Kind;
    const bool splits_digits = !steps.empty() && steps[0].kind == Kind::Digits && steps[0].individual_digits;
    if (splits_digits) steps.erase(steps.begin());
    Pattern pattern = Pattern::Gpt2;
    const bool is_split = !steps.empty() && steps[0].kind == Kind::Split;
    if (is_split) pattern = steps[0].pattern, steps.erase(steps.begin());
    const bool is_known =
        steps.size() == 1 && steps[0].kind == Kind::ByteLevel && steps[0].uses_pattern != is_split && !steps[0].adds_prefix_space;
    for (const GgufPreTokenizer& known : kGgufPreTokenizers) {
      if (!is_known || known.pattern != pattern || known.splits_digits != splits_digits || known.composes != composes ||
          known.ignores_merges != model_.ignore_merges)
        continue;
      out_.pre = known.name;
      return;
    }
    refuse_part("pre_tokenizer", "GGUF knows the pipelines of GPT-2, SmolLM, Llama 3, Qwen 2 and 3 and Tekken");
  }

  void set_scored_pipeline() {
    if (!model_.byte_fallback) refuse_part("model", "characters without a token must become bytes (byte_fallback)");
    std::vector<NormalizerStep> normalizers = tokenizer_.normalizers_;
    using Kind = NormalizerStep::Kind;
    const auto& steps = tokenizer_.pre_tokenizers_;
    if (steps.size() == 1 && steps[0].kind == PreTokenizerStep::Kind::Metaspace && steps[0].replacement == kSpaceMark &&
        normalizers.empty()) {
      out_.adds_space_prefix = steps[0].prepend != PreTokenizerStep::Prepend::Never;
      return;
    }
    out_.adds_space_prefix = !normalizers.empty() && normalizers[0].kind == Kind::Prepend && normalizers[0].content == kSpaceMark;
    if (*out_.adds_space_prefix) normalizers.erase(normalizers.begin());
    const bool is_known = normalizers.size() == 1 && normalizers[0].kind == Kind::Replace && normalizers[0].pattern == " " &&
                          normalizers[0].content == kSpaceMark;
    if (!is_known || !steps.empty()) refuse_part("normalizer", "only SentencePiece's, which puts \xE2\x96\x81 for spaces, can be said");
  }

  void set_tokens() {
    const int count = tokenizer_.vocab_size();
    for (TokenId id = 0; id < count; ++id) {
      out_.tokens.push_back(tokenizer_.token_text(id));
      out_.token_types.push_back(model_.byte_fallback && is_byte_text(out_.tokens.back()) ? kByte : kNormal);
    }
    for (const AddedToken& token : tokenizer_.added_) {
      out_.tokens[static_cast<std::size_t>(token.id)] = token.content;
      out_.token_types[static_cast<std::size_t>(token.id)] = token.special ? kControl : kUserDefined;
    }
    if (!model_.byte_level && model_.unknown >= 0) out_.token_types[static_cast<std::size_t>(model_.unknown)] = kUnknown;
  }

  void set_merges() {
    for (const BpeModel::Merge& merge : model_.merges())
      out_.merges.push_back(tokenizer_.token_text(merge.left) + " " + tokenizer_.token_text(merge.right));
  }

  void set_scores() {
    std::unordered_map<TokenId, std::size_t> places;
    TokenId last = -1;
    std::size_t place = 0;
    for (const BpeModel::Merge& merge : model_.merges()) {
      const MergeTable::Merged* made = model_.merge_table().find(merge.left, merge.right);
      if (made == nullptr) continue;
      if (made->id != last && !places.emplace(made->id, place++).second)
        refuse_part("merges", "those that make \"" + core::printable(model_.token(made->id)) +
                                  "\" do not stand together, so no score can order them");
      last = made->id;
    }
    check_splits();
    out_.scores.assign(out_.tokens.size(), -static_cast<float>(place));
    if (place >= (1u << 24)) refuse_part("merges", "there are more than scores can tell apart");
    for (const auto& [id, at] : places) out_.scores[static_cast<std::size_t>(id)] = -static_cast<float>(at);
  }

  void check_splits() const {
    for (TokenId id = 0; id < model_.size(); ++id) {
      const std::string_view text = model_.token(id);
      const std::int32_t type = out_.token_types[static_cast<std::size_t>(id)];
      if (!model_.is_findable(id) || type != kNormal) continue;
      for (std::size_t at = 1; at < text.size(); ++at) {
        if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
        const TokenId left = model_.find(text.substr(0, at)), right = left < 0 ? -1 : model_.find(text.substr(at));
        if (right >= 0 && model_.merge_table().find(left, right) == nullptr)
          refuse_part("merges",
                      "\"" + core::printable(text) + "\" can be made of two tokens that do not merge here, but would where scores decide");
      }
    }
  }

  void set_special_ids() {
    const Tokenizer::SpecialIds& ids = tokenizer_.special_ids_;
    const auto set = [](std::optional<std::int64_t>& to, TokenId id) {
      if (id >= 0) to = id;
    };
    set(out_.bos, ids.bos), set(out_.eos, ids.eos), set(out_.pad, ids.pad), set(out_.unknown, ids.unknown);
    const auto adds = [&](const std::vector<std::pair<std::string, TokenId>>& around, TokenId id, const char* part) {
      if (around.empty()) return false;
      if (around.size() > 1 || around[0].second != id) refuse_part(part, "only the model's own begin and end can be put around a text");
      return true;
    };
    out_.adds_bos = adds(tokenizer_.before_, ids.bos, "post_processor");
    out_.adds_eos = adds(tokenizer_.after_, ids.eos, "post_processor");
  }

  const Tokenizer& tokenizer_;
  const BpeModel& model_;
  GgufVocabulary out_;
};

GgufVocabulary Tokenizer::to_gguf() const { return GgufVocabularyWriter(*this).write(); }

}  // namespace pgtrain::engine::tokenizers
