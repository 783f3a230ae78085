// Documents and packing: hostile files, held-out choice, and that no prediction is lost, doubled or seen across documents.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "engine/core/error.hpp"
#include "engine/core/philox.hpp"
#include "engine/data/load.hpp"
#include "engine/data/packing.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::data {
namespace {

std::string refusal(const std::string& bytes) {
  try {
    const Documents documents(bytes);
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "data_invalid");
    return error.message;
  }
  return "";
}

std::string sample(const std::string& text) { return encode_documents({text}); }

TEST(Documents, ReadsWhatIsWrittenAndRefusesTheRest) {
  const std::string bytes = encode_documents({"one", "zw\xC3\xB6lf"});
  const Documents documents(bytes);
  ASSERT_EQ(documents.size(), 2u);
  std::vector<std::string> texts;
  documents.for_each([&](std::size_t index, std::string_view text) {
    EXPECT_EQ(index, texts.size());
    texts.emplace_back(text);
  });
  EXPECT_EQ(texts, (std::vector<std::string>{"one", "zw\xC3\xB6lf"}));
  EXPECT_NE(refusal("").find("no samples"), std::string::npos);
  EXPECT_NE(refusal(sample("a") + sample("")).find("sample 2 is empty"), std::string::npos);
  EXPECT_NE(refusal(sample("a") + sample("bc\xFF")).find("sample 2: not valid UTF-8 at byte 2"), std::string::npos);
  EXPECT_NE(refusal(sample("a") + "\x01\x02").find("sample 2"), std::string::npos);
  EXPECT_NE(refusal(sample("a") + std::string("\xff\xff\xff\xff" "abc", 7)).find("4294967295"), std::string::npos);
}

