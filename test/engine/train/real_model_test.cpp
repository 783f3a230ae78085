// A real model, where PGTRAIN_TEST_GGUF names one: read, tokenized and evaluated, it must know English.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "engine/backend/devices.hpp"
#include "engine/models/model.hpp"
#include "engine/train/model_tokenizer.hpp"

namespace pgtrain::engine::train {
namespace {

TEST(RealModel, KnowsEnglish) {
  const char* path = std::getenv("PGTRAIN_TEST_GGUF");
  // A hundred megabytes that are not in the tree; the run of the tests counts and names what it skipped.
  if (path == nullptr) GTEST_SKIP() << "PGTRAIN_TEST_GGUF names no model";
  const auto source = models::CheckpointSource::open(path);
  const auto tokenizer = open_tokenizer(*source);
  std::vector<std::int32_t> tokens;
  tokenizer.encode("The capital of France is Paris, and the capital of Germany is Berlin. Water boils at one hundred degrees Celsius and freezes at zero.", tokens);
  std::vector<std::int32_t> targets(tokens.begin() + 1, tokens.end()), positions, segments(tokens.size(), 0);
  targets.push_back(-1);
  for (std::size_t i = 0; i < tokens.size(); ++i) positions.push_back(static_cast<std::int32_t>(i));
  const auto cpu = backend::open("cpu");
  double losses[2] = {};
  models::Tuning tuning;
  tuning.adapters.emplace().targets = {"all-linear"};
  for (const graph::DType type : {graph::DType::F32, graph::DType::Bf16}) {
    const graph::Graph graph = models::build_model(source->config(), tuning, type, 1, static_cast<std::int64_t>(tokens.size()));
    graph::ParameterStore store(graph, *cpu, graph::Mode::Train);
    graph::Executor executor(graph, store, graph::Mode::Train);
    models::load_weights(*source, tuning, 1, store);
    executor.set_input("tokens", tokens.data());
    executor.set_input("positions", positions.data());
    executor.set_input("segments", segments.data());
    executor.set_input("targets", targets.data());
    executor.forward();
    losses[type == graph::DType::Bf16] = executor.loss_sum() / static_cast<double>(tokens.size() - 1);
  }
  std::printf("loss per token %.4f in fp32, %.4f in bf16, %zu tokens\n", losses[0], losses[1], tokens.size());
  EXPECT_LT(losses[0], 2.5);
  EXPECT_NEAR(losses[1], losses[0], 0.05);
}

}  // namespace
}  // namespace pgtrain::engine::train
