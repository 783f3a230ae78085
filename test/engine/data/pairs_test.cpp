// Packing of preferences: both sides in one batch and told apart by cell, every pair once per epoch, little waste, exact
// cursors, and what is refused.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "engine/core/error.hpp"
#include "engine/data/pairs.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::data {
namespace {

struct Pairs {
  Pairs(std::mt19937& random, int count, int longest) : store(1 << 20) {
    for (int i = 0; i < 2 * count; ++i) {
      Sequence sequence;
      const int length = 2 + static_cast<int>(random() % static_cast<unsigned>(longest)), prompt = static_cast<int>(random() % static_cast<unsigned>(length - 1));
      for (int k = 0; k < length; ++k) sequence.tokens.push_back(next++), sequence.learned.push_back(k > prompt);
      sequences.push_back(sequence.tokens);
      store.add(sequence, static_cast<std::size_t>(i / 2));
    }
  }
  TokenStore store;
  std::vector<std::vector<std::int32_t>> sequences;
  std::int32_t next = 1;
};

// Each sequence of the batch's pairs is there whole, in order and alone in its segment.
void look(const Pairs& pairs, const PairBatch& batch, int columns) {
  std::map<std::int32_t, std::vector<std::int32_t>> inputs;
  std::uint64_t tokens = 0, learned = 0;
  for (std::size_t at = 0; at < batch.inputs.size(); ++at) {
    const bool begins_row = at % static_cast<std::size_t>(columns) == 0;
    if (!begins_row) {
      ASSERT_EQ(batch.segments[at] == batch.segments[at - 1], batch.sequences[at] == batch.sequences[at - 1]);
    }
    learned += batch.targets[at] >= 0;
    if (batch.sequences[at] < 0) {
      ASSERT_EQ(batch.targets[at], -1);
      continue;
    }
    ++tokens;
    auto& seen = inputs[batch.sequences[at]];
    ASSERT_EQ(batch.positions[at], static_cast<std::int32_t>(seen.size()));
    if (batch.targets[at] >= 0) {
      ASSERT_EQ(batch.targets[at], batch.inputs[at] + 1);
    }
    seen.push_back(batch.inputs[at]);
  }
  ASSERT_EQ(tokens, batch.tokens);
  ASSERT_EQ(learned, batch.predictions);
  ASSERT_EQ(inputs.size(), 2 * batch.pairs.size());
  for (const auto& [number, seen] : inputs) {
    const auto& whole = pairs.sequences[2 * batch.pairs[static_cast<std::size_t>(number / 2)] + static_cast<std::size_t>(number % 2)];
    ASSERT_EQ(seen.size(), std::min<std::size_t>(whole.size() - 1, static_cast<std::size_t>(columns)));
    ASSERT_TRUE(std::equal(seen.begin(), seen.end(), whole.begin()));
  }
}

TEST(PairStream, ShowsEveryPairWholeOncePerEpoch) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    const int columns = 8 + static_cast<int>(random() % 60), rows = 2 + static_cast<int>(random() % 4);
    const Pairs pairs(random, 1 + static_cast<int>(random() % 150), columns - 1);
    const PairOptions options{rows, columns, seed, LongSamples::Error, 1 + random() % 3, round % 2 == 0};
    EXPECT_EQ(fit_pairs(pairs.store, options).predictions, pairs.store.total_predictions());
    PairStream stream(pairs.store, options);
    PairBatch batch;
    std::map<std::uint64_t, std::uint64_t> seen;
    std::uint64_t batches = 0;
    while (stream.next(batch)) {
      ASSERT_NO_FATAL_FAILURE(look(pairs, batch, columns));
      for (const std::uint64_t pair : batch.pairs) ++seen[pair];
      ++batches;
    }
    EXPECT_TRUE(batch.pairs.empty());
    EXPECT_EQ(seen.size(), pairs.sequences.size() / 2);
    for (const auto& [pair, times] : seen) ASSERT_EQ(times, options.epochs) << pair;
    EXPECT_EQ(count_batches(pairs.store, options), batches);
  }
}