TEST(Philox, MatchesThePublishedVectors) {
  EXPECT_EQ(core::philox({0, 0}, {0, 0, 0, 0}), (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(core::philox({~0u, ~0u}, {~0u, ~0u, ~0u, ~0u}), (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(HeldOut, KeepsBothSidesAndFollowsTheSeed) {
  for (std::size_t documents = 2; documents < 40; ++documents)
    for (const double fraction : {0.001, 0.3, 0.9}) {
      const auto chosen = choose_held_out(documents, fraction, documents * 7);
      const auto count = std::count(chosen.begin(), chosen.end(), true);
      ASSERT_GT(count, 0);
      ASSERT_LT(count, static_cast<long>(documents));
      ASSERT_EQ(chosen, choose_held_out(documents, fraction, documents * 7));
    }
  const auto many = choose_held_out(20000, 0.1, 5);
  EXPECT_NEAR(static_cast<double>(std::count(many.begin(), many.end(), true)), 2000, 200);
  EXPECT_NE(many, choose_held_out(20000, 0.1, 6));
  const auto none = choose_held_out(10, 0, 5);
  EXPECT_EQ(std::count(none.begin(), none.end(), true), 0);
}

TEST(HeldOut, ASingleDocumentGivesItsEnd) {
  const auto tokenizer = tokenizers::Tokenizer::bytes();
  const std::string bytes = sample(std::string(1000, 'a'));
  const SplitTokens split = tokenize_texts(Documents(bytes), tokenizer, {0.1, 1, "", {}});
  EXPECT_EQ(split.training.total_predictions(), 901u);
  EXPECT_EQ(split.held_out.total_predictions(), 101u);
}

TEST(HeldOut, ValidationTextsAreHeldOutAndNoOthers) {
  const auto tokenizer = tokenizers::Tokenizer::bytes();
  const std::string trained = sample("abc") + sample("de"), validation = sample(std::string(70, 'x'));
  const Documents held_out(validation);
  const SplitTokens split = tokenize_texts(Documents(trained), tokenizer, {0, 1, "", {}, &held_out});
  EXPECT_EQ(split.training.size(), 2u);
  EXPECT_EQ(split.training.total_predictions(), 4u + 3u);
  EXPECT_EQ(split.held_out.total_predictions(), 71u) << "one alone is not cut";
  EXPECT_EQ(split.held_out_samples, 1u);
}

// Documents whose tokens are all different, so that each prediction can be told from every other.
struct Fixture {
  explicit Fixture(std::mt19937& random, int documents, int longest)
      : tokenizer([] {
          std::vector<tokenizers::Tokenizer::Merge> merges;
          for (int left = 0; left < 256; ++left)
            for (int right = 0; right < 256; ++right) merges.push_back({left, right});
          return tokenizers::Tokenizer::from_merges(merges);
        }()),
        store(tokenizer.vocab_size()) {
    std::int32_t next = 257;
    for (int i = 0; i < documents; ++i) {
      std::vector<std::int32_t> tokens;
      const int length = 1 + static_cast<int>(random() % longest);
      for (int k = 0; k < length; ++k) tokens.push_back(next++);
      store.add_document(tokens.data(), tokens.size(), tokenizer.end_of_text(), static_cast<std::size_t>(i));
      tokens_in_all += tokens.size();
    }
  }
  tokenizers::Tokenizer tokenizer;
  TokenStore store;
  std::size_t tokens_in_all = 0;
};

// Segments hold consecutive predictions of one document, with positions from 0.
void check_rows(const Batch& batch, std::int32_t end_mark, std::map<std::int32_t, int>& targets_seen, int& ends_seen) {
  for (int row = 0; row < batch.rows; ++row)
    for (int column = 0; column < batch.columns; ++column) {
      const std::size_t at = static_cast<std::size_t>(row) * batch.columns + column;
      if (batch.targets[at] < 0) continue;
      const bool begins = column == 0 || batch.segments[at] != batch.segments[at - 1];
      ASSERT_EQ(batch.positions[at], begins ? 0 : batch.positions[at - 1] + 1);
      if (!begins) {
        ASSERT_EQ(batch.inputs[at], batch.targets[at - 1]);
      }
      if (batch.targets[at] == end_mark) ++ends_seen;
      else ++targets_seen[batch.targets[at]];
    }
}

TEST(TrainingStream, ShowsEveryPredictionOncePerEpoch) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 12; ++round) {
    const int documents = 1 + static_cast<int>(random() % 60), longest = 1 + static_cast<int>(random() % 70);
    const int rows = 1 + static_cast<int>(random() % 4), columns = 2 + static_cast<int>(random() % 30);
    Fixture fixture(random, documents, longest);
    const std::uint64_t epoch_predictions = fixture.store.total_predictions();
    EXPECT_EQ(fit_samples(fixture.store, columns, LongSamples::Split).predictions, epoch_predictions);
    // Batches may end inside an epoch, so count up to a whole number of both.
    TrainingStream stream(fixture.store, {rows, columns, seed});
    std::map<std::int32_t, int> seen;
    int ends = 0;
    const std::uint64_t cells = static_cast<std::uint64_t>(rows) * columns;
    Batch batch;
    for (std::uint64_t i = 0; i < epoch_predictions; ++i) {
      stream.next(batch);
      ASSERT_EQ(batch.predictions, cells);  // never a padded cell
      ASSERT_NO_FATAL_FAILURE(check_rows(batch, 256, seen, ends));
    }
    // epoch_predictions batches of `cells` predictions are exactly `cells` epochs.
    ASSERT_EQ(seen.size(), fixture.tokens_in_all);
    for (const auto& [token, times] : seen) ASSERT_EQ(times, static_cast<int>(cells)) << token;
    ASSERT_EQ(ends, static_cast<int>(cells) * documents);
  }
}

TEST(TrainingStream, ContinuesExactlyFromItsCursor) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 10; ++round) {
    Fixture fixture(random, 1 + static_cast<int>(random() % 200), 50);
    TrainingStream whole(fixture.store, {3, 16, 9});
    Batch a, b;
    const int before = static_cast<int>(random() % 100);
    for (int i = 0; i < before; ++i) whole.next(a);
    TrainingStream resumed(fixture.store, {3, 16, 9});
    resumed.restore(whole.cursor());
    for (int i = 0; i < 50; ++i) {
      whole.next(a);
      resumed.next(b);
      ASSERT_EQ(a.inputs, b.inputs);
      ASSERT_EQ(a.targets, b.targets);
      ASSERT_EQ(a.segments, b.segments);
    }
    ASSERT_EQ(whole.cursor(), resumed.cursor());
  }
}

TEST(TrainingStream, RefusesForeignCursors) {
  std::mt19937 random(3);
  Fixture fixture(random, 10, 20);
  TrainingStream stream(fixture.store, {1, 8, 9});
  for (const std::vector<std::int64_t>& cursor :
       std::vector<std::vector<std::int64_t>>{{}, {0, 0}, {0, 11, 0}, {0, -1, 0}, {-1, 0, 0}, {0, 0, 1000}, {0, 0, 0, 10, 0, 1}, {0, 0, 0, 1, 0, 0}, {0, 0, 0, 1, 500, 1}})
    EXPECT_THROW(stream.restore(cursor), core::Error);
}

TEST(EpochOrder, IsAPermutationOfSeedAndEpoch) {
  const auto order = epoch_order(1000, 1, 0);
  EXPECT_EQ(std::set<std::uint32_t>(order.begin(), order.end()).size(), 1000u);
  EXPECT_EQ(order, epoch_order(1000, 1, 0));
  EXPECT_NE(order, epoch_order(1000, 1, 1));
  EXPECT_NE(order, epoch_order(1000, 2, 0));
}

TEST(LongSamples, AreRefusedOrCountedAsAsked) {
  const auto tokenizer = tokenizers::Tokenizer::bytes();
  TokenStore store(tokenizer.vocab_size());
  for (const std::size_t length : {7, 15}) {
    const std::vector<std::int32_t> tokens(length, 'a');
    store.add_document(tokens.data(), length, tokenizer.end_of_text(), length);  // 8 and 16 predictions
  }
  try {
    fit_samples(store, 8, LongSamples::Error);
    FAIL();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "data_invalid");
    EXPECT_EQ(error.message.find("sample 16 has 17 tokens"), 0u) << error.message;
  }
  const Fit split = fit_samples(store, 8, LongSamples::Split), truncated = fit_samples(store, 8, LongSamples::Truncate);
  EXPECT_EQ(split.predictions, 24u);
  EXPECT_EQ(split.documents, 0u);
  EXPECT_EQ(truncated.predictions, 16u);
  EXPECT_EQ(truncated.documents, 1u);
  EXPECT_EQ(truncated.tokens, 8u);
  TrainingStream stream(store, {1, 8, 1, LongSamples::Truncate});
  Batch batch;
  for (int i = 0; i < 6; ++i) {
    stream.next(batch);
    EXPECT_EQ(batch.inputs[0], tokenizer.end_of_text());  // never a later part
  }
}

TEST(EvaluationBatches, CoverTheHeldOutTextOnceAndPadTheEnd) {
  std::mt19937 random(test::seed());
  Fixture fixture(random, 17, 40);
  EvaluationStream stream(fixture.store, 2, 16);
  Batch batch;
  std::map<std::int32_t, int> seen;
  int ends = 0;
  while (stream.next(batch)) check_rows(batch, 256, seen, ends);
  EXPECT_EQ(seen.size(), fixture.tokens_in_all);
  for (const auto& [token, times] : seen) EXPECT_EQ(times, 1) << token;
  EXPECT_EQ(ends, 17);
}

}  // namespace
}  // namespace pgtrain::engine::data
