// Drawing text from random tiny models: the decoder's logits against the whole forward pass at every position up to the border
// of the context, greedy text against that pass, and what temperature, top_k, top_p, seeds and limits must mean.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "../loss_tap.hpp"
#include "../model_folder.hpp"
#include "../naive_backend.hpp"
#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/models/decoder.hpp"
#include "engine/models/model.hpp"
#include "engine/train/writer.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr int kVocabulary = 257, kEnd = 256;

models::ModelConfig random_config(std::mt19937& random) {
  const auto less_than = [&](unsigned bound) { return static_cast<int>(random() % bound); };
  const int layers = 1 + less_than(3), heads = 1 + less_than(3), width = heads * 8 * (1 + less_than(3));
  return models::fresh_gpt2(layers, width, heads, 2 + less_than(14), kVocabulary, kEnd);
}

// Writes ASCII only, never the end of the text, and with clear favourites: a text then tells which tokens were chosen.
std::vector<float> talkative_weights(std::mt19937& random, const models::ModelConfig& config, const graph::Graph& graph) {
  std::vector<float> weights(static_cast<std::size_t>(graph.parameter_count()));
  for (const graph::Parameter& parameter : graph.parameters) {
    const bool is_gain = parameter.name.find("ln_") != std::string::npos && parameter.name.ends_with("weight");
    float* at = weights.data() + parameter.offset;
    for (std::int64_t i = 0; i < parameter.count; ++i) at[i] = (is_gain ? 1.0f : 0.0f) + 0.3f * std::normal_distribution<float>()(random);
    if (parameter.name.ends_with("wte.weight"))
      for (int token = 0; token < config.vocab_size; ++token) at[token * config.width] = token < ' ' || token > '~' ? -8.0f : 0.0f;
    if (parameter.name.ends_with("ln_f.weight")) at[0] = 0;
    if (parameter.name.ends_with("ln_f.bias")) at[0] = 8;
  }
  return weights;
}

// The whole pass over one row of tokens. It gives losses only, so the row stands there once for every possible next token.
class WholePass {
 public:
  WholePass(const models::ModelConfig& config, core::DType type, backend::Backend& device, const std::vector<float>& weights)
      : config_(config), tap_(device), graph_(models::build_model(config, {}, type, kVocabulary, config.context)), store_(graph_, tap_, graph::Mode::Evaluate),
        executor_(graph_, store_, graph::Mode::Evaluate) {
    store_.upload_weights(weights.data());
  }
  // -log of the probability of each token after position 0, 1, ...; what follows the given tokens does not matter.
  std::vector<std::vector<double>> losses(std::vector<std::int32_t> row) {
    row.resize(static_cast<std::size_t>(config_.context), 0);
    std::vector<std::int32_t> tokens, positions, segments, targets;
    for (std::int32_t next = 0; next < kVocabulary; ++next)
      for (std::int32_t i = 0; i < config_.context; ++i)
        tokens.push_back(row[static_cast<std::size_t>(i)]), positions.push_back(i), segments.push_back(0), targets.push_back(next);
    executor_.set_input("tokens", tokens.data());
    executor_.set_input("positions", positions.data());
    executor_.set_input("segments", segments.data());
    executor_.set_input("targets", targets.data());
    executor_.forward();
    executor_.loss_sum();
    std::vector<std::vector<double>> out(static_cast<std::size_t>(config_.context), std::vector<double>(kVocabulary));
    for (std::size_t next = 0; next < kVocabulary; ++next)
      for (std::size_t i = 0; i < out.size(); ++i) out[i][next] = tap_.losses[next * out.size() + i];
    return out;
  }
  graph::ParameterStore& store() { return store_; }

 private:
  const models::ModelConfig config_;
  LossTap tap_;
  graph::Graph graph_;
  graph::ParameterStore store_;
  graph::Executor executor_;
};

