// A whole gpt in bf16 beside PyTorch's in bf16: losses and gradient of a step, each against the same in double, our error at
// most 1.2 times PyTorch's (test/fixtures/make_bf16_errors.py). The double is the engine's own graph on ExactBackend.
#include <gtest/gtest.h>

#include <cmath>

#include "../bf16_errors.hpp"
#include "../loss_tap.hpp"
#include "../naive_backend.hpp"
#include "engine/backend/devices.hpp"
#include "engine/graph/executor.hpp"
#include "engine/models/model.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::int64_t kBatch = 4, kRows = kBatch * 32;

models::ModelConfig fixed_config() {
  return models::fresh_gpt2(2, 64, 2, 32, 61, 60);
}

// In the order of the model's parameters, which is the script's too.
std::vector<float> fixed_weights(const graph::Graph& graph) {
  std::vector<float> weights;
  for (std::size_t i = 0; i < graph.parameters.size(); ++i) {
    const std::string& name = graph.parameters[i].name;
    const bool is_gain = name.find("ln_") != std::string::npos && name.ends_with("weight");
    const auto values = test::fixed_values(100 + i, graph.parameters[i].count, 0.08, is_gain ? 1 : 0);
    weights.insert(weights.end(), values.begin(), values.end());
  }
  return weights;
}

// As LossTap, in double.
struct Exact : ExactBackend {
  std::vector<double> losses;
  void sum(float* out, const float* x, std::int64_t count, bool accumulate) override {
    losses = read(core::DType::F32, x, count);
    ExactBackend::sum(out, x, count, accumulate);
  }
};
void step(graph::Executor& executor, graph::ParameterStore& store, const graph::Graph& graph) {
  std::vector<std::int32_t> positions, targets = test::fixed_numbers(51, kRows, 61);
  for (std::size_t i = 3; i < targets.size(); i += 11) targets[i] = -1;
  for (std::int32_t i = 0; i < kRows; ++i) positions.push_back(i % 32);
  store.upload_weights(fixed_weights(graph).data());
  store.zero_gradients();
  executor.set_input("tokens", test::fixed_numbers(50, kRows, 61).data());
  executor.set_input("positions", positions.data());
  executor.set_input("segments", test::fixed_documents(52, kBatch, 32).data());
  executor.set_input("targets", targets.data());
  executor.forward_backward(1.0f / 64);
  executor.loss_sum();
}

double error(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, length = 0;
  for (std::size_t i = 0; i < want.size(); ++i) difference += (got[i] - want[i]) * (got[i] - want[i]), length += want[i] * want[i];
  return std::sqrt(difference / length);
}

TEST(Bf16, TheModelIsAsNearToDoubleAsPyTorch) {
  Exact exact;
  const graph::Graph wide = models::build_model(fixed_config(), {}, core::DType::F32, kBatch, 32);
  graph::ParameterStore exact_store(wide, exact, graph::Mode::Train);
  graph::Executor exact_executor(wide, exact_store, graph::Mode::Train);
  step(exact_executor, exact_store, wide);
  const std::vector<double> want = exact.read(core::DType::F32, exact_store.gradients(), exact_store.count());

  const auto cpu = backend::open("cpu");
  LossTap device(*cpu);
  const graph::Graph narrow = models::build_model(fixed_config(), {}, core::DType::Bf16, kBatch, 32);
  graph::ParameterStore store(narrow, device, graph::Mode::Train);
  graph::Executor executor(narrow, store, graph::Mode::Train);
  step(executor, store, narrow);
  std::vector<float> gradient(static_cast<std::size_t>(store.count()));
  store.download_gradients(gradient.data());

  const double loss_error = error(device.losses, exact.losses), gradient_error = error({gradient.begin(), gradient.end()}, want);
  EXPECT_LE(loss_error, test::allowed_bf16_error("model losses"));
  EXPECT_LE(gradient_error, test::allowed_bf16_error("model gradient"));
  EXPECT_GT(loss_error, 1e-5) << "this was not computed in bf16";
}

}  // namespace
}  // namespace pgtrain::engine::train
