// The model families' pipelines: patterns, normal forms, added tokens, template and content, byte fallback, GGUF vocabularies.
// That all of it equals the `tokenizers` package on many texts is test/interop/check_tokenizers.py's matter.
#include <gtest/gtest.h>

#include <random>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/tokenizers/unicode_normalizer.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

using Ids = std::vector<Tokenizer::Id>;
using List = std::vector<std::string>;

List pieces(Pattern pattern, std::string_view text) {
  List out;
  for_each_piece(pattern, text, [&](std::string_view piece) { out.emplace_back(piece); });
  return out;
}

Ids encode(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

Ids encode_template(const Tokenizer& tokenizer, std::string_view text, bool adds_special = false) {
  Ids ids;
  tokenizer.encode_template(text, adds_special, ids);
  return ids;
}

List spelled(const Tokenizer& tokenizer, const Ids& ids) {
  List out;
  for (const Tokenizer::Id id : ids) out.push_back(tokenizer.token_text(id));
  return out;
}

TEST(Patterns, KnowTheirOwnText) {
  for (const Pattern pattern : kPatterns) EXPECT_EQ(pattern_of(text_of(pattern)), pattern);
  EXPECT_EQ(pattern_of("\\p{L}+"), std::nullopt);
}

TEST(Patterns, OfLlamaAndQwen) {
  EXPECT_EQ(pieces(Pattern::Llama3, "We'LL see\tit: 12345!?\n\n  x"),
            (List{"We", "'LL", " see", "\tit", ":", " ", "123", "45", "!?\n\n", " ", " x"}));
  EXPECT_EQ(pieces(Pattern::Llama3, "a \n \n  b"), (List{"a", " \n \n", " ", " b"}));
  EXPECT_EQ(pieces(Pattern::Llama3, "'\xC5\xBFx'Q"), (List{"'\xC5\xBF", "x", "'Q"}));
  EXPECT_EQ(pieces(Pattern::Llama3,
                   "\xC2\xBD\xE2\x85\xA7"
                   "1z  "),
            (List{"\xC2\xBD\xE2\x85\xA7"
                  "1",
                  "z", "  "}));
  EXPECT_EQ(pieces(Pattern::Qwen2, "a123 .b\r\n"), (List{"a", "1", "2", "3", " .", "b", "\r\n"}));
  // A mark is a letter's part to Qwen 3.5 and a character of its own to Qwen 2.
  EXPECT_EQ(pieces(Pattern::Qwen2, "xe\xCC\x81y"), (List{"xe", "\xCC\x81y"}));
  EXPECT_EQ(pieces(Pattern::Qwen35, "xe\xCC\x81y"), (List{"xe\xCC\x81y"}));
}

TEST(Patterns, OfTekkenCutWhereTheCaseChanges) {
  EXPECT_EQ(pieces(Pattern::Tekken, "camelCase HTMLParser a/b\n//"), (List{"camel", "Case", " HTMLParser", " a", "/b", "\n", "//"}));
  EXPECT_EQ(pieces(Pattern::Tekken, "!\n/x"), (List{"!\n/", "x"}));
  // U+00AA is a letter of both cases: a run of capitals gives it back and the rest begins anew.
  EXPECT_EQ(pieces(Pattern::Tekken,
                   "\xC2\xAA"
                   "AB"),
            (List{"\xC2\xAA", "AB"}));
  EXPECT_EQ(pieces(Pattern::Tekken,
                   "\xCC\x81"
                   "AB"),
            (List{"\xCC\x81", "AB"}));
}

TEST(NormalForms, ComposeOrderAndLeaveTheRest) {
  EXPECT_EQ(to_nfc("ae\xCC\x81z"), "a\xC3\xA9z");
  EXPECT_EQ(to_nfd("a\xC3\xA9z"), "ae\xCC\x81z");
  EXPECT_EQ(to_nfc("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8"), "\xEA\xB0\x81");  // Hangul
  EXPECT_EQ(to_nfd("\xEA\xB0\x81"), "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8");
  EXPECT_EQ(to_nfc("q\xCC\x87\xCC\xA3"), "q\xCC\xA3\xCC\x87");    // dot below goes before dot above
  EXPECT_EQ(to_nfc("\xE0\xA5\x98"), "\xE0\xA4\x95\xE0\xA4\xBC");  // excluded from composition
  EXPECT_EQ(to_nfc("\xCD\x84"), "\xCC\x88\xCC\x81");
  EXPECT_EQ(to_nfc("\xE2\x84\xAB"), "\xC3\x85");                // Angstrom sign
  EXPECT_EQ(to_nfc("e\xFF\xCC\x81\xC3"), "e\xFF\xCC\x81\xC3");  // across a broken byte nothing composes
  std::string marks = "e";
  for (int i = 0; i < 200000; ++i) marks += i % 2 == 0 ? "\xCC\x87" : "\xCC\xA3";
  EXPECT_EQ(to_nfc(marks).substr(0, 5), "\xE1\xBA\xB9\xCC\xA3");  // one dot below goes into the letter: U+1EB9
  EXPECT_EQ(to_nfc(to_nfd(marks)), to_nfc(marks));
}

// A byte-level tokenizer.json with a few merges; parts replaced as asked.
std::string byte_level_json(const std::string& added, const std::string& normalizer = "null", const std::string& post = "null") {
  std::string text = Tokenizer::from_merges({{'a', 'b'}, {257, 'c'}, {' ', 't'}}).to_json();
  const auto put = [&](const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
  };
  put("\"normalized\": false, \"special\": true}", "\"normalized\": false, \"special\": true}" + added);
  put("\"normalizer\": null", "\"normalizer\": " + normalizer);
  put("\"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": false, \"use_regex\": true}",
      "\"post_processor\": " + post);
  return text;
}

std::string added(int id, const std::string& content, const std::string& flags) {
  return ",{\"id\": " + std::to_string(id) + ", \"content\": " + core::json_quote(content) + ", " + flags + "}";
}

constexpr const char* kPlain = "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true";

TEST(AddedTokens, AreFoundInTemplatesAndNotInContent) {
  const std::string json = byte_level_json(
      added(260, "<|im_start|>", kPlain) + added(261, "<|im_end|>", kPlain) +
      added(262, "<think>", "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": false"));
  const Tokenizer tokenizer = Tokenizer::from_json(json, "t");
  EXPECT_EQ(tokenizer.to_json(), json);
  EXPECT_EQ(tokenizer.vocab_size(), 263);
  EXPECT_EQ(tokenizer.find_token("<|im_end|>"), 261);
  EXPECT_EQ(tokenizer.find_token("\xC4\xA0t"), 259);
  EXPECT_EQ(tokenizer.find_token("nothing"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(260));
  EXPECT_FALSE(tokenizer.is_special(262));
  EXPECT_EQ(encode_template(tokenizer, "<|im_start|>abc<|im_end|>"), (Ids{260, 258, 261}));
  const Ids content = encode(tokenizer, "<|im_start|>abc<think>");
  EXPECT_EQ(std::count(content.begin(), content.end(), 260), 0);
  EXPECT_EQ(content.back(), 262);  // not special: a token everywhere
  EXPECT_EQ(tokenizer.decode(content), "<|im_start|>abc<think>");

  Ids ids;
  tokenizer.encode_parts({{"<|im_start|>", true}, {"x<|im_end|>", false}, {"<|im_end|>", true}}, false, ids);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 261), 1);
  EXPECT_EQ(ids.front(), 260);
  EXPECT_EQ(ids.back(), 261);
  EXPECT_EQ(tokenizer.decode(ids), "x<|im_end|>");
  EXPECT_EQ(tokenizer.decode_text(ids, false), "<|im_start|>x<|im_end|><|im_end|>");
  // Half of a token from each side makes none, and hides none.
  ids.clear();
  tokenizer.encode_parts({{"<|im_", false}, {"end|><|im_end|>", true}}, false, ids);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 261), 1);
  // Parts of one kind are one text: "abc" merges over the cut.
  ids.clear();
  tokenizer.encode_parts({{"a", false}, {"b", true}, {"c", false}}, false, ids);
  EXPECT_EQ(ids, (Ids{258}));
}

