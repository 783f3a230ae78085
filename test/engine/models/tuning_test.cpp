// Models as they are tuned: which weights are held in 4 bits and by which blocks, decomposed adapters that begin as nothing, blocks that
// are computed again; for both families.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "../bf16_errors.hpp"
#include "engine/backend/devices.hpp"
#include "engine/backend/nf4.hpp"
#include "engine/core/error.hpp"
#include "engine/models/load.hpp"
#include "engine/models/model.hpp"

namespace pgtrain::engine::models {
namespace {

using Floats = std::vector<float>;

// A checkpoint of any configuration, its numbers drawn from their places.
class DrawnSource : public CheckpointSource {
 public:
  explicit DrawnSource(const ModelConfig& config) {
    config_ = config;
    for (const ParameterShape& parameter : parameter_shapes(config)) {
      SourceTensor tensor{parameter.name, parameter.shape, "F32", 1};
      for (const std::uint64_t size : parameter.shape) tensor.elements *= size;
      tensors_.push_back(tensor);
    }
    index_tensors();
  }
  std::string chat_template() const override { return {}; }
  Floats values(const std::string& name) const {
    Floats out(tensors_[index_of(name)].elements);
    read_f32(index_of(name), out.data());
    return out;
  }

 protected:
  Layout layout(std::size_t index) const override {
    const auto& shape = tensors_[index].shape;
    return {GgufLayout::Same, shape[0], shape.size() > 1 ? shape[1] : 1};
  }
  std::uint64_t piece(std::size_t) const override { return 1; }
  void read(std::size_t index, std::uint64_t first, std::uint64_t count, float* out) const override {
    const bool is_gain = tensors_[index].name.find("norm") != std::string::npos || tensors_[index].name.find("ln_") != std::string::npos;
    for (std::uint64_t i = 0; i < count; ++i)
      out[i] = (is_gain ? 1.0f : 0.0f) + 0.5f * (static_cast<float>(test::fixed_bits(index, first + i) >> 40) / static_cast<float>(1 << 24) - 0.5f);
  }
};

ModelConfig llama() {
  ModelConfig config;
  config.model_type = "qwen2";
  config.layers = 3, config.width = 32, config.heads = 4, config.kv_heads = 2, config.head_width = 8, config.inner_width = 44, config.context = 32, config.vocab_size = 19;
  config.ties_head = false, config.qkv_bias = true;
  config.slides = {false, false, false};
  return config;
}
std::vector<ModelConfig> families() { return {llama(), fresh_gpt2(3, 24, 3, 32, 19, 18)}; }

constexpr int kBatch = 2, kLength = 9;

void set_inputs(graph::Executor& executor) {
  std::mt19937 random(8);
  std::vector<std::int32_t> tokens, positions, segments, targets;
  for (int i = 0; i < kBatch * kLength; ++i) {
    tokens.push_back(static_cast<std::int32_t>(random() % 19));
    targets.push_back(i % 7 == 0 ? -1 : static_cast<std::int32_t>(random() % 19));
    positions.push_back(i % kLength % 5);
    segments.push_back(i % kLength / 5);
  }
  executor.set_input("tokens", tokens.data());
  executor.set_input("positions", positions.data());
  executor.set_input("segments", segments.data());
  executor.set_input("targets", targets.data());
}

Tuning tuning(bool is_quantized, bool is_weight_decomposed, double dropout = 0) {
  AdapterOptions adapters;
  adapters.rank = 3, adapters.alpha = 6, adapters.dropout = dropout, adapters.is_weight_decomposed = is_weight_decomposed, adapters.targets = {"all-linear"};
  return {adapters, is_quantized};
}

struct Loaded {
  Loaded(const ModelConfig& config, const Tuning& tuned, backend::Backend& device, graph::DType type = graph::DType::F32)
      : source(config), graph(build_model(config, tuned, type, kBatch, kLength)), store(graph, device, graph::Mode::Train) {
    load_weights(source, tuned, 3, store, {});
  }
  Floats losses() {
    graph::Executor executor(graph, store, graph::Mode::Evaluate);
    set_inputs(executor);
    executor.forward();
    Floats out;
    executor.download_losses(out);
    return out;
  }
  DrawnSource source;
  graph::Graph graph;
  graph::ParameterStore store;
};

void expect_near(const Floats& got, const Floats& want, double bar) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], bar * (1 + std::abs(want[i]))) << i;
}

