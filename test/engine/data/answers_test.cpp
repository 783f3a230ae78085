// Packing where only parts of the samples are learned: nothing is cut that an answer must see, every learned token once per
// epoch, epochs that end, what lies behind the context, and stores that live in files.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <random>

#include "../temporary_folder.hpp"
#include "engine/core/error.hpp"
#include "engine/data/packing.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr int kVocabulary = 1 << 20;  // as many tokens as the tests number

// Sequences whose tokens are all different; each has a learned end and other learned parts.
struct Samples {
  Samples(std::mt19937& random, int count, int longest, const std::string& folder = "") : store(kVocabulary, folder) {
    for (int i = 0; i < count; ++i) {
      Sequence sequence;
      const int length = 2 + static_cast<int>(random() % static_cast<unsigned>(longest - 1));
      for (int k = 0; k < length; ++k) {
        sequence.tokens.push_back(next++);
        sequence.learned.push_back(k > 0 && (k + 1 == length || random() % 3 == 0));
      }
      for (int k = 1; k < length; ++k)
        if (sequence.learned[static_cast<std::size_t>(k)]) learned.push_back(sequence.tokens[static_cast<std::size_t>(k)]);
      store.add(sequence, static_cast<std::size_t>(i));
      sequences.push_back(std::move(sequence));
    }
  }
  TokenStore store;
  std::vector<Sequence> sequences;
  std::vector<std::int32_t> learned;
  std::int32_t next = 1;
};

// Counts the learned targets; each piece must be the beginning of its sequence where `whole`.
void look(const Batch& batch, std::map<std::int32_t, int>& seen, std::uint64_t& tokens) {
  std::uint64_t learned = 0;
  for (int row = 0; row < batch.rows; ++row)
    for (int column = 0; column < batch.columns; ++column) {
      const std::size_t at = static_cast<std::size_t>(row) * batch.columns + column;
      const bool begins = column == 0 || batch.segments[at] != batch.segments[at - 1];
      ASSERT_EQ(batch.positions[at], begins ? 0 : batch.positions[at - 1] + 1);
      if (!begins && batch.inputs[at] != 0) {
        ASSERT_EQ(batch.inputs[at], batch.inputs[at - 1] + 1);
      }
      tokens += batch.inputs[at] != 0;
      if (batch.targets[at] < 0) continue;
      ASSERT_EQ(batch.targets[at], batch.inputs[at] + 1);
      ++seen[batch.targets[at]];
      ++learned;
    }
  ASSERT_EQ(learned, batch.predictions);
}

TEST(AnswerStream, ShowsEveryAnswerOncePerEpochAndCutsNothing) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    const int columns = 8 + static_cast<int>(random() % 60), rows = 1 + static_cast<int>(random() % 4);
    Samples samples(random, 1 + static_cast<int>(random() % 150), columns);  // at most `columns` predictions... all fit
    const std::uint64_t epochs = 1 + random() % 3;
    const StreamOptions options{rows, columns, seed, LongSamples::Error, epochs};
    const Fit fit = fit_samples(samples.store, columns, LongSamples::Error);
    EXPECT_EQ(fit.learned, samples.learned.size());
    EXPECT_EQ(fit.predictions, samples.store.total_predictions());
    TrainingStream stream(samples.store, options);
    Batch batch;
    std::map<std::int32_t, int> seen;
    std::uint64_t batches = 0, tokens = 0;
    while (stream.next(batch)) {
      std::uint64_t here = 0;
      ASSERT_NO_FATAL_FAILURE(look(batch, seen, here));
      ASSERT_EQ(here, batch.tokens);
      tokens += here;
      ++batches;
    }
    EXPECT_EQ(batch.tokens, 0u);
    EXPECT_FALSE(stream.next(batch));
    EXPECT_EQ(seen.size(), samples.learned.size());
    for (const auto& [token, times] : seen) ASSERT_EQ(times, static_cast<int>(epochs)) << token;
    EXPECT_EQ(tokens, epochs * fit.predictions);  // so every piece was whole
    EXPECT_EQ(count_batches(samples.store, options), batches);
  }
}

TEST(AnswerStream, WastesLittle) {
  std::mt19937 random(4);
  Samples samples(random, 4000, 300);
  TrainingStream stream(samples.store, {4, 512, 1, LongSamples::Error, 1});
  Batch batch;
  std::uint64_t cells = 0, tokens = 0;
  while (stream.next(batch)) cells += batch.inputs.size(), tokens += batch.tokens;
  EXPECT_GT(static_cast<double>(tokens), 0.97 * static_cast<double>(cells));
}

TEST(AnswerStream, ContinuesExactlyFromItsCursor) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 10; ++round) {
    Samples samples(random, 1 + static_cast<int>(random() % 200), 50);
    const StreamOptions options{3, 16, 9, LongSamples::Split, 4};
    TrainingStream whole(samples.store, options);
    Batch a, b;
    for (int i = static_cast<int>(random() % 60); i > 0; --i) whole.next(a);
    TrainingStream resumed(samples.store, options);
    resumed.restore(whole.cursor());
    bool more = true;
    while (more) {
      more = whole.next(a);
      ASSERT_EQ(resumed.next(b), more);
      ASSERT_EQ(a.inputs, b.inputs);
      ASSERT_EQ(a.targets, b.targets);
      ASSERT_EQ(a.segments, b.segments);
    }
    ASSERT_EQ(whole.cursor(), resumed.cursor());
  }
}

