// What a process takes from the system while a model is loaded and trained, as the system counts it, beside the plan that was told before:
// pages of files, drafts on the host and rooms of libraries count here, which the backend's own count does not see.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>

#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/graph/executor.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/checkpoint_source.hpp"
#include "engine/models/model.hpp"
#include "engine/train/optimizer.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::int64_t kBatch = 2, kLength = 128, kCells = kBatch * kLength;

// Of this process, in bytes; 0 where the system does not say.
std::uint64_t status_of(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) << 10;
  return 0;
}

// Begins a new peak.
bool forget_peak() {
  std::ofstream out("/proc/self/clear_refs");
  return static_cast<bool>(out << "5" << std::flush);
}

void write_model(const std::string& folder) {
  const std::string text = R"({"model_type":"gpt2","vocab_size":30000,"n_embd":512,"n_layer":3,"n_head":8,"n_positions":128})";
  io::write_file(folder + "/config.json", text);
  const models::ModelConfig config = models::ModelConfig::from_json(text, "config.json");
  std::mt19937 random(3);
  std::vector<std::vector<float>> values;
  std::vector<io::TensorToWrite> tensors;
  for (const models::ParameterShape& parameter : models::parameter_shapes(config)) {
    std::size_t count = 1;
    for (const auto extent : parameter.shape) count *= extent;
    values.emplace_back(count);
    for (float& value : values.back()) value = (static_cast<float>(random() % 2001) - 1000.0f) / 30000.0f;
    tensors.push_back({parameter.name, io::StoredType::F32, parameter.shape, values.back().data()});
  }
  io::write_safetensors(folder + "/model.safetensors", std::move(tensors));
}

struct Way {
  const char* name;
  core::DType compute;
  OptimizerOptions optimizer;
  graph::Gradients gradients;
};

// Planned, and taken from the system at most.
std::pair<std::uint64_t, std::uint64_t> load_and_step(const std::string& folder, const Way& way) {
  const auto device = backend::open("cpu", {.threads = 2});
  auto source = models::CheckpointSource::open(folder);
  const graph::Graph graph = models::build_model(source->config(), {}, way.compute, kBatch, kLength);
  const std::uint64_t planned =
      graph::plan_memory(graph, graph::Mode::Train, *device, optimizer_memory(graph, way.optimizer, *device), graph::Recompute::None, way.gradients).total();
  const std::uint64_t before = status_of("VmRSS");
  if (!forget_peak()) return {};
  graph::ParameterStore store(graph, *device, graph::Mode::Train, way.gradients);
  graph::Executor executor(graph, store, graph::Mode::Train, graph::Recompute::None, way.gradients);
  Optimizer optimizer(store, way.optimizer);
  models::load_weights(*source, {}, 1, store);
  std::vector<std::int32_t> ids(kCells), zeros(kCells, 0), positions(kCells);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7919 % 30000), positions[i] = static_cast<std::int32_t>(i % kLength);
  for (int step = 0; step < 2; ++step) {
    executor.set_input("tokens", ids.data()), executor.set_input("targets", ids.data());
    executor.set_input("positions", positions.data()), executor.set_input("segments", zeros.data());
    if (way.gradients == graph::Gradients::Added) store.zero_gradients();
    executor.forward_backward(1.0f / static_cast<float>(kCells));
    EXPECT_TRUE(std::isfinite(executor.loss_sum()));
    optimizer.gradient_norm();
    optimizer.update(step, 1e-4);
  }
  return {planned, status_of("VmHWM") - before};
}

TEST(ProcessMemory, IsWhatIsPlanned) {
  const TemporaryFolder folder;
  write_model(folder.path());
  const OptimizerOptions floats, narrow{.moments = core::DType::Bf16}, codes{.kind = OptimizerKind::AdamW8bit};
  for (const Way& way : {Way{"fp32", core::DType::F32, floats, graph::Gradients::Replaced}, Way{"fp32, several micro-batches", core::DType::F32, floats, graph::Gradients::Added},
                         Way{"bf16", core::DType::Bf16, floats, graph::Gradients::Replaced}, Way{"bf16, moments of bf16", core::DType::Bf16, narrow, graph::Gradients::Replaced},
                         Way{"bf16, moments of 8 bits", core::DType::Bf16, codes, graph::Gradients::Replaced}}) {
    const auto [planned, taken] = load_and_step(folder.path(), way);
    if (planned == 0) GTEST_SKIP() << "the system lets no process forget its peak";
    // Code, primitives and stacks of the libraries, whatever the model.
    constexpr double kFixed = 16 << 20;
    std::printf("%s: planned %.1f MiB, taken %.1f MiB\n", way.name, static_cast<double>(planned) / (1 << 20), static_cast<double>(taken) / (1 << 20));
    EXPECT_LE(static_cast<double>(taken), 1.05 * static_cast<double>(planned) + kFixed) << way.name;
    EXPECT_GE(static_cast<double>(taken), 0.95 * static_cast<double>(planned) - kFixed) << way.name;
  }
}

}  // namespace
}  // namespace pgtrain::engine::train
