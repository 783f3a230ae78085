// Tokenizers: the splitting pattern, exact round trips, merges against a naive twin, determinism, hostile tokenizer.json.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/tokenizers/bpe_trainer.hpp"
#include "engine/tokenizers/pretokenizer.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

using Ids = std::vector<Tokenizer::Id>;

Ids encode(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> out;
  for_each_piece(text, [&](std::string_view piece) { out.emplace_back(piece); });
  return out;
}

const char* kProse =
    "Es war einmal ein K\xC3\xB6nig, who'd said: \"we'll see 1234 suns\" -- and they've seen them, didn't they?\n\n"
    "   Three spaces,\ttabs;\n  \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xD0\xBF\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 \xF0\x9F\x98\x80\xF0\x9F\x98\x80!! \xC2\xA0x ";

TEST(Pretokenizer, SplitsAsThePatternSays) {
  using List = std::vector<std::string>;
  EXPECT_EQ(pieces("Hello world"), (List{"Hello", " world"}));
  EXPECT_EQ(pieces("we've'd 's"), (List{"we", "'ve", "'d", " '", "s"}));
  EXPECT_EQ(pieces("a  b"), (List{"a", " ", " b"}));
  EXPECT_EQ(pieces("a   "), (List{"a", "   "}));
  EXPECT_EQ(pieces("a\n\nb"), (List{"a", "\n", "\n", "b"}));
  EXPECT_EQ(pieces("a \n b"), (List{"a", " \n", " b"}));
  EXPECT_EQ(pieces("x1.5"), (List{"x", "1", ".", "5"}));
  EXPECT_EQ(pieces("'S 'LL"), (List{"'", "S", " '", "LL"}));
  EXPECT_EQ(pieces("\xC2\xBD\xE2\x85\xA7z"), (List{"\xC2\xBD\xE2\x85\xA7", "z"}));  // numbers of other kinds
  EXPECT_EQ(pieces("a\xC2\xA0\xC2\xA0" "b"), (List{"a", "\xC2\xA0", "\xC2\xA0", "b"}));
  EXPECT_EQ(pieces("\xE2\x80\x8Bq"), (List{"\xE2\x80\x8B", "q"}));  // zero-width space is no White_Space
}

TEST(Tokenizer, PlainBytesAreTheirOwnIds) {
  const Tokenizer tokenizer = Tokenizer::bytes();
  EXPECT_EQ(tokenizer.vocab_size(), 257);
  EXPECT_EQ(tokenizer.end_of_text(), 256);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  const Ids ids = encode(tokenizer, all);
  for (int byte = 0; byte < 256; ++byte) ASSERT_EQ(ids[byte], byte);
  EXPECT_EQ(tokenizer.decode(ids), all);
}

// Merges by looking for the lowest rank again and again, from the left.
Ids naive_encode(const std::map<std::pair<Tokenizer::Id, Tokenizer::Id>, int>& ranks, std::string_view text) {
  Ids out;
  for_each_piece(text, [&](std::string_view piece) {
    Ids ids;
    for (const char c : piece) ids.push_back(static_cast<unsigned char>(c));
    while (true) {
      int best = -1;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto found = ranks.find({ids[i], ids[i + 1]});
        if (found != ranks.end() && (best < 0 || found->second < best)) best = found->second;
      }
      if (best < 0) break;
      Ids merged;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto found = i + 1 < ids.size() ? ranks.find({ids[i], ids[i + 1]}) : ranks.end();
        if (found != ranks.end() && found->second == best) merged.push_back(257 + best), ++i;
        else merged.push_back(ids[i]);
      }
      ids = merged;
    }
    out.insert(out.end(), ids.begin(), ids.end());
  });
  return out;
}

