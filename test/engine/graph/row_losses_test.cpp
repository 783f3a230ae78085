// What a graph tells of each row and takes from the caller for each row: losses, hits, factors of gradients; runs without the
// adapters and runs without gradients that drop as training does. Preferences (DPO) and evaluation stand on these.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "../reference.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/executor.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::graph {
namespace {

using Floats = std::vector<float>;
using Numbers = std::vector<std::int32_t>;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// An embedding, a projection with an adapter behind dropout, and the head.
struct Shape {
  std::int64_t rows, width, vocabulary;
  float rate = 0;
};
Graph small_graph(const Shape& s, DType type) {
  Builder b(type);
  const Value x = b.embedding(b.parameter("table", {s.vocabulary, s.width}, true), b.input("ids", s.rows));
  const Builder::Adapter adapter{b.parameter("down", {2, s.width}, true), b.parameter("up", {s.width, 2}, true), 0, 1.5f};
  const Value hidden = b.projection(x, b.parameter("weight", {s.width, s.width}, true), {}, b.dropout(x, s.rate), {adapter});
  b.linear_cross_entropy(hidden, b.parameter("head", {s.vocabulary, s.width}, true), b.input("targets", s.rows));
  return std::move(b).finish();
}

struct Trial {
  Trial(const Shape& s, DType type, unsigned seed) : shape(s), random(seed), device(backend::open("cpu", {.threads = 2})), graph(small_graph(s, type)), store(graph, *device, Mode::Train), executor(graph, store, Mode::Train) {
    std::normal_distribution<float> normal(0.0f, 0.5f);
    weights.resize(size(store.count()));
    for (float& w : weights) w = normal(random);
    store.upload_weights(weights.data());
    for (std::int64_t r = 0; r < s.rows; ++r) {
      ids.push_back(static_cast<std::int32_t>(random() % size(s.vocabulary)));
      targets.push_back(r % 5 == 3 ? -1 : static_cast<std::int32_t>(random() % size(s.vocabulary)));
    }
    executor.set_input("ids", ids.data());
    executor.set_input("targets", targets.data());
  }
  Floats gradient() {
    store.zero_gradients();
    executor.forward_backward(0.5f);
    Floats out(size(store.count()));
    store.download_gradients(out.data());
    return out;
  }
  Floats losses(bool drops = false) {
    executor.forward(drops);
    Floats out;
    executor.download_losses(out);
    return out;
  }

  Shape shape;
  std::mt19937 random;
  Numbers ids, targets;
  std::unique_ptr<backend::Backend> device;
  Graph graph;
  ParameterStore store;
  Executor executor;
  Floats weights;
};

TEST(RowWeights, AreFactorsOfTheRowsGradients) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  Trial run({10, 6, 13}, DType::F32, seed);
  const Floats plain = run.gradient();
  Floats row_weights(size(run.shape.rows));
  std::normal_distribution<float> normal;
  for (float& w : row_weights) w = normal(run.random);
  std::vector<double> sum(plain.size());
  for (std::size_t row = 0; row < row_weights.size(); ++row) {
    Floats one(row_weights.size());
    one[row] = 1;
    run.executor.set_row_weights(one.data());
    const Floats part = run.gradient();
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(row_weights[row]) * static_cast<double>(part[i]);
  }
  run.executor.set_row_weights(row_weights.data());
  const Floats weighted = run.gradient();
  double most = 0, off = 0;
  for (std::size_t i = 0; i < sum.size(); ++i) most = std::max(most, std::abs(sum[i])), off = std::max(off, std::abs(static_cast<double>(weighted[i]) - sum[i]));
  EXPECT_LE(off, 1e-5 * most);
  EXPECT_GT(most, 0);
  const Floats told = run.losses();
  run.executor.set_row_weights(nullptr);
  EXPECT_EQ(run.gradient(), plain);
  EXPECT_EQ(run.losses(), told) << "weights are no part of the losses";
}

// So many rows of so long logits that they come in pieces.
TEST(RowWeights, OfNoughtAreRowsWithoutATarget) {
  for (const DType type : {DType::F32, DType::Bf16}) {
    const unsigned seed = test::seed();
    SCOPED_TRACE(seed);
    Trial run({150, 4, type == DType::F32 ? 70000 : 140000}, type, seed);
    Floats row_weights(size(run.shape.rows));
    Numbers left(run.targets);
    for (std::size_t row = 0; row < row_weights.size(); ++row) {
      row_weights[row] = row % 3 == 1 ? 0.0f : 1.0f;
      if (row % 3 == 1) left[row] = -1;
    }
    run.executor.set_row_weights(row_weights.data());
    const Floats weighted = run.gradient();
    run.executor.set_row_weights(nullptr);
    run.executor.set_input("targets", left.data());
    EXPECT_EQ(run.gradient(), weighted) << core::name_of(type);
  }
}