void expect_equal_to_whole_pass(backend::Backend& device, core::DType type, double bar, std::mt19937& random) {
  const models::ModelConfig config = random_config(random);
  const std::vector<float> weights = talkative_weights(random, config, models::build_model(config, {}, type, 1, 1));
  WholePass whole(config, type, device, weights);
  models::Decoder decoder(config, {}, whole.store(), {});
  std::vector<std::int32_t> row;
  for (int i = 0; i < config.context; ++i) row.push_back(static_cast<std::int32_t>(random() % kVocabulary));
  const auto losses = whole.losses(row);
  for (std::size_t i = 0; i < row.size(); ++i) {
    std::vector<float> logits;
    decoder.accept({{0, {row[i]}}}, &logits);
    double total = 0, difference = 0, length = 0;
    for (const float logit : logits) total += std::exp(static_cast<double>(logit));
    for (std::size_t next = 0; next < kVocabulary; ++next) {
      const double decoded = std::log(total) - static_cast<double>(logits[next]);
      difference += (decoded - losses[i][next]) * (decoded - losses[i][next]), length += losses[i][next] * losses[i][next];
    }
    EXPECT_LE(std::sqrt(difference / length), bar) << device.info().isa << " position " << i << " of " << config.context << ", width " << config.width << ", heads " << config.heads;
  }
  EXPECT_TRUE(decoder.is_full(0));
  EXPECT_THROW(decoder.accept({{0, {0}}}, nullptr), core::Error);
}

TEST(Decoder, EqualsTheWholePassAtEveryPosition) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  NaiveBackend naive;
  expect_equal_to_whole_pass(naive, core::DType::F32, 1e-6, random);
  for (const char* set : {"", "x86-64-v3", "x86-64-v2"}) {
    std::unique_ptr<backend::Backend> device;
    try {
      device = backend::open("cpu", {.threads = 2, .instruction_set = set});
    } catch (const core::Error&) {
      continue;  // this processor is older
    }
    for (int round = 0; round < 4; ++round) {
      expect_equal_to_whole_pass(*device, core::DType::F32, 1e-5, random);
      expect_equal_to_whole_pass(*device, core::DType::Bf16, 2e-2, random);
    }
  }
}

// A random model in a folder, as generate() finds one.
class Folder {
 public:
  explicit Folder(std::mt19937& random) : config(random_config(random)), device_(backend::open("cpu", {.threads = 2})) {
    const graph::Graph graph = models::build_model(config, {}, core::DType::F32, 1, 1);
    weights = talkative_weights(random, config, graph);
    graph::ParameterStore store(graph, *device_, graph::Mode::Evaluate);
    store.upload_weights(weights.data());
    write_model(folder_.path(), config, store);
  }
  GenerateResult draw(const Ask& ask) { return answer(folder_.path(), ask, *device_); }
  backend::Backend& device() { return *device_; }

  const models::ModelConfig config;
  std::vector<float> weights;

 private:
  TemporaryFolder folder_;
  std::unique_ptr<backend::Backend> device_;
};

std::string random_prompt(std::mt19937& random, std::size_t longest) {
  std::string prompt(random() % (longest + 1), ' ');
  for (char& c : prompt) c = static_cast<char>('a' + random() % 26);
  return prompt;
}

// Prompts shorter and longer than the context: the end of a long one is kept, with room for half a context to be written.
TEST(Generate, GreedyTextIsTheWholePassLikeliestUpToTheBorder) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 6; ++round) {
    Folder model(random);
    const int context = model.config.context;
    WholePass whole(model.config, core::DType::F32, model.device(), model.weights);
    Ask ask;
    ask.prompt = random_prompt(random, static_cast<std::size_t>(2 * context));
    ask.max_tokens = 1 + static_cast<int>(random() % static_cast<unsigned>(2 * context));
    ask.temperature = 0;
    const GenerateResult got = model.draw(ask);

    std::vector<std::int32_t> row = {kEnd};
    for (const char c : ask.prompt) row.push_back(static_cast<unsigned char>(c));
    const int room = std::min(ask.max_tokens, std::max(1, context / 2)), most = context - std::min(room, context - 1);
    if (static_cast<int>(row.size()) > most) row.erase(row.begin(), row.end() - most);
    const int expected = std::min(ask.max_tokens, context - static_cast<int>(row.size()) + 1);
    EXPECT_EQ(got.left_out, 1 + static_cast<int>(ask.prompt.size()) - static_cast<int>(row.size()));
    ASSERT_EQ(got.tokens, expected) << "context " << context << ", prompt of " << row.size();
    ASSERT_EQ(got.text.size(), static_cast<std::size_t>(expected)) << got.text;
    EXPECT_EQ(got.end_reason, ask.max_tokens < context - static_cast<int>(row.size()) + 1 ? "max_tokens" : "context_full");
    for (const char c : got.text) {
      const auto losses = whole.losses(row)[row.size() - 1];
      const double least = *std::min_element(losses.begin(), losses.end());
      ASSERT_NEAR(losses[static_cast<unsigned char>(c)], least, 1e-4) << "'" << c << "' is not the likeliest after " << row.size() << " tokens";
      row.push_back(static_cast<unsigned char>(c));
    }
  }
}

