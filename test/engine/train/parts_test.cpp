// The small parts of training: schedule values, the choice of tokens, decay and clipping of the optimiser.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "../naive_backend.hpp"
#include "engine/models/model.hpp"
#include "engine/train/optimizer.hpp"
#include "engine/train/sampler.hpp"
#include "engine/train/schedule.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::train {
namespace {

TEST(Schedule, WarmsUpAndFallsToItsFloor) {
  const Schedule cosine{"cosine", 1.0, 0.1, 4, 24};
  EXPECT_DOUBLE_EQ(cosine.rate(0), 0.25);
  EXPECT_DOUBLE_EQ(cosine.rate(3), 1.0);
  EXPECT_DOUBLE_EQ(cosine.rate(4), 1.0);
  EXPECT_NEAR(cosine.rate(14), 0.55, 1e-12);  // half way
  EXPECT_NEAR(cosine.rate(9), 0.1 + 0.9 * 0.5 * (1 + std::cos(std::numbers::pi / 4)), 1e-12);
  EXPECT_NEAR(cosine.rate(24), 0.1, 1e-12);
  EXPECT_NEAR(cosine.rate(1000), 0.1, 1e-12);
  const Schedule linear{"linear", 2.0, 0.0, 0, 10};
  EXPECT_DOUBLE_EQ(linear.rate(0), 2.0);
  EXPECT_DOUBLE_EQ(linear.rate(5), 1.0);
  EXPECT_NEAR(linear.rate(9), 0.2, 1e-12);
  const Schedule constant{"constant", 3.0, 0.1, 2, 10};
  EXPECT_DOUBLE_EQ(constant.rate(0), 1.5);
  EXPECT_DOUBLE_EQ(constant.rate(9), 3.0);
  // A warm-up longer than the run never passes the peak.
  const Schedule longer{"cosine", 1.0, 0.1, 100, 10};
  for (int step = 0; step < 10; ++step) EXPECT_NEAR(longer.rate(step), (step + 1) / 100.0, 1e-12);
}

TEST(Sampler, IsGreedyAtZeroAndBreaksTiesByTheSmallerToken) {
  EXPECT_EQ(choose_token({0.0f, 3.0f, 3.0f, -1.0f}, {.temperature = 0}, 0.99), 1);
  EXPECT_EQ(choose_token({0.0f, 3.0f, 3.0f}, {.temperature = 1, .top_k = 1}, 0.99), 1);
  EXPECT_EQ(choose_token({-1e30f, 5.0f}, {.temperature = 1}, 0.0), 1);
}

TEST(Sampler, DrawsByProbability) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f), -40.0f};
  const auto shares = [&](const SamplerOptions& options) {
    std::map<std::int32_t, int> counts;
    for (int i = 0; i < 8000; ++i) ++counts[choose_token(logits, options, (i + 0.5) / 8000)];
    return counts;
  };
  auto all = shares({.temperature = 1});
  EXPECT_NEAR(all[0], 1000, 2);
  EXPECT_NEAR(all[1], 2000, 2);
  EXPECT_NEAR(all[2], 5000, 2);
  EXPECT_EQ(all[3], 0);
  auto hotter = shares({.temperature = 2});
  const double total = 1 + std::sqrt(2.0) + std::sqrt(5.0);
  EXPECT_NEAR(hotter[2], 8000 * std::sqrt(5.0) / total, 2);
  auto two = shares({.temperature = 1, .top_k = 2});
  EXPECT_EQ(two[0], 0);
  EXPECT_NEAR(two[1], 8000 * 2 / 7.0, 2);
  auto nucleus = shares({.temperature = 1, .top_k = 0, .top_p = 0.6});
  EXPECT_EQ(nucleus[2], 8000);
  EXPECT_EQ(nucleus[1], 0);
}

TEST(Optimizer, DecaysMatricesOnlyAndClipsByTheGlobalNorm) {
  models::ModelConfig config = models::fresh_gpt2(1, 8, 1, 4, 9, 8);
  NaiveBackend device;
  const graph::Graph graph = models::build_model(config, {}, core::DType::F32, 1, 4);
  graph::ParameterStore store(graph, device, graph::Mode::Train);
  std::mt19937 random(test::seed());
  std::vector<float> weights(static_cast<std::size_t>(store.count())), gradients(weights.size());
  double squares = 0;
  for (float& weight : weights) weight = std::normal_distribution<float>()(random);
  for (float& gradient : gradients) gradient = 3 * std::normal_distribution<float>()(random), squares += static_cast<double>(gradient) * gradient;
  store.upload_weights(weights.data());
  device.upload(store.gradients(), gradients.data(), gradients.size() * sizeof(float));
  const double decay = 0.3, rate = 0.01, clip = 0.7;
  Optimizer optimizer(store, {decay, 0.9, 0.99, 1e-8, clip});
  EXPECT_NEAR(optimizer.gradient_norm() / std::sqrt(squares), 1, 1e-6);
  optimizer.update(0, rate);
  std::vector<float> after(weights.size());
  store.download_weights(after.data());
  const std::vector<StateTensor> state = optimizer.state();
  ASSERT_EQ(state.size(), 2 * store.parameters().size());
  std::size_t part = 0;
  const double factor = clip / std::sqrt(squares);
  for (const graph::Parameter& parameter : store.parameters()) {
    ASSERT_EQ(parameter.decays, parameter.shape.size() == 2) << parameter.name;
    std::vector<float> m(static_cast<std::size_t>(parameter.count)), v(m);
    for (std::vector<float>* moments : {&m, &v}) device.download(moments->data(), state[part++].memory, moments->size() * sizeof(float));
    for (std::int64_t i = 0; i < parameter.count; ++i) {
      const std::size_t at = static_cast<std::size_t>(parameter.offset + i);
      const double g = gradients[at] * factor;
      // The first step of Adam moves each weight by the rate, whatever the gradient's size.
      const double wanted = weights[at] * (1 - (parameter.decays ? rate * decay : 0)) - rate * g / (std::abs(g) + 1e-8);
      ASSERT_NEAR(after[at], wanted, 1e-6) << parameter.name;
      ASSERT_NEAR(m[static_cast<std::size_t>(i)], 0.1 * g, 1e-7 + 1e-5 * std::abs(g));
      ASSERT_NEAR(v[static_cast<std::size_t>(i)], 0.01 * g * g, 1e-9 + 1e-5 * g * g);
    }
  }
}

}  // namespace
}  // namespace pgtrain::engine::train
