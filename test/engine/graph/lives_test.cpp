// How long buffers live: memory that is NaN as soon as nobody reads it any more, and before it is written, changes nothing at any level
// and with either kind of gradients; a life that ends too early or begins too late by a step shows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "../poisoned_backend.hpp"
#include "engine/graph/execution.hpp"
#include "engine/models/model.hpp"

namespace pgtrain::engine::graph {
namespace {

using Floats = std::vector<float>;

struct Made {
  Floats losses, gradients;
  bool operator==(const Made&) const = default;
  bool is_finite() const {
    const auto finite = [](const Floats& values) { return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }); };
    return finite(losses) && finite(gradients);
  }
};

models::ModelConfig config_of(const std::string& family) {
  models::ModelConfig config;
  config.model_type = family;
  config.layers = 2, config.width = 32, config.heads = 4, config.kv_heads = family == "gpt2" ? 4 : 2, config.head_width = 8, config.inner_width = 40;
  config.context = 16, config.vocab_size = 61, config.ties_head = true, config.qk_norm = family == "qwen3";
  config.slides.assign(2, false);
  return config;
}
Graph graph_of(const std::string& family, bool is_tuned, DType type) {
  models::Tuning tuning;
  if (is_tuned) {
    tuning.adapters.emplace();
    tuning.adapters->rank = 4, tuning.adapters->alpha = 8, tuning.adapters->dropout = 0.2, tuning.adapters->is_weight_decomposed = true, tuning.adapters->targets = {"all-linear"};
    tuning.is_quantized = true;
  }
  return models::build_model(config_of(family), tuning, type, 2, 16);
}

// An executor's own state with inputs and weights that were drawn by chance.
struct Trial {
  Trial(const Graph& graph, backend::Backend& device, Recompute recompute, Gradients gradients) : store(graph, device, Mode::Train, gradients), plan(graph, store, Mode::Train, recompute, gradients) {
    std::mt19937 random(3);
    const auto drawn = [&](std::int64_t count, float middle) {
      Floats values(static_cast<std::size_t>(count));
      for (float& value : values) value = std::normal_distribution<float>(middle, 0.2f)(random);
      return values;
    };
    for (const Parameter& p : store.frozen()) store.upload_frozen(p, drawn(p.count, p.shape.size() == 1 ? 1.0f : 0.0f).data());
    for (const Parameter& p : store.parameters()) store.upload_weight(p, drawn(p.count, p.shape.size() == 1 ? 1.0f : 0.0f).data());
    for (const Input& input : graph.inputs) {
      std::vector<std::int32_t> values;
      for (int i = 0; i < 32; ++i) values.push_back(input.name == "segments" ? i % 16 / 9 : input.name == "positions" ? i % 16 % 9 : static_cast<std::int32_t>(random() % 61));
      device.upload(plan.value(input.value), values.data(), values.size() * sizeof values[0]);
    }
    plan.dropout_seed = 5;
  }
  Made run() {
    if (plan.plan.births.empty()) store.zero_gradients();
    plan.wants_gradients = plan.drops = true;
    plan.perform();
    Made made{{}, Floats(static_cast<std::size_t>(store.count()))};
    plan.download(plan.graph.losses, made.losses);
    store.download_gradients(made.gradients.data());
    return made;
  }
  ParameterStore store;
  Executor::Plan plan;
};

TEST(Lives, WhatIsForgottenIsReadByNobody) {
  const auto plain = backend::open("cpu", {.threads = 1});
  const auto poisoned = open_poisoned({.threads = 1});
  for (const char* family : {"gpt2", "llama", "qwen3"})
    for (const bool is_tuned : {false, true})
      for (const DType type : {DType::F32, DType::Bf16})
        for (const Recompute level : {Recompute::None, Recompute::Cheap, Recompute::Blocks})
          for (const Gradients gradients : {Gradients::Added, Gradients::Replaced}) {
            SCOPED_TRACE(std::string(family) + (is_tuned ? " tuned " : " ") + core::name_of(type) + " " + std::to_string(static_cast<int>(level)) + (gradients == Gradients::Added ? "" : " replaced"));
            const Graph graph = graph_of(family, is_tuned, type);
            const std::uint64_t before = poisoned->forgotten_bytes();
            Trial want(graph, *plain, level, gradients), found(graph, *poisoned, level, gradients);
            const Made made = want.run();
            EXPECT_TRUE(made.is_finite());
            EXPECT_EQ(found.run(), made);
            EXPECT_EQ(found.run(), made) << "in a second run";
            EXPECT_GT(poisoned->forgotten_bytes() - before, 2 * found.plan.plan.arena_bytes);
          }
}

TEST(Lives, OneThatEndsOrBeginsAtTheWrongStepShows) {
  const auto poisoned = open_poisoned({.threads = 1});
  for (const char* family : {"gpt2", "qwen3"})
    for (const Recompute level : {Recompute::None, Recompute::Cheap}) {
      const Graph graph = graph_of(family, true, DType::F32);
      Trial trial(graph, *poisoned, level, Gradients::Added);
      ASSERT_TRUE(trial.run().is_finite());
      std::size_t planted = 0;
      for (std::size_t index = 0; index < trial.plan.plan.buffers.size(); ++index) {
        Buffer& buffer = trial.plan.plan.buffers[index];
        if (buffer.first >= buffer.last || buffer.last >= static_cast<std::int32_t>(trial.plan.plan.steps.size())) continue;
        const Buffer right = buffer;
        for (const bool ends : {true, false}) {
          if (!ends && level != Recompute::None) continue;  // statistics of what runs again are written again
          buffer = right;
          (ends ? buffer.last : buffer.first) += ends ? -1 : 1;
          trial.plan.find_lives();
          EXPECT_FALSE(trial.run().is_finite()) << family << " " << static_cast<int>(level) << ": buffer " << index << " from " << right.first << " to " << right.last << (ends ? " ends early" : " begins late");
          ++planted;
        }
        buffer = right;
        trial.plan.find_lives();
      }
      EXPECT_GT(planted, 60u);
      EXPECT_TRUE(trial.run().is_finite());
    }
}

}  // namespace
}  // namespace pgtrain::engine::graph