TEST(AddedTokens, KeepTheFlagsOfTheFile) {
  const Tokenizer tokenizer = Tokenizer::from_json(
      byte_level_json(
          added(260, "<m>", "\"single_word\": false, \"lstrip\": true, \"rstrip\": true, \"normalized\": false, \"special\": true") +
              added(261, "word", "\"single_word\": true, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": false") +
              added(262, "\xC3\xA9t",
                    "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": true, \"special\": false"),
          "{\"type\": \"NFC\"}"),
      "t");
  EXPECT_EQ(encode_template(tokenizer, "ab \xC2\xA0<m> \n\tab"), (Ids{257, 260, 257}));
  EXPECT_EQ(encode(tokenizer, "word"), (Ids{261}));
  EXPECT_EQ(encode(tokenizer, "words").size(), 5u);
  EXPECT_EQ(encode(tokenizer, "_word").size(), 5u);
  EXPECT_EQ(encode(tokenizer, "e\xCC\x81t"), (Ids{262}));  // found after composing
}

TEST(Templates, PutTheirTokensAroundOnlyWhenAsked) {
  const Tokenizer tokenizer =
      Tokenizer::from_json(byte_level_json(added(260, "<s>", kPlain) + added(261, "</s>", kPlain), "null",
                                           "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", "
                                           "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                                           "{\"SpecialToken\": {\"id\": \"</s>\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": "
                                           "{\"<s>\": {\"id\": \"<s>\", \"ids\": [260], \"tokens\": [\"<s>\"]}, "
                                           "\"</s>\": {\"id\": \"</s>\", \"ids\": [261], \"tokens\": [\"</s>\"]}}}"),
                           "t");
  EXPECT_EQ(encode_template(tokenizer, "ab", true), (Ids{260, 257, 261}));
  EXPECT_EQ(encode_template(tokenizer, "ab", false), (Ids{257}));
  EXPECT_EQ(encode_template(tokenizer, "", true), (Ids{260, 261}));
  EXPECT_EQ(tokenizer.special_ids().bos, 260);
}

TEST(Config, NamesTheSpecialTokens) {
  Tokenizer tokenizer = Tokenizer::from_json(byte_level_json(added(260, "<|im_end|>", kPlain)), "t");
  EXPECT_EQ(tokenizer.special_ids().eos, 256);
  tokenizer.take_config("{\"eos_token\": {\"content\": \"<|im_end|>\"}, \"bos_token\": null, \"pad_token\": \"<|endoftext|>\"}", "c");
  EXPECT_EQ(tokenizer.special_ids().eos, 260);
  EXPECT_EQ(tokenizer.special_ids().pad, 256);
  EXPECT_EQ(tokenizer.end_of_text(), 256);  // between documents it is still <|endoftext|>
  EXPECT_THROW(tokenizer.take_config("{\"eos_token\": \"<none>\"}", "c"), core::Error);
}

// SentencePiece's kind: a few characters, their merges by score, and all bytes.
GgufVocabulary scored_vocabulary() {
  GgufVocabulary made;
  made.model = "llama";
  made.bos = 1, made.eos = 2, made.unknown = 0;
  const auto add = [&](const std::string& token, int type, float score) {
    made.tokens.push_back(token);
    made.token_types.push_back(type);
    made.scores.push_back(score);
  };
  add("<unk>", 2, 0), add("<s>", 3, 0), add("</s>", 3, 0);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    add(name, 6, 0);
  }
  float score = 0;
  for (const char* token : {"\xE2\x96\x81"
                            "a",
                            "ab", "bc", "\xE2\x96\x81\xE2\x96\x81",
                            "\xE2\x96\x81"
                            "ab",
                            "abc", "s>", "<s"})
    add(token, 1, score -= 1);
  for (const char* token : {"\xE2\x96\x81", "a", "b", "c", "<", ">", "s"}) add(token, 1, -1000);
  return made;
}

TEST(Gguf, ScoresMergeTheBestFirst) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(scored_vocabulary(), "m.gguf");
  EXPECT_EQ(spelled(tokenizer, encode(tokenizer, "abc")), (List{"\xE2\x96\x81"
                                                                "a",
                                                                "bc"}));
  EXPECT_EQ(spelled(tokenizer, encode(tokenizer, "c abc")), (List{"\xE2\x96\x81", "c",
                                                                  "\xE2\x96\x81"
                                                                  "a",
                                                                  "bc"}));
  EXPECT_EQ(spelled(tokenizer, encode(tokenizer, "\xC3\xA9")), (List{"\xE2\x96\x81", "<0xC3>", "<0xA9>"}));
  EXPECT_EQ(tokenizer.decode(encode(tokenizer, " ab \xF0\x9F\x98\x80 \xFF c")), " ab \xF0\x9F\x98\x80 \xFF c");
  EXPECT_EQ(spelled(tokenizer, encode_template(tokenizer, "<s>ab", true)), (List{"<s>", "<s>",
                                                                                 "\xE2\x96\x81"
                                                                                 "ab"}));
  // Nothing in a message merges to a control token.
  const Ids content = encode(tokenizer, "<s>");
  EXPECT_EQ(std::count(content.begin(), content.end(), 1), 0);
  // What is written beside a model says the same.
  const Tokenizer written = Tokenizer::from_json(tokenizer.to_json(), "t");
  for (const char* text : {"abc ab  a", "c\xC3\xA9\n", "   abcabc", "<s> x"}) {
    EXPECT_EQ(encode(written, text), encode(tokenizer, text)) << text;
    EXPECT_EQ(encode_template(written, text, true), encode_template(tokenizer, text, true)) << text;
    EXPECT_EQ(written.decode(encode(written, text)), text);
  }
}