TEST(Tuning, FourBitsAreForTheLinearLayersOfBlocks) {
  const auto device = backend::open("cpu", {.threads = 2});
  for (const ModelConfig& config : families()) {
    Loaded loaded(config, tuning(true, false), *device);
    std::map<std::string, const graph::Parameter*> frozen;
    for (const graph::Parameter& parameter : loaded.store.frozen()) frozen[parameter.name] = &parameter;
    for (const ModelWeight& weight : model_weights(config)) {
      const graph::Parameter& parameter = *frozen.at(weight.name);
      const bool is_narrow = weight.is_linear && weight.shape.size() == 2;
      EXPECT_EQ(parameter.storage == graph::Storage::Nf4, is_narrow) << weight.name;
      // Each tensor of the checkpoint by itself; of GPT-2 as [out, in], which is how its layers are quantised elsewhere.
      Floats want;
      for (const TensorPart& part : weight.parts) {
        Floats values = loaded.source.values(part.name);
        const auto count = static_cast<std::int64_t>(values.size());
        if (is_narrow) {
          const auto rows = static_cast<std::size_t>(weight.shape[0]), columns = static_cast<std::size_t>(weight.shape[1]);
          Floats turned(values);
          if (weight.is_in_out)
            for (std::size_t i = 0; i < values.size(); ++i) turned[i % columns * rows + i / columns] = values[i];
          const Floats narrow = backend::nf4_values(backend::nf4_quantize(turned.data(), count), count);
          values = narrow;
          if (weight.is_in_out)
            for (std::size_t i = 0; i < values.size(); ++i) values[i] = narrow[i % columns * rows + i / columns];
        }
        want.insert(want.end(), values.begin(), values.end());
      }
      EXPECT_EQ(loaded.store.frozen_values(parameter), want) << weight.name;
    }
    // The same numbers in full precision give the same model.
    Loaded plain(config, tuning(false, false), *device);
    for (const graph::Parameter& parameter : plain.store.frozen()) plain.store.upload_frozen(parameter, loaded.store.frozen_values(*frozen.at(parameter.name)).data());
    expect_near(loaded.losses(), plain.losses(), 1e-5);
  }
}

TEST(Tuning, DecomposedAdaptersBeginAsNothing) {
  const auto device = backend::open("cpu", {.threads = 2});
  for (const ModelConfig& config : families())
    for (const bool is_quantized : {false, true}) {
      Loaded lora(config, tuning(is_quantized, false), *device), dora(config, tuning(is_quantized, true, 0.1), *device);
      expect_near(dora.losses(), lora.losses(), 1e-5);
      Floats weights(static_cast<std::size_t>(dora.store.count()));
      dora.store.download_weights(weights.data());
      std::size_t magnitudes = 0;
      for (const graph::Parameter& parameter : dora.store.parameters()) {
        if (parameter.name.find(".lora_magnitude_vector") == std::string::npos) continue;
        ++magnitudes;
        for (std::int64_t i = 0; i < parameter.count; ++i) EXPECT_GT(weights[static_cast<std::size_t>(parameter.offset + i)], 0.0f);
        // Longer weights are other weights.
        for (std::int64_t i = 0; i < parameter.count; ++i) weights[static_cast<std::size_t>(parameter.offset + i)] *= 1.1f;
      }
      EXPECT_EQ(magnitudes, adapter_specs(config, *tuning(false, true).adapters).size());
      dora.store.upload_weights(weights.data());
      EXPECT_NE(dora.losses(), lora.losses());
    }
}

TEST(Tuning, WhatIsForgottenIsComputedAgainToTheSameBits) {
  const auto device = backend::open("cpu", {.threads = 2});
  for (const ModelConfig& config : families())
    for (const Tuning& tuned : {Tuning{}, tuning(false, false, 0.2), tuning(true, true, 0.2)}) {
      Loaded loaded(config, tuned, *device, graph::DType::Bf16);
      std::vector<Floats> gradients;
      std::vector<std::uint64_t> bytes;
      for (const graph::Recompute recompute : {graph::Recompute::None, graph::Recompute::Cheap, graph::Recompute::Blocks}) {
        graph::Executor executor(loaded.graph, loaded.store, graph::Mode::Train, recompute);
        set_inputs(executor);
        executor.set_dropout(5, 9);
        loaded.store.zero_gradients();
        executor.forward_backward(1.0f);
        gradients.emplace_back(static_cast<std::size_t>(loaded.store.count()));
        loaded.store.download_gradients(gradients.back().data());
        bytes.push_back(executor.arena_bytes());
        EXPECT_EQ(plan_memory(loaded.graph, graph::Mode::Train, *device, {}, recompute).activation_bytes, bytes.back());
      }
      EXPECT_EQ(gradients[0], gradients[1]);
      EXPECT_EQ(gradients[0], gradients[2]);
      EXPECT_LT(bytes[1], bytes[0]);
      EXPECT_LT(bytes[2], bytes[1]);
      EXPECT_LT(bytes[2], bytes[0] * 8 / 10);
    }
}

}  // namespace
}  // namespace pgtrain::engine::models