TEST(PairStream, WastesLittle) {
  std::mt19937 random(4);
  const Pairs pairs(random, 2000, 300);
  PairStream stream(pairs.store, {4, 512, 1, LongSamples::Error, 1});
  PairBatch batch;
  std::uint64_t cells = 0, tokens = 0;
  while (stream.next(batch)) cells += batch.inputs.size(), tokens += batch.tokens;
  EXPECT_GT(static_cast<double>(tokens), 0.93 * static_cast<double>(cells));
}

TEST(PairStream, ContinuesExactlyFromItsCursor) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 10; ++round) {
    const Pairs pairs(random, 1 + static_cast<int>(random() % 200), 30);
    const PairOptions options{2, 24, 9};
    PairStream whole(pairs.store, options);
    PairBatch a, b;
    for (int i = static_cast<int>(random() % 300); i > 0; --i) whole.next(a);
    PairStream resumed(pairs.store, options);
    resumed.restore(whole.cursor());
    for (int i = 0; i < 300; ++i) {
      ASSERT_TRUE(whole.next(a));
      ASSERT_TRUE(resumed.next(b));
      ASSERT_EQ(a.pairs, b.pairs);
      ASSERT_EQ(a.inputs, b.inputs);
      ASSERT_EQ(a.sequences, b.sequences);
    }
    ASSERT_EQ(whole.cursor(), resumed.cursor());
  }
}

TEST(PairStream, RefusesForeignCursors) {
  std::mt19937 random(3);
  const Pairs pairs(random, 10, 20);
  PairStream stream(pairs.store, {2, 24, 9});
  for (const std::vector<std::int64_t>& cursor : std::vector<std::vector<std::int64_t>>{{}, {0}, {0, 11}, {0, -1}, {-1, 0}, {0, 0, 10}, {0, 0, -1}, std::vector<std::int64_t>(80, 0)})
    EXPECT_THROW(stream.restore(cursor), core::Error);
}

TEST(Preferences, ThatDoNotFitAreRefusedLeftOutOrCut) {
  TokenStore store(1000);
  const auto add = [&](int length, int prompt, std::size_t sample) {
    Sequence sequence;
    for (int i = 0; i < length; ++i) sequence.tokens.push_back(i), sequence.learned.push_back(i >= prompt);
    store.add(sequence, sample);
  };
  add(5, 2, 4), add(6, 2, 4);
  EXPECT_EQ(fit_pairs(store, {2, 8, 1, LongSamples::Error}).predictions, 9u);
  EXPECT_THROW(fit_pairs(store, {1, 8, 1, LongSamples::Error}), core::Error);
  PairStream single(store, {1, 8, 1});
  PairBatch batch;
  EXPECT_THROW(single.next(batch), core::Error);
  add(5, 2, 7), add(12, 2, 7);   // one side is cut
  add(20, 15, 8), add(5, 2, 8);  // one side loses its answer
  for (const LongSamples rule : {LongSamples::Error, LongSamples::Split}) {
    try {
      fit_pairs(store, {2, 8, 1, rule});
      FAIL();
    } catch (const core::Error& error) {
      EXPECT_EQ(error.code, "data_invalid");
      EXPECT_EQ(error.message.find("sample 8: rejected has 12 tokens"), 0u) << error.message;
    }
  }
  const Fit fit = fit_pairs(store, {2, 8, 1, LongSamples::Truncate});
  EXPECT_EQ(fit.documents, 2u);
  EXPECT_EQ(fit.tokens, 3u + 11u);
  EXPECT_EQ(fit.unlearned, 1u);
  PairStream stream(store, {2, 8, 1, LongSamples::Truncate, 1});
  std::size_t seen = 0;
  while (stream.next(batch)) seen += batch.pairs.size();
  EXPECT_EQ(seen, 2u);
}

}  // namespace
}  // namespace pgtrain::engine::data
