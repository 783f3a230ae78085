// Our side of the fine-tuning benchmark: trains the Hugging Face folder CASE for the batches in CASE/batches.safetensors, whole or by the
// adapters in CASE/adapter, and prints one line per step, "STEP LOSS SECONDS PROCESSOR_SECONDS", then "parameters N" (that train) and
// "peak N" (bytes of this process at most, as the system counted them) and "planned N".
//   step_loop CASE fp32|bf16|bf16-bf16|bf16-8bit THREADS STEPS
// bf16-bf16, bf16-8bit: AdamW with moments of bf16, as PyTorch's has them for weights of bf16, or of 8 bits.
// peft_loop.py makes the case and trains from the same. Called by bench/finetune.sh.
#include <sys/resource.h>
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/executor.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/model.hpp"
#include "engine/train/optimizer.hpp"

namespace {

using namespace pgtrain::engine;

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// The adapters' first values, as PEFT drew them.
void load_adapters(const std::string& path, graph::ParameterStore& store) {
  const io::SafetensorsFile file(path);
  std::vector<float> flat(static_cast<std::size_t>(store.count()));
  for (const graph::Parameter& parameter : store.parameters()) {
    const io::StoredTensor* tensor = file.find("base_model.model." + parameter.name);
    if (tensor == nullptr || tensor->elements() != static_cast<std::uint64_t>(parameter.count)) throw core::Error("model_invalid", "the case has no " + parameter.name);
    file.read_f32(*tensor, flat.data() + parameter.offset);
  }
  store.upload_weights(flat.data());
}

int run(const std::string& folder, const std::string& mode, int threads, int steps) {
  const core::DType type = mode == "fp32" ? core::DType::F32 : core::DType::Bf16;
  const io::SafetensorsFile batches(folder + "/batches.safetensors");
  const auto number = [&](const char* key) { return std::atoll(batches.metadata().at(key).c_str()); };
  const std::int64_t batch = number("batch"), length = number("length"), count = number("batches"), cells = batch * length;
  const auto device = backend::open("cpu", {threads, 0});
  models::Tuning tuning;
  const bool has_adapters = std::filesystem::exists(folder + "/adapter");
  if (has_adapters) tuning.adapters = models::AdapterOptions{.rank = static_cast<int>(number("rank")), .alpha = static_cast<double>(number("alpha")), .targets = {"all-linear"}, .modules_to_save = {}};
  const train::OptimizerOptions options{.weight_decay = 0.0, .beta1 = 0.9, .beta2 = 0.999, .gradient_clip = 1.0,
                                        .kind = mode == "bf16-8bit" ? train::OptimizerKind::AdamW8bit : train::OptimizerKind::AdamW,
                                        .moments = mode == "bf16-bf16" ? core::DType::Bf16 : core::DType::F32};
  auto source = models::CheckpointSource::open(folder);
  const graph::Graph graph = models::build_model(source->config(), tuning, type, batch, length);
  // As a run of one micro-batch a step has it.
  constexpr graph::Recompute recompute = graph::Recompute::None;
  constexpr graph::Gradients gradients = graph::Gradients::Replaced;
  const std::uint64_t planned = graph::plan_memory(graph, graph::Mode::Train, *device, train::optimizer_memory(graph, options, *device), recompute, gradients).total();
  graph::ParameterStore store(graph, *device, graph::Mode::Train, gradients);
  graph::Executor executor(graph, store, graph::Mode::Train, recompute, gradients);
  train::Optimizer optimizer(store, options);
  models::load_weights(*source, tuning, 1, store);
  source.reset();  // the file is mapped, and its pages count
  if (has_adapters) load_adapters(folder + "/adapter/adapter_model.safetensors", store);
  for (int step = 0; step < steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    const double processor_begin = processor_seconds();
    for (const char* name : {"tokens", "positions", "segments", "targets"}) {
      const io::StoredTensor* tensor = batches.find(name);
      if (tensor == nullptr) throw core::Error("data_invalid", std::string("the case has no ") + name);
      executor.set_input(name, reinterpret_cast<const std::int32_t*>(batches.data(*tensor).data()) + (step % count) * cells);
    }
    executor.forward_backward(1.0f / static_cast<float>(cells));
    const double loss = executor.loss_sum() / static_cast<double>(cells);
    optimizer.gradient_norm();
    optimizer.update(step, 1e-4);
    device->synchronize();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("%d %.9g %.6f %.6f\n", step, loss, seconds.count(), processor_seconds() - processor_begin);
    std::fflush(stdout);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("parameters %lld\npeak %lld\nplanned %llu\n", static_cast<long long>(store.count()), static_cast<long long>(usage.ru_maxrss) * 1024, static_cast<unsigned long long>(planned));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: step_loop CASE fp32|bf16|bf16-bf16|bf16-8bit THREADS STEPS\n");
    return 2;
  }
  try {
    return run(arguments[1], arguments[2], std::atoi(arguments[3]), std::atoi(arguments[4]));
  } catch (const core::Error& error) {
    std::fprintf(stderr, "step_loop: %s %s\n", error.message.c_str(), error.detail.c_str());
    return 1;
  }
}