TEST(Generate, OneCandidateIsTheLikeliestHoweverItIsAskedFor) {
  std::mt19937 random(test::seed());
  for (int round = 0; round < 4; ++round) {
    Folder model(random);
    Ask ask;
    ask.prompt = random_prompt(random, 3);
    ask.temperature = 0;
    const std::string greedy = model.draw(ask).text;
    for (const auto& [temperature, top_k, top_p] : {std::tuple{1.0, 1, 1.0}, {100.0, 1, 1.0}, {1.0, 0, 1e-6}, {0.7, 5, 1e-9}, {1e-6, 0, 1.0}, {0.0, 7, 0.5}}) {
      ask.temperature = temperature, ask.top_k = top_k, ask.top_p = top_p, ask.seed = random();
      EXPECT_EQ(model.draw(ask).text, greedy) << "temperature " << temperature << " top_k " << top_k << " top_p " << top_p;
    }
  }
}

TEST(Generate, EqualSeedsGiveEqualTextsAndOthersOthers) {
  std::mt19937 random(test::seed());
  std::vector<std::string> texts;
  Folder model(random);
  Ask ask;
  ask.temperature = 3;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    ask.seed = seed;
    texts.push_back(model.draw(ask).text);
    EXPECT_EQ(model.draw(ask).text, texts.back());
  }
  std::sort(texts.begin(), texts.end());
  EXPECT_GT(std::unique(texts.begin(), texts.end()) - texts.begin(), 5);
}

TEST(Generate, RefusesWhatMeansNothing) {
  std::mt19937 random(test::seed());
  Folder model(random);
  const double nan = std::nan("");
  const std::function<void(Ask&)> wrong[] = {
      [](auto& o) { o.max_tokens = 0; },      [](auto& o) { o.max_tokens = -1; },    [](auto& o) { o.temperature = -0.1; }, [=](auto& o) { o.temperature = nan; },
      [](auto& o) { o.temperature = 101; },   [](auto& o) { o.top_k = -1; },         [](auto& o) { o.top_p = 0; },          [](auto& o) { o.top_p = 1.5; },
      [=](auto& o) { o.top_p = nan; },        [](auto& o) { o.prompt = "a\xFF"; }};
  for (std::size_t i = 0; i < std::size(wrong); ++i) {
    Ask ask;
    wrong[i](ask);
    try {
      model.draw(ask);
      ADD_FAILURE() << "case " << i << " was accepted";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.code, "config_invalid") << i;
    }
  }
}

// Weights that are no numbers, or numbers that overflow on the way: an error, not a text drawn from nothing.
TEST(Generate, RefusesModelsThatDoNotComputeNumbers) {
  std::mt19937 random(test::seed());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f}) {
    TemporaryFolder folder;
    const auto device = backend::open("cpu", {.threads = 1});
    const models::ModelConfig config = random_config(random);
    const graph::Graph graph = models::build_model(config, {}, core::DType::F32, 1, 1);
    graph::ParameterStore store(graph, *device, graph::Mode::Evaluate);
    std::vector<float> weights = talkative_weights(random, config, graph);
    for (const graph::Parameter& parameter : graph.parameters)
      if (parameter.name.ends_with("c_fc.weight")) std::fill_n(weights.begin() + parameter.offset, parameter.count, bad);
    store.upload_weights(weights.data());
    write_model(folder.path(), config, store);
    try {
      answer(folder.path(), {}, *device);
      ADD_FAILURE() << bad << " was accepted";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.code, "model_invalid") << error.message;
      EXPECT_NE(error.message.find("not a number"), std::string::npos) << error.message;
    }
  }
}

}  // namespace
}  // namespace pgtrain::engine::train
