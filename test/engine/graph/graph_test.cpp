// The compiled graph: gradients where values meet and part again (the plan shares and reuses buffers there), planned bytes
// against held bytes, equal bits of equal runs, and shapes that are refused.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "../exact_gradients.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/plan.hpp"
#include "engine/train/measured_backend.hpp"
#include "engine/train/optimizer.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::graph {
namespace {

constexpr std::int64_t kRows = 12, kWidth = 48, kVocabulary = 11;

// Residuals that are used twice, a sum of a value with itself, a norm whose sum lives on, a table that is also the head.
Graph tangled(DType type) {
  Builder b(type);
  const Value table = b.parameter("table", {kVocabulary, kWidth}, true);
  const auto linear = [&](const std::string& name, Value x, Activation activation) {
    const Value weight = b.parameter(name + ".weight", {kWidth, kWidth}, true), bias = b.parameter(name + ".bias", {kWidth}, false);
    return b.linear(x, weight, bias, activation);
  };
  const Value gain = b.parameter("gain", {kWidth}, false), shift = b.parameter("shift", {kWidth}, false);
  const Value gain2 = b.parameter("gain2", {kWidth}, false), shift2 = b.parameter("shift2", {kWidth}, false);
  const Value x = b.embedding(table, b.input("ids", kRows));
  const Value z = b.add(x, linear("first", x, Activation::None));
  const Value doubled = b.add(z, z);
  const Value meeting = b.add(linear("left", doubled, Activation::Gelu), linear("right", doubled, Activation::None));
  const auto [sum, norm] = b.add_layer_norm(meeting, doubled, gain, shift, 1e-5f);
  const Value packed_weight = b.parameter("qkv.weight", {kWidth, 3 * kWidth}, true), packed_bias = b.parameter("qkv.bias", {3 * kWidth}, false);
  const Value mixed = b.attention(b.linear(norm, packed_weight, packed_bias), b.input("segments", kRows), 2, kRows / 2, {2, 2, kWidth / 2});
  const Value last = b.layer_norm(b.add(b.add(mixed, sum), z), gain2, shift2, 1e-5f);
  b.linear_cross_entropy(last, table, b.input("targets", kRows));
  return std::move(b).finish();
}

std::vector<float> random_weights(const Graph& graph, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 0.2f);
  std::vector<float> weights(static_cast<std::size_t>(graph.parameter_count()));
  for (float& w : weights) w = normal(random);
  return weights;
}

void set_inputs(Executor& executor, std::mt19937& random) {
  std::vector<std::int32_t> ids(kRows), targets(kRows), segments(kRows);
  for (std::size_t i = 0; i < kRows; ++i) {
    ids[i] = static_cast<std::int32_t>(random() % kVocabulary);
    targets[i] = i % 5 == 3 ? -1 : static_cast<std::int32_t>(random() % kVocabulary);
    segments[i] = i % 6 < 4 ? 0 : 1;
  }
  executor.set_input("ids", ids.data());
  executor.set_input("targets", targets.data());
  executor.set_input("segments", segments.data());
}

double loss_at(ParameterStore& store, Executor& executor, const std::vector<float>& weights, const std::vector<double>& direction, double step) {
  std::vector<float> moved(weights);
  for (std::size_t i = 0; i < moved.size(); ++i) moved[i] = static_cast<float>(static_cast<double>(moved[i]) + step * direction[i]);
  store.upload_weights(moved.data());
  executor.forward();
  return executor.loss_sum();
}

void check_directions(backend::Backend& backend, unsigned seed) {
  std::mt19937 random(seed);
  const Graph graph = tangled(DType::F32);
  ParameterStore store(graph, backend, Mode::Train);
  Executor executor(graph, store, Mode::Train);
  set_inputs(executor, random);
  const std::vector<float> weights = random_weights(graph, random);
  store.upload_weights(weights.data());
  executor.forward_backward(1.0f);
  std::vector<float> gradient(weights.size());
  store.download_gradients(gradient.data());
  for (int round = 0; round < 8; ++round) {
    std::normal_distribution<double> normal;
    std::vector<double> direction(weights.size());
    double along = 0, size = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      // Mostly along the gradient, so that the derivative is large against float's rounding.
      direction[i] = static_cast<double>(gradient[i]) + 0.5 * normal(random) * std::abs(static_cast<double>(gradient[i]));
      size += direction[i] * direction[i];
    }
    for (std::size_t i = 0; i < direction.size(); ++i) {
      direction[i] /= std::sqrt(size);
      along += direction[i] * static_cast<double>(gradient[i]);
    }
    const auto central = [&](double step) { return (loss_at(store, executor, weights, direction, step) - loss_at(store, executor, weights, direction, -step)) / (2 * step); };
    const double difference = (4 * central(2e-3) - central(4e-3)) / 3;  // Richardson: without the cubic term
    EXPECT_NEAR(along, difference, 2e-3 * std::abs(along)) << backend.info().description << " seed " << seed << " round " << round;
  }
}

