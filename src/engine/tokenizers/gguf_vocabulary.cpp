// The vocabulary inside a GGUF file as a Tokenizer.
//
// `gpt2` is byte-level BPE with merges; `pre` names the pattern. `llama` is SentencePiece's BPE, which has scores instead of
// merges: of all neighbours that together are a token, those with the best score merge first, of equals the leftmost. So
// every way to make a token of two others is a merge whose rank is the place of the token's score. As in SentencePiece,
// nothing merges to a control token; that is the one thing in which text differs from llama.cpp, where "<s>" in a message
// can become the token.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <tuple>

#include "engine/core/json.hpp"
#include "engine/core/utf8.hpp"
#include "engine/tokenizers/byte_characters.hpp"
#include "engine/tokenizers/gguf_pre_tokenizers.hpp"
#include "engine/tokenizers/tokenizer_builder.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6;
constexpr std::size_t kLongestScoredToken = 1024;
const std::string kSpaceMark = "\xE2\x96\x81";  // ▁

class GgufReader {
 public:
  GgufReader(const GgufVocabulary& vocabulary, const std::string& name) : vocabulary_(vocabulary), name_(name), builder_(name) {}

  Tokenizer read() {
    check_sizes();
    const bool is_scored = vocabulary_.model == "llama";
    if (!is_scored && vocabulary_.model != "gpt2")
      refuse(name_, "tokenizer.ggml.model", core::printable(vocabulary_.model) + " is not supported, only gpt2 and llama");
    adds_bos_ = is_scored;
    if (is_scored)
      set_scored_pipeline();
    else
      set_byte_pipeline();
    builder_.model().reserve(vocabulary_.tokens.size(), vocabulary_.merges.size());
    for (std::size_t i = 0; i < vocabulary_.tokens.size(); ++i) add_token(i);
    builder_.model().finish();
    if (is_scored)
      add_scored_merges();
    else
      add_merges();
    set_special_ids();
    builder_.model().finish();
    add_added_tokens();
    return builder_.finish();
  }

 private:
  std::int32_t type_of(std::size_t id) const { return vocabulary_.token_types.empty() ? kNormal : vocabulary_.token_types[id]; }

  void check_sizes() const {
    const std::size_t count = vocabulary_.tokens.size();
    if (count == 0 || count > INT32_MAX) refuse(name_, "tokenizer.ggml.tokens", std::to_string(count) + " tokens");
    const auto check = [&](const char* field, std::size_t size) {
      if (size != 0 && size != count)
        refuse(name_, field, "has " + std::to_string(size) + " entries for " + std::to_string(count) + " tokens");
    };
    check("tokenizer.ggml.token_type", vocabulary_.token_types.size());
    check("tokenizer.ggml.scores", vocabulary_.scores.size());
    for (std::size_t i = 0; i < vocabulary_.token_types.size(); ++i)
      if (type_of(i) < kNormal || type_of(i) > kByte)
        refuse(name_, "tokenizer.ggml.token_type", "token " + std::to_string(i) + " is of type " + std::to_string(type_of(i)));
  }

  void set_byte_pipeline() {
    const auto found = std::find_if(std::begin(kGgufPreTokenizers), std::end(kGgufPreTokenizers),
                                    [&](const GgufPreTokenizer& known) { return vocabulary_.pre == known.name; });
    if (found == std::end(kGgufPreTokenizers)) {
      std::string names;
      for (const std::string& name : known_gguf_pre_tokenizers()) names += (names.empty() ? "" : ", ") + name;
      refuse(name_, "tokenizer.ggml.pre",
             (vocabulary_.pre.empty() ? "is missing" : core::printable(vocabulary_.pre) + " is not supported") + ", known are " + names);
    }
    BpeModel& model = builder_.model();
    model.ignore_merges = found->ignores_merges;
    adds_bos_ = found->adds_bos;
    if (found->composes) builder_.normalizers().push_back({NormalizerStep::Kind::Nfc, "", ""});
    using Kind = PreTokenizerStep::Kind;
    auto& steps = builder_.pre_tokenizers();
    if (found->splits_digits) steps.push_back({.kind = Kind::Digits, .replacement = ""});
    const bool is_gpt2 = found->pattern == Pattern::Gpt2;
    if (!is_gpt2) steps.push_back({.kind = Kind::Split, .pattern = found->pattern, .replacement = ""});
    steps.push_back({.kind = Kind::ByteLevel, .uses_pattern = is_gpt2, .replacement = ""});
    builder_.decoders().push_back({DecoderStep::Kind::ByteLevel, "", ""});
  }

  void set_scored_pipeline() {
    BpeModel& model = builder_.model();
    model.byte_level = false;
    model.byte_fallback = true;
    model.fuse_unknown = true;
    const bool adds_space = vocabulary_.adds_space_prefix.value_or(true);
    if (adds_space) builder_.normalizers().push_back({NormalizerStep::Kind::Prepend, "", kSpaceMark});
    builder_.normalizers().push_back({NormalizerStep::Kind::Replace, " ", kSpaceMark});
    builder_.decoders().push_back({DecoderStep::Kind::Replace, kSpaceMark, " "});
    builder_.decoders().push_back({DecoderStep::Kind::ByteFallback, "", ""});
    builder_.decoders().push_back({DecoderStep::Kind::Fuse, "", ""});
    if (adds_space) builder_.decoders().push_back({DecoderStep::Kind::Strip, "", " ", 1, 0});
  }