TEST(AnswerStream, LongSamplesLoseWhatTheRuleSaysAndNoMore) {
  std::mt19937 random(test::seed());
  Samples samples(random, 60, 90);
  for (const LongSamples rule : {LongSamples::Split, LongSamples::Truncate}) {
    const Fit fit = fit_samples(samples.store, 16, rule);
    TrainingStream stream(samples.store, {2, 16, 3, rule, 1});
    Batch batch;
    std::map<std::int32_t, int> seen;
    std::uint64_t tokens = 0;
    while (stream.next(batch)) ASSERT_NO_FATAL_FAILURE(look(batch, seen, tokens));
    EXPECT_EQ(seen.size(), fit.learned);
    EXPECT_EQ(tokens, fit.predictions);
    if (rule == LongSamples::Split) {
      EXPECT_EQ(seen.size(), samples.learned.size());
      EXPECT_EQ(fit.tokens, 0u);
    } else {
      EXPECT_GT(fit.documents, 0u);
    }
    std::map<std::int32_t, int> evaluated;
    std::uint64_t evaluated_tokens = 0;
    EvaluationStream evaluation(samples.store, 2, 16, rule);
    while (evaluation.next(batch)) ASSERT_NO_FATAL_FAILURE(look(batch, evaluated, evaluated_tokens));
    EXPECT_EQ(evaluated, seen);
  }
}

TEST(AnswerStream, RefusesDataWhoseAnswersLieBehindTheContext) {
  TokenStore store(kVocabulary);
  Sequence sequence;
  for (int i = 1; i <= 20; ++i) sequence.tokens.push_back(i), sequence.learned.push_back(i == 20);
  store.add(sequence, 0);
  try {
    fit_samples(store, 8, LongSamples::Truncate);
    FAIL();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "data_invalid");
  }
  EXPECT_EQ(fit_samples(store, 8, LongSamples::Split).learned, 1u);
  TrainingStream stream(store, {1, 8, 1, LongSamples::Truncate});
  Batch batch;
  EXPECT_THROW(stream.next(batch), core::Error);  // and does not look for an answer forever
}

TEST(TokenStores, InFilesGiveWhatThoseInMemoryGive) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  TemporaryFolder folder;
  for (const int vocabulary : {kVocabulary, 60000}) {
    std::mt19937 random(seed);
    TokenStore filed(vocabulary, folder.path()), kept(vocabulary);
    Sequence sequence;
    // More than is kept in memory of each of tokens, index and bits: 4 MiB.
    while (filed.size() < 300000 || filed.total_predictions() < 40'000'000) {
      sequence.tokens.resize(2 + random() % 600);
      sequence.learned.assign(sequence.tokens.size(), false);
      for (std::size_t i = 0; i < sequence.tokens.size(); ++i) sequence.tokens[i] = static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary));
      for (std::size_t i = 1 + random() % (sequence.tokens.size() - 1); i < sequence.tokens.size(); i += 1 + random() % 5) sequence.learned[i] = true;
      filed.add(sequence, filed.size());
      kept.add(sequence, kept.size());
      sequence.tokens.resize(2);
      sequence.learned.assign(2, true);
      for (int i = 0; i < 3; ++i) filed.add(sequence, filed.size()), kept.add(sequence, kept.size());
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // the files have no name
    std::vector<std::int32_t> a(1200), b(1200);
    for (int i = 0; i < 20000; ++i) {
      const std::size_t at = random() % filed.size();
      const SequenceFacts facts = filed.facts(at);
      ASSERT_EQ(facts.start, kept.facts(at).start);
      const std::uint64_t start = random() % facts.predictions, count = 1 + random() % (facts.predictions - start);
      const std::uint64_t learned = filed.copy(at, start, count, a.data(), a.data() + 600);
      ASSERT_EQ(learned, kept.copy(at, start, count, b.data(), b.data() + 600));
      ASSERT_EQ(learned, filed.learned_between(facts, start, count));
      ASSERT_EQ(static_cast<std::uint64_t>(std::count_if(a.begin() + 600, a.begin() + 600 + static_cast<std::ptrdiff_t>(count), [](std::int32_t t) { return t >= 0; })), learned);
      ASSERT_TRUE(std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(count), b.begin()));
      ASSERT_TRUE(std::equal(a.begin() + 600, a.begin() + 600 + static_cast<std::ptrdiff_t>(count), b.begin() + 600));
    }
  }
}

TEST(TokenStores, SayWhereTheyCannotWrite) {
  TokenStore store(kVocabulary, "/nowhere/at/all");
  const std::vector<std::int32_t> tokens(2 << 20, 1);
  try {
    store.add_document(tokens.data(), tokens.size(), 0, 0);
    FAIL();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "io_error");
    EXPECT_NE(error.message.find("/nowhere/at/all"), std::string::npos);
  }
}

}  // namespace
}  // namespace pgtrain::engine::data