TEST(Graph, ExactGradientsOfTangledValuesEqualDifferences) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const Graph graph = tangled(DType::F32);
  const std::vector<float> weights = random_weights(graph, random);
  expect_exact_gradients(graph, weights, [&](Executor& executor) {
    std::mt19937 same(seed);
    set_inputs(executor, same);
  }, random);
}

// Frozen weights with adapters: two beside one packed projection, one that reads something else than the projection does, one whose
// input needs no gradient, a frozen norm and a frozen head; and one projection that trains whole.
Graph adapted(DType type) {
  Builder b(type);
  const Value table = b.frozen("table", {kVocabulary, kWidth}), head = b.frozen("head", {kVocabulary, kWidth});
  const Value gain = b.frozen("gain", {kWidth}), shift = b.frozen("shift", {kWidth});
  const auto adapter = [&](const std::string& name, std::int64_t in, std::int64_t out, std::int64_t column, float scale) {
    return Builder::Adapter{b.parameter(name + ".down", {3, in}, true), b.parameter(name + ".up", {out, 3}, true), column, scale};
  };
  const Value x = b.embedding(table, b.input("ids", kRows));
  const Value first = b.layer_norm(x, gain, shift, 1e-5f);
  const Value packed = b.projection(first, b.frozen("packed", {2 * kWidth + 5, kWidth}), b.frozen("packed.bias", {2 * kWidth + 5}), {},
                                    {adapter("left", kWidth, kWidth, 0, 0.5f), adapter("right", kWidth, 7, kWidth + 1, 2.0f)});
  const Value narrow = b.projection(packed, b.parameter("narrow", {kWidth, 2 * kWidth + 5}, true), b.parameter("narrow.bias", {kWidth}, false));
  const auto [sum, norm] = b.add_layer_norm(narrow, x, gain, shift, 1e-5f);
  const Value other = b.add(norm, narrow);
  const Value last = b.projection(norm, b.frozen("last", {kWidth, kWidth}), {}, other, {adapter("aside", kWidth, kWidth, 0, 1.0f)});
  const Value mixed = b.attention(b.projection(last, b.frozen("qkv", {3 * kWidth, kWidth}), {}), b.input("segments", kRows), 2, kRows / 2, {2, 2, kWidth / 2});
  b.linear_cross_entropy(b.add(mixed, sum), head, b.input("targets", kRows));
  return std::move(b).finish();
}

TEST(Graph, ExactGradientsOfAdaptersEqualDifferences) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const Graph graph = adapted(DType::F32);
  expect_exact_gradients(graph, random_weights(graph, random), [&](Executor& executor) {
    std::mt19937 same(seed);
    set_inputs(executor, same);
  }, random);
}

// A block as Llama's families have them: root-mean-square norms, heads that share keys, each normed by itself and turned, a window,
// gates, and dropout in front of adapters. The turned projection is read twice, so it cannot be turned where it lies.
Graph modern(DType type, bool is_read_twice, float rate) {
  Builder b(type);
  const Builder::Heads heads{4, 2, 6};
  std::vector<float> angles;
  for (int position = 0; position < 7; ++position) {
    for (int i = 0; i < 3; ++i) angles.push_back(std::cos(static_cast<float>(position) / static_cast<float>(1 + i)));
    for (int i = 0; i < 3; ++i) angles.push_back(std::sin(static_cast<float>(position) / static_cast<float>(1 + i)));
  }
  const Value table = b.parameter("table", {kVocabulary, kWidth}, true), turns = b.constant(7, heads.head_size, angles);
  const Value gain = b.parameter("gain", {kWidth}, false), gain2 = b.parameter("gain2", {kWidth}, false);
  const Value x = b.embedding(table, b.input("ids", kRows));
  const Value first = b.rms_norm(x, gain, 1e-5f), dropped = b.dropout(first, rate);
  const Builder::Adapter adapter{b.parameter("down", {2, kWidth}, true), b.parameter("up", {heads.columns(), 2}, true), 0, 0.7f};
  const Value qkv = b.projection(first, b.parameter("qkv", {heads.columns(), kWidth}, true), b.parameter("qkv.bias", {heads.columns()}, false), dropped, {adapter});
  const Value normed = b.head_norm(qkv, b.parameter("q_gain", {heads.head_size}, false), b.parameter("k_gain", {heads.head_size}, false), heads, 1e-6f);
  const Value turned = b.rope(normed, b.input("positions", kRows), turns, heads);
  const Value mixed = b.attention(turned, b.input("segments", kRows), 2, kRows / 2, heads, 3);
  Value branch = b.projection(mixed, b.parameter("out", {kWidth, 24}, true), {});
  if (is_read_twice) branch = b.add(branch, b.projection(normed, b.parameter("aside", {kWidth, heads.columns()}, true), {}));
  const auto [sum, norm] = b.add_rms_norm(x, branch, gain2, 1e-5f);
  const Value hidden = b.swiglu(b.projection(norm, b.parameter("gate_up", {20, kWidth}, true), {}));
  const Value last = b.add(sum, b.dropout(b.projection(hidden, b.parameter("down_proj", {kWidth, 10}, true), {}), rate));
  b.linear_cross_entropy(last, table, b.input("targets", kRows));
  return std::move(b).finish();
}