TEST(Tokenizer, HeapMergesEqualNaiveMerges) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 40; ++round) {
    std::vector<Tokenizer::Merge> merges;
    std::map<std::pair<Tokenizer::Id, Tokenizer::Id>, int> ranks;
    const auto symbol = [&] { const int n = static_cast<int>(random() % (3 + merges.size())); return n < 3 ? 'a' + n : 257 + n - 3; };
    while (merges.size() < 30) {
      const int left = symbol(), right = symbol();
      if (!ranks.emplace(std::pair{left, right}, static_cast<int>(merges.size())).second) continue;
      merges.push_back({left, right});
    }
    const Tokenizer tokenizer = Tokenizer::from_merges(merges);
    std::string text;
    // Short pieces are merged in another way than long ones.
    const unsigned letters = round % 2 == 0 ? 10 : 9;
    for (int i = 0; i < 300; ++i) text += "aaabbcabc "[random() % letters];
    const Ids ids = encode(tokenizer, text);
    ASSERT_EQ(ids, naive_encode(ranks, text));
    ASSERT_EQ(tokenizer.decode(ids), text);
  }
}

TEST(BpeTrainer, LearnsTheMostFrequentPairFirstAndEndsEarly) {
  const std::string text = "abab abab abab cdcd";
  const Tokenizer tokenizer = train_bpe({text}, {.vocab_size = 400, .keep_alive = {}});
  EXPECT_EQ(tokenizer.token_bytes(257), "ab");
  EXPECT_EQ(tokenizer.token_bytes(258), "abab");
  EXPECT_LT(tokenizer.vocab_size(), 400);  // pairs that occur once are not worth a token
}

TEST(BpeTrainer, IsDeterministicAndShortensText) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::vector<std::string> texts;
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (int words = 0; words < 50; ++words) {
      static const char* const kWords[] = {" the", " cat", " sat", " sitting", "s", "'ll", " \xC3\xA9t\xC3\xA9", "\n", " 12", "aaaa", "<|endoftext|>", "ing"};
      text += kWords[random() % 12];
    }
    texts.push_back(text);
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const Tokenizer first = train_bpe(views, {.vocab_size = 330, .keep_alive = {}}), second = train_bpe(views, {.vocab_size = 330, .keep_alive = {}});
  EXPECT_EQ(first.to_json(), second.to_json());
  const Tokenizer read = Tokenizer::from_json(first.to_json(), "tokenizer.json");
  std::size_t tokens = 0, bytes = 0;
  for (const std::string& text : texts) {
    const Ids ids = encode(first, text);
    ASSERT_EQ(encode(read, text), ids);
    ASSERT_EQ(first.decode(ids), text);
    // The mark inside a text is text.
    ASSERT_EQ(std::count(ids.begin(), ids.end(), first.end_of_text()), 0);
    tokens += ids.size(), bytes += text.size();
  }
  EXPECT_LT(tokens * 2, bytes);
  // No two tokens spell the same.
  std::map<std::string, int> spelled;
  for (int id = 0; id < first.vocab_size(); ++id) EXPECT_EQ(++spelled[first.token_bytes(id)], 1) << id;
}

TEST(BpeTrainer, RoundTripsMixedScriptsAndAnyBytes) {
  const Tokenizer tokenizer = train_bpe({kProse, kProse}, {.vocab_size = 400, .keep_alive = {}});
  EXPECT_EQ(tokenizer.decode(encode(tokenizer, kProse)), kProse);
  std::mt19937 random(test::seed());
  std::string noise;
  for (int i = 0; i < 5000; ++i) noise += static_cast<char>(random());
  EXPECT_EQ(tokenizer.decode(encode(tokenizer, noise)), noise);
  const std::string long_piece(200000, 'x');
  EXPECT_EQ(tokenizer.decode(encode(tokenizer, long_piece)), long_piece);
}