  void add_token(std::size_t id) {
    const std::string& text = vocabulary_.tokens[id];
    if (core::first_invalid_utf8(text) != std::string::npos)
      refuse(name_, "tokenizer.ggml.tokens", "token " + std::to_string(id) + " is not valid UTF-8");
    // Control tokens are found as added tokens only; no text merges to one.
    if (type_of(id) == kControl || type_of(id) == kUnknown)
      builder_.model().add_token(text, false);
    else
      builder_.add_token(text);
  }

  void add_merges() {
    BpeModel& model = builder_.model();
    const auto find = [&](const std::string& text, const std::string& merge) {
      std::string bytes;
      const TokenId id = unspell(text, bytes) ? model.find(bytes) : -1;
      if (id < 0) refuse(name_, "tokenizer.ggml.merges", "\"" + core::printable(merge) + "\" uses a token that the vocabulary lacks");
      return id;
    };
    std::int32_t rank = 0;
    for (const std::string& merge : vocabulary_.merges) {
      // A byte-level spelling holds no space of its own.
      const std::size_t space = merge.find(' ');
      if (space == std::string::npos)
        refuse(name_, "tokenizer.ggml.merges", "\"" + core::printable(merge) + "\" is not two tokens and a space");
      const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
      model.add_merge(find(left, merge), find(right, merge), rank++, find(left + right, merge));
    }
  }

  void add_scored_merges() {
    if (vocabulary_.scores.empty()) refuse(name_, "tokenizer.ggml.scores", "is missing");
    BpeModel& model = builder_.model();
    std::map<float, std::int32_t, std::greater<>> ranks;
    for (const float score : vocabulary_.scores) {
      if (!std::isfinite(score)) refuse(name_, "tokenizer.ggml.scores", "a score is not a finite number");
      ranks.emplace(score, 0);
    }
    std::int32_t next = 0;
    for (auto& [score, rank] : ranks) rank = next++;
    struct Found {
      std::int32_t rank;
      TokenId made, left, right;
    };
    std::vector<Found> found;
    for (TokenId id = 0; id < model.size(); ++id) {
      const std::string_view text = model.token(id);
      if (!model.is_findable(id) || type_of(static_cast<std::size_t>(id)) == kByte) continue;
      if (text.size() > kLongestScoredToken)
        refuse(name_, "tokenizer.ggml.tokens",
               "token " + std::to_string(id) + " is longer than " + std::to_string(kLongestScoredToken) + " bytes");
      for (std::size_t at = 1; at < text.size(); ++at) {
        if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
        const TokenId left = model.find(text.substr(0, at)), right = left < 0 ? -1 : model.find(text.substr(at));
        if (right >= 0) found.push_back({ranks[vocabulary_.scores[static_cast<std::size_t>(id)]], id, left, right});
      }
    }
    std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
      return std::tie(a.rank, a.made, a.left, a.right) < std::tie(b.rank, b.made, b.left, b.right);
    });
    for (const Found& merge : found) model.add_merge(merge.left, merge.right, merge.rank, merge.made);
  }

  TokenId checked(const char* field, const std::optional<std::int64_t>& id) const {
    if (!id) return -1;
    if (*id < 0 || *id >= static_cast<std::int64_t>(vocabulary_.tokens.size())) refuse(name_, field, std::to_string(*id) + " is no token");
    return static_cast<TokenId>(*id);
  }

  void set_special_ids() {
    Tokenizer::SpecialIds& ids = builder_.special_ids();
    ids.bos = checked("tokenizer.ggml.bos_token_id", vocabulary_.bos);
    ids.eos = checked("tokenizer.ggml.eos_token_id", vocabulary_.eos);
    ids.pad = checked("tokenizer.ggml.padding_token_id", vocabulary_.pad);
    ids.unknown = checked("tokenizer.ggml.unknown_token_id", vocabulary_.unknown);
    if (vocabulary_.model == "llama") builder_.model().unknown = ids.unknown;
    const auto surround = [&](bool adds, TokenId id, std::vector<std::pair<std::string, TokenId>>& where) {
      if (adds && id >= 0) where.emplace_back(vocabulary_.tokens[static_cast<std::size_t>(id)], id);
    };
    surround(vocabulary_.adds_bos.value_or(adds_bos_), ids.bos, builder_.before());
    surround(vocabulary_.adds_eos.value_or(false), ids.eos, builder_.after());
  }

  void add_added_tokens() {
    for (std::size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
      const std::int32_t type = type_of(i);
      if (type != kControl && type != kUnknown && type != kUserDefined) continue;
      AddedToken token;
      token.id = static_cast<TokenId>(i);
      token.content = vocabulary_.tokens[i];
      token.special = type != kUserDefined;
      builder_.add_added(std::move(token));
    }
  }

  const GgufVocabulary& vocabulary_;
  const std::string& name_;
  TokenizerBuilder builder_;
  bool adds_bos_ = false;
};

}  // namespace

std::vector<std::string> known_gguf_pre_tokenizers() {
  std::vector<std::string> names;
  for (const GgufPreTokenizer& known : kGgufPreTokenizers) names.emplace_back(known.name);
  return names;
}

Tokenizer Tokenizer::from_gguf(const GgufVocabulary& vocabulary, const std::string& name) { return GgufReader(vocabulary, name).read(); }

}  // namespace pgtrain::engine::tokenizers
