// The first ten steps of a tiny gpt against PyTorch (float64): losses, gradients, gradient norms and the weights after them.
//
// test/fixtures/gpt_reference.safetensors is made by make_gpt_reference.py. fp32 bounds: step 0 within 1e-5 relative, ten
// steps within 1e-4; bf16: step 0 within 2e-3.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "../naive_backend.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/model.hpp"
#include "engine/train/optimizer.hpp"
#include "engine/train/schedule.hpp"

#ifndef PGTRAIN_FIXTURES
#error "PGTRAIN_FIXTURES must name the folder test/fixtures"
#endif

namespace pgtrain::engine::train {
namespace {

constexpr int kSteps = 10, kBatch = 3;

models::ModelConfig reference_config() {
  return models::fresh_gpt2(2, 32, 2, 16, 61, 60);
}

template <typename T>
std::vector<T> read(const io::SafetensorsFile& file, const std::string& name) {
  const io::StoredTensor* tensor = file.find(name);
  if (tensor == nullptr) throw std::runtime_error("no " + name);
  std::vector<T> values(tensor->elements());
  std::memcpy(values.data(), file.data(*tensor).data(), values.size() * sizeof(T));
  return values;
}

// By name without "transformer.", laid out as the store lies.
std::vector<float> read_all(const io::SafetensorsFile& file, const std::string& part, const graph::ParameterStore& store) {
  std::vector<float> values(static_cast<std::size_t>(store.count()));
  for (const graph::Parameter& parameter : store.parameters()) {
    const auto tensor = read<float>(file, part + "/" + parameter.name.substr(std::strlen("transformer.")));
    EXPECT_EQ(static_cast<std::int64_t>(tensor.size()), parameter.count);
    std::copy(tensor.begin(), tensor.end(), values.begin() + parameter.offset);
  }
  return values;
}

double distance(const float* a, const float* b, std::int64_t count) {
  double difference = 0, length = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    length += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / std::max(length, 1e-30));
}

struct Bounds {
  double first_loss, later_losses, gradient, norm, weights;
};

void run_reference(backend::Backend& device, core::DType type, const Bounds& bounds) {
  const io::SafetensorsFile file(std::string(PGTRAIN_FIXTURES) + "/gpt_reference.safetensors");
  const models::ModelConfig config = reference_config();
  const graph::Graph graph = models::build_model(config, {}, type, kBatch, config.context);
  graph::ParameterStore store(graph, device, graph::Mode::Train);
  graph::Executor executor(graph, store, graph::Mode::Train);
  Optimizer optimizer(store, {0.1, 0.9, 0.95, 1e-8, 0.5});
  const Schedule schedule{"cosine", 3e-3, 0.1, 3, kSteps};
  store.upload_weights(read_all(file, "initial", store).data());
  const auto losses = read<double>(file, "losses"), norms = read<double>(file, "norms"), rates = read<double>(file, "rates");
  const std::int64_t cells = kBatch * config.context;
  for (int step = 0; step < kSteps; ++step) {
    for (const char* input : {"tokens", "positions", "segments", "targets"}) executor.set_input(input, read<std::int32_t>(file, input).data() + step * cells);
    store.zero_gradients();
    executor.forward_backward(1.0f / static_cast<float>(cells));
    const double loss = executor.loss_sum() / static_cast<double>(cells);
    EXPECT_NEAR(loss / losses[step], 1.0, step == 0 ? bounds.first_loss : bounds.later_losses) << "step " << step;
    if (step == 0) {
      std::vector<float> gradients(static_cast<std::size_t>(store.count()));
      store.download_gradients(gradients.data());
      const std::vector<float> wanted = read_all(file, "gradient", store);
      for (const graph::Parameter& parameter : store.parameters())
        EXPECT_LT(distance(gradients.data() + parameter.offset, wanted.data() + parameter.offset, parameter.count), bounds.gradient) << parameter.name;
    }
    EXPECT_NEAR(optimizer.gradient_norm() / norms[step], 1.0, bounds.norm) << "step " << step;
    EXPECT_NEAR(schedule.rate(step), rates[step], 1e-12);
    optimizer.update(step, schedule.rate(step));
  }
  std::vector<float> weights(static_cast<std::size_t>(store.count()));
  store.download_weights(weights.data());
  const std::vector<float> wanted = read_all(file, "final", store);
  EXPECT_LT(distance(weights.data(), wanted.data(), store.count()), bounds.weights);
  // The steps moved the weights by far more than the bound, or this would prove nothing.
  EXPECT_GT(distance(read_all(file, "initial", store).data(), wanted.data(), store.count()), 0.02);
}

constexpr Bounds kFp32{1e-5, 1e-4, 2e-5, 1e-4, 1e-4};
// A key's bias shifts every score of a query alike, so its true gradient is zero and what remains is rounding: the
// bound on c_attn.bias is why gradients in bf16 are allowed this much.
constexpr Bounds kBf16{2e-3, 1e-2, 3e-2, 3e-2, 2e-2};

TEST(Parity, TheNaiveBackendFollowsPyTorch) {
  NaiveBackend device;
  run_reference(device, core::DType::F32, kFp32);
}

// The best kernels of this processor, and the older ones, which also have no bf16 products.
void run_on_cpus(core::DType type, const Bounds& bounds) {
  for (const char* set : {"", "x86-64-v3", "x86-64-v2"}) {
    SCOPED_TRACE(std::string("instruction set \"") + set + "\"");
    std::unique_ptr<backend::Backend> device;
    try {
      device = backend::open("cpu", {.threads = 2, .instruction_set = set});
    } catch (const core::Error& error) {
      ASSERT_EQ(error.code, "config_invalid") << error.message;  // this processor is older still
      continue;
    }
    run_reference(*device, type, bounds);
  }
}

TEST(Parity, TheCpuFollowsPyTorch) { run_on_cpus(core::DType::F32, kFp32); }

TEST(Parity, TheCpuFollowsPyTorchInBf16) { run_on_cpus(core::DType::Bf16, kBf16); }

}  // namespace
}  // namespace pgtrain::engine::train