TEST(TokenizerJson, RefusesWhatItWouldEncodeOtherwise) {
  const std::string good = train_bpe({kProse, kProse}, {.vocab_size = 300, .keep_alive = {}}).to_json();
  ASSERT_NO_THROW(Tokenizer::from_json(good, "t"));
  const auto refusal = [&](const std::string& from, const std::string& to) -> std::string {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    try {
      Tokenizer::from_json(text, "t.json");
    } catch (const core::Error& error) {
      EXPECT_EQ(error.code, "model_invalid");
      return error.message;
    }
    return "";
  };
  EXPECT_NE(refusal("\"normalizer\": null", "\"normalizer\": {\"type\":\"NFKC\"}").find("normalizer: type NFKC"), std::string::npos);
  EXPECT_NE(refusal("\"type\": \"BPE\"", "\"type\": \"Unigram\"").find("Unigram"), std::string::npos);
  EXPECT_NE(refusal("\"byte_fallback\": false", "\"byte_fallback\": true").find("byte_fallback"), std::string::npos);
  EXPECT_NE(refusal("\"dropout\": null", "\"dropout\": 0.1").find("dropout"), std::string::npos);
  EXPECT_NE(refusal("\"unk_token\": null", "\"unk_token\": \"<unk>\"").find("unk_token"), std::string::npos);
  EXPECT_NE(refusal("\"pre_tokenizer\": {\"type\": \"ByteLevel\"", "\"pre_tokenizer\": {\"type\": \"Whitespace\"").find("Whitespace"), std::string::npos);
  EXPECT_NE(refusal("\"pre_tokenizer\": {\"type\": \"ByteLevel\"", "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\d+\"}").find("\\d+"), std::string::npos);
  EXPECT_NE(refusal("\"post_processor\": {\"type\": \"ByteLevel\"", "\"post_processor\": {\"type\": \"BertProcessing\"").find("BertProcessing"), std::string::npos);
  EXPECT_NE(refusal("\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"CTC\"").find("CTC"), std::string::npos);
  EXPECT_NE(refusal("\"!\": 33", "\"!\": 34").find("id 34"), std::string::npos);
  EXPECT_NE(refusal("\"!\": 33", "\"!\": 33000000").find("33000000"), std::string::npos);
  EXPECT_NE(refusal("\"!\": 33", "\"\\\"\": 33").find("twice"), std::string::npos);
  EXPECT_NE(refusal("\"merges\": [", "\"merges\": [\"Q Q\",").find("merges"), std::string::npos);
  EXPECT_NE(refusal("{\"id\": 256", "{\"id\": 300").find("two ids"), std::string::npos);
  std::string nameless = good;
  for (std::size_t at; (at = nameless.find("<|endoftext|>")) != std::string::npos;) nameless.replace(at, 13, "<|other|>");
  const Tokenizer other = Tokenizer::from_json(nameless, "t");
  EXPECT_THROW(other.end_of_text(), core::Error);
}

TEST(TokenizerJson, SurvivesMutations) {
  const std::string good = train_bpe({kProse, kProse}, {.vocab_size = 280, .keep_alive = {}}).to_json();
  std::mt19937 random(4711);
  for (int round = 0; round < 2000; ++round) {
    std::string text = good;
    for (int i = 0; i < 2; ++i) {
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0) text[at] = static_cast<char>(random());
      else text.erase(at, 1 + random() % 20);
    }
    try {
      const Tokenizer tokenizer = Tokenizer::from_json(text, "mutated");
      const Ids ids = encode(tokenizer, kProse);
      for (const Tokenizer::Id id : ids) ASSERT_TRUE(id >= 0 && id < tokenizer.vocab_size());
      // A vocabulary that lost a byte loses it in texts, as the package has it; what is left decodes to what was there.
      ASSERT_LE(tokenizer.decode(ids).size(), std::string(kProse).size() * 4);
      ASSERT_EQ(tokenizer.to_json(), text);
    } catch (const core::Error& error) {
      ASSERT_EQ(error.code, "model_invalid");
    }
  }
}

TEST(Utf8, FindsRepairsAndCuts) {
  EXPECT_EQ(core::first_invalid_utf8("a\xC3\xA9z"), std::string::npos);
  for (const char* wrong : {"ab\xC0\x80", "ab\xE0\x80\x80", "ab\xED\xA0\x80", "ab\xF4\x90\x80\x80", "ab\xF8", "ab\xC3", "ab\x80"})
    EXPECT_EQ(core::first_invalid_utf8(wrong), 2u) << wrong;
  EXPECT_EQ(core::repair_utf8("a\xFFz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(core::complete_utf8_prefix("a\xE6\x97"), 1u);
  EXPECT_EQ(core::complete_utf8_prefix("a\xE6\x97\xA5"), 4u);
  EXPECT_EQ(core::complete_utf8_prefix("\xF0\x9F\x98"), 0u);
}

}  // namespace
}  // namespace pgtrain::engine::tokenizers