TEST(Gguf, LongTextsOfOneWordAreCutWhereNothingMerges) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(scored_vocabulary(), "m.gguf");
  std::mt19937 random(test::seed());
  std::string text, word(1000000, 'a');
  for (int i = 0; i < 100000; ++i) text += "abc  "[random() % 5];
  EXPECT_EQ(tokenizer.decode(encode(tokenizer, text)), text);
  for (std::size_t i = 1; i < word.size(); i += 2) word[i] = 'b';
  EXPECT_EQ(encode(tokenizer, word).size(), 500000u);
}

TEST(Gguf, ByteLevelNamesItsPattern) {
  GgufVocabulary made;
  made.model = "gpt2";
  made.pre = "qwen2";
  const Tokenizer base = Tokenizer::from_merges({{'a', 'b'}});
  for (int id = 0; id < base.vocab_size(); ++id) {
    made.tokens.push_back(base.token_text(id));
    made.token_types.push_back(id == 256 ? 3 : 1);
  }
  made.merges = {"a b"};
  made.eos = 256;
  const Tokenizer tokenizer = Tokenizer::from_gguf(made, "m.gguf");
  EXPECT_EQ(encode(tokenizer, "ab"), (Ids{257}));
  EXPECT_EQ(encode_template(tokenizer, "ab<|endoftext|>"), (Ids{257, 256}));
  EXPECT_EQ(encode(tokenizer, "e\xCC\x81"), (Ids{0xC3, 0xA9}));
  EXPECT_EQ(tokenizer.end_of_text(), 256);
  EXPECT_EQ(encode(Tokenizer::from_json(tokenizer.to_json(), "t"), "ab 1e\xCC\x81"), encode(tokenizer, "ab 1e\xCC\x81"));
  for (const std::string& name : known_gguf_pre_tokenizers()) {
    made.pre = name;
    EXPECT_NO_THROW(Tokenizer::from_gguf(made, "m.gguf")) << name;
  }
  const auto refusal = [](const GgufVocabulary& vocabulary) -> std::string {
    try {
      Tokenizer::from_gguf(vocabulary, "m.gguf");
    } catch (const core::Error& error) {
      return error.message;
    }
    return "";
  };
  const auto changed = [&](auto change) {
    GgufVocabulary copy = made;
    change(copy);
    return refusal(copy);
  };
  EXPECT_NE(changed([](GgufVocabulary& v) { v.pre = "chameleon"; }).find("chameleon"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.model = "t5"; }).find("t5"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.merges = {"x"}; }).find("merges"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.merges = {"a zz"}; }).find("lacks"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.token_types.pop_back(); }).find("token_type"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.token_types[3] = 9; }).find("type 9"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.eos = 999; }).find("999"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.tokens[5] = "\xFF"; }).find("UTF-8"), std::string::npos);
  EXPECT_NE(changed([](GgufVocabulary& v) { v.model = "llama"; }).find("scores"), std::string::npos);
}

TEST(Decoding, RepairsAsThePackage) {
  EXPECT_EQ(repair_as_rust("a\xFFz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(repair_as_rust("\xF0\x9F\x98"), "\xEF\xBF\xBD");
  EXPECT_EQ(repair_as_rust("\xE0\x80\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(repair_as_rust("\xE6\x97x\xED\xA0"), "\xEF\xBF\xBDx\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(repair_as_rust("\xF4\x90\xC3\xC3\xA9"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xC3\xA9");
  const DecoderStep fallback{DecoderStep::Kind::ByteFallback, "", ""};
  EXPECT_EQ(decode_tokens({fallback}, {"a", "<0xC3>", "<0xA9>", "b", "<0xFF>", "<0x41>"}, false),
            "a\xC3\xA9"
            "b\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(decode_tokens({fallback}, {"<0xFF>", "<0x41>"}, true),
            "\xFF"
            "A");
}

}  // namespace
}  // namespace pgtrain::engine::tokenizers