TEST(Graph, ExactGradientsOfAModernBlockEqualDifferences) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (const bool is_read_twice : {false, true}) {
    const Graph graph = modern(DType::F32, is_read_twice, 0.0f);
    expect_exact_gradients(graph, random_weights(graph, random), [&](Executor& executor) {
      std::mt19937 same(seed);
      set_inputs(executor, same);
      std::vector<std::int32_t> positions(kRows);
      for (std::int32_t i = 0; i < kRows; ++i) positions[static_cast<std::size_t>(i)] = i % 6 < 4 ? i % 6 : i % 6 - 4;
      executor.set_input("positions", positions.data());
    }, random);
  }
}

TEST(Graph, FrozenWeightsTakeNoGradientsAndNoMoments) {
  const auto cpu = backend::open("cpu");
  for (const DType type : {DType::F32, DType::Bf16}) {
    const Graph graph = adapted(type);
    const MemoryUse use = plan_memory(graph, Mode::Train, *cpu, train::optimizer_memory(graph, {}, *cpu));
    const auto trained = static_cast<std::uint64_t>(graph.parameter_count()), frozen = static_cast<std::uint64_t>(graph.frozen_count());
    EXPECT_GT(frozen, trained);
    EXPECT_EQ(use.gradient_bytes, trained * 4);
    EXPECT_LE(use.optimizer_bytes, trained * 8 + 512);
    EXPECT_EQ(use.weight_bytes, type == DType::Bf16 ? trained * 4 + frozen * 2 : (trained + frozen) * 4);
  }
}

TEST(Graph, GradientsOfTangledValuesEqualDifferences) {
  const unsigned seed = test::seed();
  const auto cpu = backend::open("cpu");
  check_directions(*cpu, seed);
}

TEST(Graph, GradientsAddUpOverMicroBatches) {
  std::mt19937 random(test::seed());
  const auto cpu = backend::open("cpu");
  const Graph graph = tangled(DType::F32);
  ParameterStore store(graph, *cpu, Mode::Train);
  Executor executor(graph, store, Mode::Train);
  set_inputs(executor, random);
  store.upload_weights(random_weights(graph, random).data());
  std::vector<float> once(static_cast<std::size_t>(store.count())), twice(once);
  executor.forward_backward(1.0f);
  store.download_gradients(once.data());
  executor.forward_backward(1.0f);
  store.download_gradients(twice.data());
  double norm = 0;
  for (std::size_t i = 0; i < once.size(); ++i) {
    EXPECT_NEAR(twice[i], 2 * once[i], 1e-4 * (1 + std::abs(once[i])));
    norm += static_cast<double>(once[i]) * static_cast<double>(once[i]);
  }
  EXPECT_GT(norm, 0);
}

TEST(Graph, EqualRunsGiveEqualBits) {
  for (const DType type : {DType::F32, DType::Bf16}) {
    const unsigned seed = test::seed();
    std::vector<std::vector<float>> gradients;
    for (int run = 0; run < 2; ++run) {
      std::mt19937 random(seed);
      const auto cpu = backend::open("cpu", {.threads = 2});
      const Graph graph = tangled(type);
      ParameterStore store(graph, *cpu, Mode::Train);
      Executor executor(graph, store, Mode::Train);
      set_inputs(executor, random);
      store.upload_weights(random_weights(graph, random).data());
      executor.forward_backward(0.1f);
      gradients.emplace_back(static_cast<std::size_t>(store.count()));
      store.download_gradients(gradients.back().data());
    }
    EXPECT_EQ(0, std::memcmp(gradients[0].data(), gradients[1].data(), gradients[0].size() * sizeof(float))) << core::name_of(type);
  }
}

