// Our side of the engine benchmark: trains the model of a case file for its batches and prints one line per step,
// "STEP LOSS SECONDS PROCESSOR_SECONDS", then "parameters N" and "peak N" (bytes of this process at most, as the system counted them).
//   step_loop CASE.safetensors fp32|bf16 THREADS STEPS
// The case holds initial weights and batches; torch_loop.py makes it and trains from the same. Called by bench/engine.sh.
#include <sys/resource.h>
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/executor.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/model.hpp"
#include "engine/train/optimizer.hpp"
#include "engine/train/schedule.hpp"

namespace {

using namespace pgtrain::engine;

struct Case {
  models::ModelConfig config;
  std::int64_t batch = 0, batches = 0;
};

Case read_case(const io::SafetensorsFile& file) {
  const auto number = [&](const char* key) { return std::atoi(file.metadata().at(key).c_str()); };
  Case c;
  c.config = models::fresh_gpt2(number("layers"), number("width"), number("heads"), number("context"), number("vocabulary"), number("vocabulary") - 1);
  c.batch = number("batch"), c.batches = number("batches");
  return c;
}

void load_weights(const io::SafetensorsFile& file, graph::ParameterStore& store) {
  std::vector<float> flat(static_cast<std::size_t>(store.count()));
  for (const graph::Parameter& parameter : store.parameters()) {
    const io::StoredTensor* tensor = file.find(parameter.name);
    if (tensor == nullptr || tensor->elements() != static_cast<std::uint64_t>(parameter.count)) throw core::Error("model_invalid", "the case has no " + parameter.name);
    file.read_f32(*tensor, flat.data() + parameter.offset);
  }
  store.upload_weights(flat.data());
}

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

int run(const char* path, core::DType type, int threads, int steps) {
  const io::SafetensorsFile file(path);
  const Case c = read_case(file);
  const auto device = backend::open("cpu", {threads, 0});
  const graph::Graph graph = models::build_model(c.config, {}, type, c.batch, c.config.context);
  graph::ParameterStore store(graph, *device, graph::Mode::Train);
  graph::Executor executor(graph, store, graph::Mode::Train);
  train::Optimizer optimizer(store, {0.1, 0.9, 0.95, 1e-8, 1.0});
  load_weights(file, store);
  const std::int64_t cells = c.batch * c.config.context;
  for (int step = 0; step < steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    const double processor_begin = processor_seconds();
    for (const char* name : {"tokens", "positions", "segments", "targets"}) {
      const io::StoredTensor* tensor = file.find(name);
      if (tensor == nullptr) throw core::Error("data_invalid", std::string("the case has no ") + name);
      executor.set_input(name, reinterpret_cast<const std::int32_t*>(file.data(*tensor).data()) + (step % c.batches) * cells);
    }
    store.zero_gradients();
    executor.forward_backward(1.0f / static_cast<float>(cells));
    const double loss = executor.loss_sum() / static_cast<double>(cells);
    optimizer.gradient_norm();
    optimizer.update(step, 1e-3);
    device->synchronize();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("%d %.9g %.6f %.6f\n", step, loss, seconds.count(), processor_seconds() - processor_begin);
    std::fflush(stdout);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("parameters %lld\npeak %lld\n", static_cast<long long>(store.count()), static_cast<long long>(usage.ru_maxrss) * 1024);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: step_loop CASE.safetensors fp32|bf16 THREADS STEPS\n");
    return 2;
  }
  try {
    return run(arguments[1], std::strcmp(arguments[2], "bf16") == 0 ? core::DType::Bf16 : core::DType::F32, std::atoi(arguments[3]), std::atoi(arguments[4]));
  } catch (const core::Error& error) {
    std::fprintf(stderr, "step_loop: %s\n", error.message.c_str());
    return 1;
  }
}
