// Tokens a second of whole training steps (forward, backward, gradient norm, clipped AdamW) of a GPT-2 on random tokens.
//   measure devices
//   measure DEVICE LAYERS WIDTH HEADS VOCABULARY CONTEXT BATCH fp32|bf16 STEPS
// Prints one line of JSON: the median over STEPS after five steps of warm-up. A step ends with the loss on the host.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/models/model.hpp"
#include "engine/train/optimizer.hpp"

namespace {
using namespace pgtrain::engine;
constexpr int kWarmUp = 5;

int print_devices() {
  const backend::DeviceList list = backend::list_devices();
  for (const backend::DeviceInfo& d : list.devices)
    std::printf("%s: %s, %s, %.1f GiB, %s\n", d.name.c_str(), d.description.c_str(), d.isa.c_str(), double(d.memory_bytes) / (1 << 30), d.uuid.c_str());
  const bool has_card = list.devices.size() > 1;
  if (!has_card) std::printf("no CUDA device: %s\n", list.cuda_reason.c_str());
  return has_card ? 0 : 4;
}

struct Settings {
  std::string device, precision;
  models::ModelConfig config;
  int batch = 0, steps = 0;
};

void fill_with_random_tokens(graph::Executor& executor, const Settings& s, std::mt19937& random) {
  const std::size_t rows = std::size_t(s.batch) * std::size_t(s.config.context);
  std::vector<std::int32_t> tokens(rows + 1), positions(rows), segments(rows, 0);
  for (auto& t : tokens) t = std::int32_t(random() % unsigned(s.config.vocab_size));
  for (std::size_t i = 0; i < rows; ++i) positions[i] = std::int32_t(i % std::size_t(s.config.context));
  executor.set_input("tokens", tokens.data());
  executor.set_input("positions", positions.data());
  executor.set_input("segments", segments.data());
  executor.set_input("targets", tokens.data() + 1);
}

int measure(const Settings& s) {
  const auto backend = backend::open(s.device);
  const core::DType compute = s.precision == "bf16" ? core::DType::Bf16 : core::DType::F32;
  const graph::Graph graph = models::build_model(s.config, {}, compute, s.batch, s.config.context);
  const std::uint64_t planned = graph::plan_memory(graph, graph::Mode::Train, *backend, train::optimizer_memory(graph, {}, *backend)).total();
  graph::ParameterStore store(graph, *backend, graph::Mode::Train);
  models::draw_weights(s.config, 1, store);
  graph::Executor executor(graph, store, graph::Mode::Train);
  train::Optimizer optimizer(store, {});
  std::mt19937 random(1);
  const double tokens = double(s.batch) * s.config.context;
  std::vector<double> seconds;
  double loss = 0;
  for (int step = 0; step < kWarmUp + s.steps; ++step) {
    fill_with_random_tokens(executor, s, random);
    const auto start = std::chrono::steady_clock::now();
    store.zero_gradients();
    executor.forward_backward(float(1 / tokens));
    loss = executor.loss_sum() / tokens;
    optimizer.gradient_norm();
    optimizer.update(step, 3e-4);
    backend->synchronize();
    if (step >= kWarmUp) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  // Multiply-adds of the products, forward and backward, attention counted causal.
  const double inner = double(models::count_parameters(s.config)) - double(s.config.context) * s.config.width;
  const double flops = tokens * (6 * inner + 6.0 * s.config.layers * s.config.width * s.config.context);
  std::printf("{\"program\": \"pgtrain\", \"device\": \"%s\", \"layers\": %d, \"width\": %d, \"vocabulary\": %d, \"context\": %d, \"batch\": %d, "
              "\"precision\": \"%s\", \"tokens_per_second\": %.0f, \"step_ms\": %.3f, \"slowest_ms\": %.3f, \"tflops\": %.1f, \"planned_mib\": %llu, \"loss\": %.4f}\n",
              backend->info().description.c_str(), s.config.layers, s.config.width, s.config.vocab_size, s.config.context, s.batch, s.precision.c_str(),
              tokens / median, median * 1e3, seconds.back() * 1e3, flops / median / 1e12, static_cast<unsigned long long>(planned >> 20), loss);
  return 0;
}
}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 && !std::strcmp(argv[1], "devices")) return print_devices();
    if (argc != 10) {
      std::fprintf(stderr, "usage: measure devices | measure DEVICE LAYERS WIDTH HEADS VOCABULARY CONTEXT BATCH fp32|bf16 STEPS\n");
      return 2;
    }
    Settings s;
    s.device = argv[1];
    s.config = models::fresh_gpt2(std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]), std::atoi(argv[6]), std::atoi(argv[5]), std::atoi(argv[5]) - 1);
    s.batch = std::atoi(argv[7]);
    s.precision = argv[8];
    s.steps = std::atoi(argv[9]);
    return measure(s);
  } catch (const core::Error& e) {
    std::printf("{\"program\": \"pgtrain\", \"error\": \"%s\"}\n", e.message.c_str());
    std::fprintf(stderr, "%s\n  %s\n", e.message.c_str(), e.detail.c_str());
    return 1;
  }
}
