// GPT-2: names and counts, gradients against differences, whole and through adapters.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "../exact_gradients.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/executor.hpp"
#include "engine/models/model.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::models {
namespace {

ModelConfig odd_config() {
  return fresh_gpt2(2, 24, 3, 11, 37, 36);
}

struct Inputs {
  std::vector<std::int32_t> tokens, positions, segments, targets;
};

// Rows of two or three documents, some predictions left out.
Inputs random_inputs(std::mt19937& random, const ModelConfig& config, int batch, int length) {
  Inputs in;
  for (int row = 0; row < batch; ++row) {
    int segment = 0, position = 0;
    for (int column = 0; column < length; ++column) {
      if (column > 0 && random() % 4 == 0) ++segment, position = 0;
      in.tokens.push_back(static_cast<std::int32_t>(random() % config.vocab_size));
      in.targets.push_back(random() % 7 == 0 ? -1 : static_cast<std::int32_t>(random() % config.vocab_size));
      in.positions.push_back(position++);
      in.segments.push_back(segment);
    }
  }
  return in;
}

void set_inputs(graph::Executor& executor, const Inputs& in) {
  executor.set_input("tokens", in.tokens.data());
  executor.set_input("positions", in.positions.data());
  executor.set_input("segments", in.segments.data());
  executor.set_input("targets", in.targets.data());
}

std::vector<float> fresh_weights(std::mt19937& random, const graph::Graph& graph, float deviation) {
  std::vector<float> weights(static_cast<std::size_t>(graph.parameter_count()));
  for (float& weight : weights) weight = std::normal_distribution<float>(0, deviation)(random);
  for (const graph::Parameter& parameter : graph.parameters)
    if (parameter.trains && parameter.name.find("ln_") != std::string::npos && parameter.name.find("weight") != std::string::npos)
      for (std::int64_t i = 0; i < parameter.count; ++i) weights[static_cast<std::size_t>(parameter.offset + i)] += 1;
  return weights;
}

TEST(Gpt2, CountsAsItsAuthorsDo) {
  EXPECT_EQ(count_parameters(fresh_gpt2(12, 768, 12, 1024, 50257, 50256)), 124439808u);
  EXPECT_EQ(count_parameters(fresh_gpt2(4, 256, 8, 256, 257, 256)), 257u * 256 + 256 * 256 + 4 * (12 * 256 * 256 + 13 * 256) + 512);
}

TEST(Gpt2, WritesAConfigurationThatItReads) {
  const ModelConfig config = odd_config(), read = ModelConfig::from_json(config.to_json(), "config.json");
  EXPECT_EQ(read.to_json(), config.to_json());
  EXPECT_EQ(count_parameters(read), count_parameters(config));
  EXPECT_NE(config.to_json().find("\"attn_pdrop\": 0.0"), std::string::npos);
}

TEST(Gpt2, WeightsAreTheCheckpointsTensors) {
  for (const bool is_tied : {true, false}) {
    ModelConfig config = odd_config();
    config.ties_head = is_tied, config.inner_width = 40;
    std::map<std::string, std::vector<std::uint64_t>> ours, wanted;
    for (const ModelWeight& weight : model_weights(config)) {
      ASSERT_EQ(weight.parts.size(), 1u);
      ours[weight.parts[0].name] = {weight.shape.begin(), weight.shape.end()};
    }
    for (const ParameterShape& parameter : parameter_shapes(config)) wanted[parameter.name] = parameter.shape;
    EXPECT_EQ(ours, wanted);
  }
}

TEST(Gpt2, BeginsWithTheAskedDeviations) {
  const ModelConfig config = fresh_gpt2(8, 96, 3, 11, 37, 36);
  const auto weights = model_weights(config);
  for (std::size_t index = 0; index < weights.size(); ++index) {
    const auto count = static_cast<std::size_t>(weights[index].count());
    std::vector<float> values(count), again(count);
    draw_weight(config, weights[index], index, 7, values.data());
    draw_weight(config, weights[index], index, 7, again.data());
    ASSERT_EQ(values, again);
    double mean = 0, squares = 0;
    for (const float value : values) mean += value / static_cast<double>(count), squares += static_cast<double>(value) * value / static_cast<double>(count);
    const double wanted = weights[index].init == WeightInit::Normal ? 0.02 : weights[index].init == WeightInit::ResidualNormal ? 0.005 : 0.0;
    if (wanted == 0) continue;
    EXPECT_NEAR(std::sqrt(squares), wanted, 6 * wanted / std::sqrt(2.0 * static_cast<double>(count))) << weights[index].name;
    EXPECT_NEAR(mean, 0, 6 * wanted / std::sqrt(static_cast<double>(count))) << weights[index].name;
  }
}

TEST(Gpt2, ExactGradientsAgreeWithDifferences) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  Tuning tuned;
  tuned.adapters.emplace();
  tuned.adapters->rank = 2, tuned.adapters->alpha = 3, tuned.adapters->targets = {"all-linear"}, tuned.adapters->modules_to_save = {"ln_1"};
  for (Tuning tuning : {Tuning{}, tuned})
    for (const bool is_tied : {true, false}) {
      ModelConfig config = odd_config();
      config.ties_head = is_tied;
      if (!is_tied) config.inner_width = 31;
      if (!is_tied && tuning.adapters) tuning.adapters->modules_to_save = {"lm_head"};
      const graph::Graph graph = build_model(config, tuning, core::DType::F32, 2, 11);
      const Inputs in = random_inputs(random, config, 2, 11);
      expect_exact_gradients(graph, fresh_weights(random, graph, 0.2f), [&](graph::Executor& executor) { set_inputs(executor, in); }, random);
    }
}

}  // namespace
}  // namespace pgtrain::engine::models
