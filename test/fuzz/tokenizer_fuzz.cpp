// libFuzzer target of the tokenizers: whatever the bytes are as a tokenizer.json, as a text or as a GGUF vocabulary, tokens
// that exist and text that is valid, or core::Error.
//
// `make fuzz` runs it, starting from test/fuzz/seeds/tokenizer. The ordinary suite replays these
// seeds (replay.cpp).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/tokenizers/unicode_normalizer.hpp"

namespace {

using namespace pgtrain::engine;
using tokenizers::Tokenizer;

void check(bool holds) {
  if (!holds) __builtin_trap();
}

void expect_sound(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<Tokenizer::Id> ids;
  const std::size_t half = text.size() / 2;
  tokenizer.encode(text, ids);
  tokenizer.encode_template(text, true, ids);
  tokenizer.encode_parts({{text.substr(0, half), true}, {text.substr(half), false}}, false, ids);
  for (const Tokenizer::Id id : ids) check(id >= 0 && id < tokenizer.vocab_size());
  check(core::first_invalid_utf8(tokenizer.decode_text(ids, false)) == std::string::npos);
  tokenizer.decode(ids);
}

// The bytes as a vocabulary: lines are tokens, their first byte chooses type and score; merges are neighbours.
tokenizers::GgufVocabulary vocabulary_of(std::string_view text) {
  tokenizers::GgufVocabulary made;
  made.model = !text.empty() && text[0] % 2 == 0 ? "gpt2" : "llama";
  const auto known = tokenizers::known_gguf_pre_tokenizers();
  made.pre = known[text.size() % known.size()];
  for (std::size_t at = 0; at < text.size() && made.tokens.size() < 512;) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const unsigned char first = static_cast<unsigned char>(text[at]);
    made.token_types.push_back(1 + first % 8);
    made.scores.push_back(static_cast<float>(first / 8));
    made.tokens.emplace_back(text.substr(at, end - at));
    if (made.tokens.size() > 1 && first % 5 == 0) made.merges.push_back(made.tokens[made.tokens.size() - 2] + " " + made.tokens.back());
    at = end + 1;
  }
  if (!text.empty()) made.bos = static_cast<unsigned char>(text.back()), made.unknown = 0;
  return made;
}

template <typename Make>
void try_with(std::string_view text, Make make) {
  try {
    expect_sound(make(), text);
  } catch (const core::Error& error) {
    check(error.code == "model_invalid");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // Any bytes can be encoded, with merges that the corpus did not choose.
  static const auto pairs = Tokenizer::from_merges({{'a', 'b'}, {257, 'c'}, {' ', 't'}, {0xC3, 0xA9}});
  std::vector<Tokenizer::Id> ids;
  pairs.encode(text, ids);
  check(pairs.decode(ids) == text);
  for (const tokenizers::Pattern pattern : tokenizers::kPatterns) {
    std::size_t covered = 0;
    tokenizers::for_each_piece(pattern, text, [&](std::string_view piece) {
      check(!piece.empty());
      covered += piece.size();
    });
    check(covered == text.size());
  }
  const std::string composed = tokenizers::to_nfc(text);
  check(tokenizers::to_nfc(composed) == composed && tokenizers::to_nfc(tokenizers::to_nfd(text)) == composed);
  try_with(text, [&] { return Tokenizer::from_json(text, "fuzz"); });
  try_with(text, [&] { return Tokenizer::from_gguf(vocabulary_of(text), "fuzz"); });
  return 0;
}