TEST(Hits, AreTargetsWithTheHighestLogit) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  // With every other token as its target a row's loss is -log p, so the token of least loss is the one that is hit.
  Trial tiny({40, 5, 7}, DType::F32, seed);
  std::vector<Floats> losses, hits;
  for (std::int32_t token = 0; token < 7; ++token) {
    const Numbers targets(40, token);
    tiny.executor.set_input("targets", targets.data());
    losses.push_back(tiny.losses());
    hits.emplace_back();
    tiny.executor.download_hits(hits.back());
  }
  Numbers best;
  for (std::size_t row = 0; row < 40; ++row) {
    std::size_t least = 0;
    for (std::size_t token = 1; token < 7; ++token)
      if (losses[token][row] < losses[least][row]) least = token;
    for (std::size_t token = 0; token < 7; ++token) EXPECT_EQ(hits[token][row], token == least ? 1.0f : 0.0f) << row;
    best.push_back(row % 4 == 1 ? -1 : row % 4 == 2 ? static_cast<std::int32_t>((least + 1) % 7) : static_cast<std::int32_t>(least));
  }
  tiny.executor.set_input("targets", best.data());
  tiny.executor.forward();
  EXPECT_EQ(tiny.executor.hit_sum(), 20);
  Floats last, told;
  tiny.executor.download_losses(last);
  double sum = 0;
  for (const float loss : last) sum += static_cast<double>(loss);
  EXPECT_NEAR(tiny.executor.loss_sum(), sum, 1e-4);
}

// So many rows that the logits come in pieces, held against the products in double.
TEST(Hits, AreOfTheirRowsInPiecesToo) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  Trial run({150, 4, 70000}, DType::F32, seed);
  const auto part = [&](const std::string& name) {
    for (const Parameter& parameter : run.store.parameters())
      if (parameter.name == name) return reference::Vector(run.weights.begin() + parameter.offset, run.weights.begin() + parameter.offset + parameter.count);
    throw std::runtime_error(name);
  };
  const reference::Vector x = reference::embedding(4, part("table"), run.ids);
  const auto times = [](std::int64_t n, std::int64_t k, double alpha, const reference::Vector& a, const reference::Vector& b, const reference::Vector& c) {
    return reference::multiply({150, n, k, false, true, alpha, c.empty() ? 0.0 : 1.0}, a, b, c, {});
  };
  const reference::Vector hidden = times(4, 2, 1.5, times(2, 4, 1, x, part("down"), {}), part("up"), times(4, 4, 1, x, part("weight"), {}));
  const reference::Vector logits = times(70000, 4, 1, hidden, part("head"), {});
  Numbers targets(150, -1);
  for (std::size_t row = 0; row < 150; ++row) {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row) * 70000, best = std::max_element(begin, begin + 70000);
    const bool is_clear = std::count_if(begin, begin + 70000, [&](double logit) { return logit > *best - 1e-4; }) == 1;
    if (is_clear) targets[row] = static_cast<std::int32_t>(best - begin) ^ static_cast<std::int32_t>(row % 2);
  }
  run.executor.set_input("targets", targets.data());
  run.executor.forward();
  Floats hits;
  run.executor.download_hits(hits);
  double all = 0;
  for (std::size_t row = 0; row < 150; ++row) {
    EXPECT_EQ(hits[row], targets[row] >= 0 && row % 2 == 0 ? 1.0f : 0.0f) << row;
    all += static_cast<double>(hits[row]);
  }
  EXPECT_EQ(run.executor.hit_sum(), all);
  EXPECT_GT(all, 40);
}

TEST(Executor, WithoutAdaptersIsWhatWasAdapted) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  Trial run({10, 6, 13, 0.3f}, DType::F32, seed);
  const Floats adapted = run.losses();
  run.executor.use_adapters(false);
  const Floats base = run.losses();
  EXPECT_NE(base, adapted);
  EXPECT_THROW(run.executor.forward_backward(1.0f), core::Error);
  run.executor.use_adapters(true);
  EXPECT_EQ(run.losses(), adapted);
  for (const Parameter& parameter : run.store.parameters())
    if (parameter.name == "up") std::fill_n(run.weights.begin() + parameter.offset, parameter.count, 0.0f);
  run.store.upload_weights(run.weights.data());
  const Floats nothing = run.losses();
  for (std::size_t row = 0; row < base.size(); ++row) EXPECT_EQ(nothing[row], base[row]);
}

TEST(Executor, ForwardDropsAsTrainingDoes) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  Trial run({10, 6, 13, 0.5f}, DType::F32, seed);
  run.executor.set_dropout(seed, 4);
  const Floats whole = run.losses(), dropped = run.losses(true);
  EXPECT_NE(whole, dropped);
  run.gradient();
  Floats trained;
  run.executor.download_losses(trained);
  EXPECT_EQ(trained, dropped);
  run.executor.set_dropout(seed, 5);
  EXPECT_NE(run.losses(true), dropped);
  EXPECT_EQ(run.losses(), whole);
  Executor evaluation(run.graph, run.store, Mode::Evaluate);
  EXPECT_THROW(evaluation.forward(true), core::Error);
}

}  // namespace
}  // namespace pgtrain::engine::graph
