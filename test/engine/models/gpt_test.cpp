// The gpt model: names and counts, gradients against differences, the decoder against the whole forward pass, config.json.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "../exact_gradients.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/executor.hpp"
#include "engine/models/gpt/decoder.hpp"
#include "engine/models/gpt/graph.hpp"

namespace pgtrain::engine::models {
namespace {

GptConfig odd_config() {
  GptConfig config;
  config.layers = 2, config.width = 24, config.heads = 3, config.context = 11, config.vocab_size = 37, config.end_of_text = 36;
  return config;
}

struct Inputs {
  std::vector<std::int32_t> tokens, positions, segments, targets;
};

// Rows of two or three documents, some predictions left out.
Inputs random_inputs(std::mt19937& random, const GptConfig& config, int batch, int length) {
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
    if (parameter.name.find("ln_") != std::string::npos && parameter.name.find("weight") != std::string::npos)
      for (std::int64_t i = 0; i < parameter.count; ++i) weights[static_cast<std::size_t>(parameter.offset + i)] += 1;
  return weights;
}

TEST(GptConfig, CountsGpt2AsItsAuthorsDo) {
  GptConfig config;
  config.layers = 12, config.width = 768, config.heads = 12, config.context = 1024, config.vocab_size = 50257;
  EXPECT_EQ(config.parameters(), 124439808u);
  config.layers = 4, config.width = 256, config.heads = 8, config.context = 256, config.vocab_size = 257;
  EXPECT_EQ(config.parameters(), 257u * 256 + 256 * 256 + 4 * (12 * 256 * 256 + 13 * 256) + 512);
}

TEST(GptConfig, ReadsWhatItWritesAndRefusesOtherArithmetic) {
  const GptConfig config = odd_config();
  const std::string text = config.to_json("fp32");
  EXPECT_EQ(GptConfig::from_json(text, "config.json").to_json("fp32"), text);
  const auto refusal = [&](const std::string& from, const std::string& to) -> std::string {
    std::string other = text;
    other.replace(other.find(from), from.size(), to);
    try {
      GptConfig::from_json(other, "config.json");
    } catch (const core::Error& error) {
      return error.code + " " + error.message;
    }
    return "";
  };
  for (const auto& [from, to, named] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"gpt2", "llama", "model_type"}, {"gelu_new", "relu", "activation_function"}, {"\"n_inner\": null", "\"n_inner\": 7", "n_inner"},
           {"\"n_head\": 3", "\"n_head\": 5", "n_head"}, {"\"n_embd\": 24", "\"n_embd\": -24", "n_embd"},
           {"\"scale_attn_weights\": true", "\"scale_attn_weights\": false", "scale_attn_weights"},
           {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "tie_word_embeddings"},
           {"\"n_layer\": 2", "\"n_layer\": 200000000", "n_layer"}, {"1e-05", "0", "layer_norm_epsilon"}}) {
    const std::string message = refusal(from, to);
    EXPECT_EQ(message.rfind("model_invalid", 0), 0u) << from;
    EXPECT_NE(message.find(named), std::string::npos) << message;
  }
}

TEST(GptInit, HasTheAskedDeviations) {
  GptConfig config = odd_config();
  config.width = 96, config.layers = 8;
  const auto parameters = gpt_parameters(config);
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    std::size_t count = 1;
    for (const auto extent : parameters[index].shape) count *= static_cast<std::size_t>(extent);
    std::vector<float> values(count), again(count);
    initialize_gpt_parameter(config, parameters[index], index, 7, values.data());
    initialize_gpt_parameter(config, parameters[index], index, 7, again.data());
    ASSERT_EQ(values, again);
    double mean = 0, squares = 0;
    for (const float value : values) mean += value / static_cast<double>(count), squares += static_cast<double>(value) * value / static_cast<double>(count);
    const double wanted = parameters[index].init == GptInit::Normal ? 0.02 : parameters[index].init == GptInit::ResidualNormal ? 0.005 : 0.0;
    if (wanted == 0) continue;
    EXPECT_NEAR(std::sqrt(squares), wanted, 6 * wanted / std::sqrt(2.0 * static_cast<double>(count))) << parameters[index].name;
    EXPECT_NEAR(mean, 0, 6 * wanted / std::sqrt(static_cast<double>(count))) << parameters[index].name;
  }
}

TEST(GptGraph, ExactGradientsAgreeWithDifferences) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const GptConfig config = odd_config();
  const graph::Graph graph = build_gpt(config, core::DType::F32, 2, 11);
  const Inputs in = random_inputs(random, config, 2, 11);
  expect_exact_gradients(graph, fresh_weights(random, graph, 0.2f), [&](graph::Executor& executor) { set_inputs(executor, in); }, random);
}

TEST(GptDecoder, GivesTheLogitsOfTheWholeForwardPass) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  NaiveBackend device;
  const GptConfig config = odd_config();
  const graph::Graph graph = build_gpt(config, core::DType::F32, 1, config.context);
  graph::ParameterStore store(graph, device, graph::Mode::Evaluate);
  graph::Executor executor(graph, store, graph::Mode::Evaluate);
  store.upload_weights(fresh_weights(random, graph, 0.2f).data());
  Inputs in;
  for (int i = 0; i < config.context; ++i) {
    in.tokens.push_back(static_cast<std::int32_t>(random() % config.vocab_size));
    in.positions.push_back(i);
    in.segments.push_back(0);
    in.targets.push_back(-1);
  }
  GptDecoder decoder(config, store);
  for (int round = 0; round < 2; ++round) {  // a decoder can begin anew
    decoder.restart();
    for (int i = 0; i < config.context; ++i) {
      std::vector<float> logits;
      decoder.accept(in.tokens[static_cast<std::size_t>(i)], &logits);
      double total = 0;
      for (const float logit : logits) total += std::exp(static_cast<double>(logit));
      // The graph gives losses only: one target at a time shows each logit.
      for (const int target : {0, 17, 36}) {
        in.targets.assign(static_cast<std::size_t>(config.context), -1);
        in.targets[static_cast<std::size_t>(i)] = target;
        set_inputs(executor, in);
        executor.forward();
        EXPECT_NEAR(executor.loss_sum(), std::log(total) - logits[static_cast<std::size_t>(target)], 2e-5);
      }
    }
    EXPECT_TRUE(decoder.is_full());
    EXPECT_THROW(decoder.accept(0, nullptr), core::Error);
  }
  decoder.restart();
  EXPECT_THROW(decoder.accept(37, nullptr), core::Error);
  EXPECT_THROW(decoder.accept(-1, nullptr), core::Error);
}

}  // namespace
}  // namespace pgtrain::engine::models