TEST(Plan, BuffersThatLiveTogetherLieApart) {
  const Graph graph = tangled(DType::F32);
  for (const Mode mode : {Mode::Train, Mode::Evaluate}) {
    const ExecutionPlan plan = compile(graph, mode);
    std::uint64_t together = 0;
    for (std::size_t a = 0; a < plan.buffers.size(); ++a)
      for (std::size_t b = 0; b < a; ++b) {
        const Buffer &x = plan.buffers[a], &y = plan.buffers[b];
        if (x.last < 0 || y.last < 0 || x.first > y.last || y.first > x.last) continue;
        ++together;
        EXPECT_TRUE(x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset) << a << " and " << b;
      }
    EXPECT_GT(together, 10u);
    std::uint64_t all = 0;
    for (const Buffer& buffer : plan.buffers) all += buffer.last < 0 ? 0 : buffer.bytes;
    EXPECT_LT(plan.arena_bytes, all) << "nothing is reused";
  }
}

TEST(Plan, PredictsTheBytesThatAreHeld) {
  // The older kernels have no bf16 products and widen the operands in memory of their own.
  for (const auto& [type, set] : {std::pair{DType::F32, ""}, {DType::Bf16, ""}, {DType::Bf16, "x86-64-v2"}}) {
    const auto cpu = backend::open("cpu", {.threads = 2, .instruction_set = set});
    train::MeasuredBackend measured(*cpu);
    const Graph graph = tangled(type);
    const std::uint64_t planned = plan_memory(graph, Mode::Train, *cpu).total();
    ParameterStore store(graph, measured, Mode::Train);
    Executor executor(graph, store, Mode::Train);
    std::mt19937 random(1);
    set_inputs(executor, random);
    store.upload_weights(random_weights(graph, random).data());
    executor.forward_backward(1.0f);
    EXPECT_LE(measured.peak_bytes(), planned + 256) << core::name_of(type);
    EXPECT_GE(static_cast<double>(measured.peak_bytes()), 0.95 * static_cast<double>(planned)) << core::name_of(type);
  }
}

// The backend's own count of what it gave, by a limit: just enough, and a little less.
TEST(Plan, IsWhatTheBackendGives) {
  for (const auto& [type, set] : {std::pair{DType::F32, ""}, {DType::Bf16, ""}, {DType::Bf16, "x86-64-v2"}}) {
    const Graph graph = tangled(type);
    const auto any = backend::open("cpu", {.threads = 2, .instruction_set = set});
    const std::uint64_t needed = plan_memory(graph, Mode::Train, *any).total() - any->workspace_bytes();
    const auto runs_within = [&, type = type, set = set](std::uint64_t limit) {
      const auto cpu = backend::open("cpu", {.threads = 2, .memory_limit_bytes = limit, .instruction_set = set});
      try {
        ParameterStore store(graph, *cpu, Mode::Train);
        Executor executor(graph, store, Mode::Train);
        std::mt19937 random(1);
        set_inputs(executor, random);
        store.upload_weights(random_weights(graph, random).data());
        executor.forward_backward(1.0f);
        return true;
      } catch (const core::Error& error) {
        EXPECT_EQ(error.code, "out_of_memory") << error.message;
        return false;
      }
    };
    EXPECT_TRUE(runs_within(needed + 4096)) << core::name_of(type) << " " << set;
    EXPECT_FALSE(runs_within(needed - 4096)) << core::name_of(type) << " " << set;
  }
  const auto old = backend::open("cpu", {.threads = 2, .instruction_set = "x86-64-v2"});
  EXPECT_GT(plan_memory(tangled(DType::Bf16), Mode::Train, *old).workspace_bytes, plan_memory(tangled(DType::F32), Mode::Train, *old).workspace_bytes);
}

TEST(Builder, RefusesShapesThatDoNotFit) {
  Builder b(DType::F32);
  const Value table = b.parameter("table", {5, 4}, true), other = b.parameter("other", {3, 4}, true), bias = b.parameter("bias", {4}, false);
  const Value x = b.embedding(table, b.input("ids", 6));
  EXPECT_THROW(b.linear(x, other, bias), core::Error);
  EXPECT_THROW(b.attention(x, {}, 2, 3, {3, 3, 16}), core::Error);
  EXPECT_THROW(b.linear_cross_entropy(x, table, b.input("targets", 5)), core::Error);
  EXPECT_THROW(b.parameter("empty", {0, 4}, false), core::Error);
  EXPECT_THROW(b.add(x, Value{99}), core::Error);
}

}  // namespace
}  // namespace pgtrain::engine::graph
