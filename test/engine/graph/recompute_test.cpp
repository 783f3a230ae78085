// What is forgotten and computed again, cheaply or in whole blocks: the same bits in less memory, with every kind of operation between,
// dropout that drops alike, weights in 4 bits and decomposed adapters; lifetimes that do not meet, planned against held bytes. And
// the same of gradients that share their memory with what the backward is done with.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "../exact_gradients.hpp"
#include "engine/backend/devices.hpp"
#include "engine/graph/plan.hpp"
#include "engine/train/measured_backend.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::graph {
namespace {

using Floats = std::vector<float>;
constexpr std::int64_t kRows = 24, kWidth = 32, kVocabulary = 11;
constexpr int kBlocks = 4;
constexpr Recompute kLevels[] = {Recompute::Cheap, Recompute::Blocks};

enum class Kind { Llama, Gpt, Adapted };

struct Describer {
  Describer(Kind kind_in, DType type) : kind(kind_in), b(type) {
    for (int position = 0; position < 12; ++position)
      for (int i = 0; i < 8; ++i) {
        const float angle = static_cast<float>(position) / static_cast<float>(1 + i % 4);
        angles.push_back(i < 4 ? std::cos(angle) : std::sin(angle));
      }
  }
  Value weight(const std::string& name, std::int64_t rows, std::int64_t columns) {
    return kind == Kind::Adapted ? b.frozen(name, {rows, columns}, Storage::Nf4, {rows}) : b.parameter(name, {rows, columns}, true);
  }
  Value vector(const std::string& name, std::int64_t width) { return kind == Kind::Adapted ? b.frozen(name, {width}) : b.parameter(name, {width}, false); }
  Value projection(Value x, const std::string& name, std::int64_t in, std::int64_t out, Activation activation = Activation::None) {
    std::vector<Builder::Adapter> adapters;
    Value read;
    if (kind == Kind::Adapted) {
      adapters.push_back({b.parameter(name + ".down", {2, in}, true), b.parameter(name + ".up", {out - 3, 2}, true), 1, 0.5f, b.parameter(name + ".magnitude", {out - 3}, true)});
      read = b.dropout(x, 0.3f);
    }
    if (kind == Kind::Gpt) return b.linear(x, weight(name, in, out), vector(name + ".bias", out), activation);
    return b.projection(x, weight(name, out, in), {}, read, adapters);
  }
  // Residuals, turned heads that are normed one by one, gates; or gelus. Each block ends with its successor's first norm.
  Graph describe() {
    const Builder::Heads heads{4, kind == Kind::Gpt ? 4 : 2, 8};
    const Value table = b.parameter("table", {kVocabulary, kWidth}, true), turns = b.constant(12, 8, angles);
    const Value positions = kind == Kind::Gpt ? Value{} : b.input("positions", kRows), segments = b.input("segments", kRows);
    const float epsilon = 1e-5f;
    const auto norm = [&](const std::string& name, Value a, Value second) {
      const Value gain = vector(name, kWidth);
      if (kind == Kind::Gpt) return b.add_layer_norm(a, second, gain, vector(name + ".bias", kWidth), epsilon);
      return b.add_rms_norm(a, second, gain, epsilon);
    };
    Value stream = b.embedding(table, b.input("ids", kRows));
    Value normed = kind == Kind::Gpt ? b.layer_norm(stream, vector("first", kWidth), vector("first.bias", kWidth), epsilon) : b.rms_norm(stream, vector("first", kWidth), epsilon);
    for (int block = 0; block < kBlocks; ++block) {
      b.begin_block(block);
      const std::string name = std::to_string(block) + ".";
      Value qkv = projection(normed, name + "qkv", kWidth, heads.columns());
      if (kind != Kind::Gpt) {
        if (block % 2 == 0) qkv = b.head_norm(qkv, vector(name + "q", 8), vector(name + "k", 8), heads, epsilon);
        qkv = b.rope(qkv, positions, turns, heads);
      }
      auto joined = norm(name + "middle", stream, projection(b.attention(qkv, segments, 2, kRows / 2, heads), name + "o", kWidth, kWidth));
      Value hidden = projection(joined.norm, name + "up", kWidth, 4 * kWidth, Activation::Gelu);
      if (kind != Kind::Gpt) hidden = b.swiglu(hidden);
      joined = norm(name + "end", joined.sum, projection(hidden, name + "down", kind == Kind::Gpt ? 4 * kWidth : 2 * kWidth, kWidth));
      stream = joined.sum, normed = joined.norm;
    }
    b.begin_block(-1);
    b.linear_cross_entropy(normed, table, b.input("targets", kRows));
    return std::move(b).finish();
  }
  Kind kind;
  Builder b;
  Floats angles;
};
Graph model(Kind kind, DType type) { return Describer(kind, type).describe(); }

void set_inputs(Executor& executor, const Graph& graph, unsigned seed) {
  std::mt19937 random(seed);
  for (const Input& input : graph.inputs) {
    std::vector<std::int32_t> values;
    for (std::int32_t i = 0; i < kRows; ++i)
      values.push_back(input.name == "segments" ? i % 12 / 7 : input.name == "positions" ? i % 12 % 7 : static_cast<std::int32_t>(random() % kVocabulary));
    executor.set_input(input.name, values.data());
  }
}

struct Result {
  Floats losses, gradients;
};
Result result_of(const Graph& graph, backend::Backend& device, Recompute recompute, unsigned seed) {
  ParameterStore store(graph, device, Mode::Train);
  upload_random_frozen(store);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.2f);
  Floats weights(static_cast<std::size_t>(store.count()));
  for (float& w : weights) w = normal(random);
  store.upload_weights(weights.data());
  store.zero_gradients();
  Executor executor(graph, store, Mode::Train, recompute);
  set_inputs(executor, graph, seed);
  Result result{{}, Floats(static_cast<std::size_t>(store.count()))};
  for (std::uint64_t draw = 0; draw < 2; ++draw) {
    executor.forward();  // what one run leaves behind is nothing to the next
    executor.set_dropout(seed, draw);
    executor.forward_backward(0.5f);
  }
  executor.download_losses(result.losses);
  store.download_gradients(result.gradients.data());
  return result;
}

TEST(Recompute, GivesTheSameBits) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  const auto device = backend::open("cpu", {.threads = 2});
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const DType type : {DType::F32, DType::Bf16}) {
      const Graph graph = model(kind, type);
      const Result whole = result_of(graph, *device, Recompute::None, seed);
      for (const Recompute level : kLevels) {
        SCOPED_TRACE(static_cast<int>(level));
        const Result again = result_of(graph, *device, level, seed);
        EXPECT_EQ(whole.losses, again.losses);
        EXPECT_EQ(0, std::memcmp(whole.gradients.data(), again.gradients.data(), whole.gradients.size() * sizeof(float))) << static_cast<int>(kind) << " " << core::name_of(type);
      }
      double norm = 0;
      for (const float g : whole.gradients) norm += static_cast<double>(g) * static_cast<double>(g);
      EXPECT_GT(norm, 0);
      EXPECT_TRUE(std::isfinite(norm));
    }
}

// Of at least a row of the width for each token, what is there between the forward and the first step back.
std::size_t kept_between(const ExecutionPlan& plan) {
  std::int32_t first_back = 0;
  while (plan.steps[static_cast<std::size_t>(first_back)].kind == Step::Kind::Forward && plan.steps[static_cast<std::size_t>(first_back)].again == Again::No) ++first_back;
  return static_cast<std::size_t>(std::count_if(plan.buffers.begin(), plan.buffers.end(), [&](const Buffer& buffer) {
    return buffer.first < first_back && buffer.last >= first_back && buffer.bytes >= kRows * kWidth * 4;
  }));
}

TEST(Recompute, KeepsOnlyTheSumThatLeavesABlock) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted}) {
    const Graph graph = model(kind, DType::F32);
    const ExecutionPlan whole = compile(graph, Mode::Train), again = compile(graph, Mode::Train, Recompute::Blocks);
    EXPECT_LT(again.arena_bytes, whole.arena_bytes * 6 / 10) << static_cast<int>(kind);
    EXPECT_EQ(compile(graph, Mode::Evaluate, Recompute::Blocks).arena_bytes, compile(graph, Mode::Evaluate).arena_bytes);
    // Besides them what the first block reads and the last one's gradient.
    EXPECT_LE(kept_between(again), kBlocks + 3u) << static_cast<int>(kind);
    std::size_t repeated = 0;
    for (const Step& step : again.steps) repeated += step.again != Again::No;
    EXPECT_GE(repeated, 4u * kBlocks - 4) << static_cast<int>(kind);
  }
}

// Of a block its two sums, the heads, what they attended to and the gates or what the gelu read; of a decomposed projection, of which
// there are four, what is scaled as well.
TEST(Recompute, CheapKeepsProductsAndSums) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted}) {
    const Graph graph = model(kind, DType::F32);
    const ExecutionPlan whole = compile(graph, Mode::Train), cheap = compile(graph, Mode::Train, Recompute::Cheap), blocks = compile(graph, Mode::Train, Recompute::Blocks);
    EXPECT_LT(cheap.arena_bytes, whole.arena_bytes) << static_cast<int>(kind);
    EXPECT_LT(blocks.arena_bytes, cheap.arena_bytes) << static_cast<int>(kind);
    EXPECT_EQ(compile(graph, Mode::Evaluate, Recompute::Cheap).arena_bytes, compile(graph, Mode::Evaluate).arena_bytes);
    const std::size_t kept = kept_between(cheap), each = kind == Kind::Adapted ? 9 : 5;
    EXPECT_GE(kept, each * kBlocks) << static_cast<int>(kind);
    EXPECT_LE(kept, each * kBlocks + 3) << static_cast<int>(kind);
    for (const Step& step : cheap.steps) {
      if (step.again == Again::No) continue;
      const OpKind ran = graph.nodes[static_cast<std::size_t>(step.node)].kind;
      EXPECT_TRUE(ran != OpKind::Attention && ran != OpKind::Embedding && ran != OpKind::LinearCrossEntropy) << static_cast<int>(ran);
      EXPECT_TRUE(ran != OpKind::Linear || step.again == Again::Part) << "a product is made twice";
    }
  }
}

TEST(Recompute, BuffersThatLiveTogetherLieApart) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const Recompute level : kLevels) {
      const ExecutionPlan plan = compile(model(kind, DType::Bf16), Mode::Train, level);
      for (std::size_t a = 0; a < plan.buffers.size(); ++a)
        for (std::size_t b = 0; b < a; ++b) {
          const Buffer &x = plan.buffers[a], &y = plan.buffers[b];
          if (x.last < 0 || y.last < 0 || x.first > y.last || y.first > x.last) continue;
          EXPECT_TRUE(x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset) << a << " and " << b;
        }
    }
}

// Poisoned memory: whatever is read before it is written shows.
TEST(Recompute, ReadsNothingThatWasForgotten) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const Recompute level : kLevels) {
      NaiveBackend device;
      const Graph graph = model(kind, DType::F32);
      const Result result = result_of(graph, device, level, 5);
      for (const float g : result.gradients) ASSERT_TRUE(std::isfinite(g)) << static_cast<int>(kind);
    }
}

TEST(Recompute, TakesWhatIsPlanned) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const DType type : {DType::F32, DType::Bf16})
      for (const Recompute level : kLevels) {
        const auto device = backend::open("cpu", {.threads = 2});
        train::MeasuredBackend measured(*device);
        const Graph graph = model(kind, type);
        const std::uint64_t planned = plan_memory(graph, Mode::Train, *device, {}, level).total();
        EXPECT_LT(planned, plan_memory(graph, Mode::Train, *device).total());
        result_of(graph, measured, level, 3);
        EXPECT_LE(measured.peak_bytes(), planned + 256);
        EXPECT_GE(static_cast<double>(measured.peak_bytes()), 0.95 * static_cast<double>(planned));
      }
}

// Of the second of two micro-batches alone.
Result last_of(const Graph& graph, backend::Backend& device, Recompute recompute, Gradients gradients, unsigned seed) {
  ParameterStore store(graph, device, Mode::Train, gradients);
  upload_random_frozen(store);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.2f);
  Floats weights(static_cast<std::size_t>(store.count()));
  for (float& w : weights) w = normal(random);
  store.upload_weights(weights.data());
  Executor executor(graph, store, Mode::Train, recompute, gradients);
  Result result{{}, Floats(weights.size())};
  for (std::uint64_t draw = 0; draw < 2; ++draw) {
    set_inputs(executor, graph, seed + static_cast<unsigned>(draw));
    executor.set_dropout(seed, draw);
    executor.forward();
    if (gradients == Gradients::Added) store.zero_gradients();
    executor.forward_backward(0.5f);
  }
  executor.download_losses(result.losses);
  store.download_gradients(result.gradients.data());
  return result;
}

TEST(SharedGradients, AreTheSameBits) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  const auto device = backend::open("cpu", {.threads = 2});
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const DType type : {DType::F32, DType::Bf16})
      for (const Recompute recompute : {Recompute::None, Recompute::Cheap, Recompute::Blocks}) {
        const Graph graph = model(kind, type);
        const Result own = last_of(graph, *device, recompute, Gradients::Added, seed), shared = last_of(graph, *device, recompute, Gradients::Replaced, seed);
        EXPECT_EQ(own.losses, shared.losses);
        EXPECT_EQ(0, std::memcmp(own.gradients.data(), shared.gradients.data(), own.gradients.size() * sizeof(float))) << static_cast<int>(kind) << " " << core::name_of(type);
        double norm = 0;
        for (const float g : own.gradients) norm += static_cast<double>(g) * static_cast<double>(g);
        EXPECT_GT(norm, 0);
      }
}

TEST(SharedGradients, LieApartFromWhatLivesWithThem) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted}) {
    const Graph graph = model(kind, DType::Bf16);
    const ExecutionPlan plan = compile(graph, Mode::Train, Recompute::None, Gradients::Replaced);
    std::uint64_t gradients = 0, together = 0;
    for (std::size_t a = 0; a < plan.buffers.size(); ++a) {
      const Buffer& x = plan.buffers[a];
      gradients += x.is_placed ? x.bytes : 0;
      for (std::size_t b = 0; b < a; ++b) {
        const Buffer& y = plan.buffers[b];
        if (x.last < 0 || y.last < 0 || x.first > y.last || y.first > x.last) {
          together += x.is_placed != y.is_placed && x.offset < y.offset + y.bytes && y.offset < x.offset + x.bytes;
          continue;
        }
        EXPECT_TRUE(x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset) << a << " and " << b;
      }
    }
    EXPECT_EQ(gradients, static_cast<std::uint64_t>(graph.parameter_count()) * 4);
    EXPECT_GT(together, 10u) << "nothing is shared";
    const ExecutionPlan apart = compile(graph, Mode::Train);
    EXPECT_LT(plan.arena_bytes, apart.arena_bytes + gradients);
    EXPECT_TRUE(apart.births.empty());
    EXPECT_TRUE(compile(graph, Mode::Evaluate, Recompute::None, Gradients::Replaced).births.empty());
  }
}

// A weight whose gradient no step makes has zeros, though something else was in its place; poisoned memory shows what is not made.
TEST(SharedGradients, AreZeroWhereNothingIsMade) {
  NaiveBackend device;
  Builder b(DType::F32);
  const Value unused = b.parameter("unused", {kWidth, kWidth}, true), table = b.parameter("table", {kVocabulary, kWidth}, true);
  b.add(b.embedding(unused, b.input("other", kRows)), b.embedding(unused, b.input("more", kRows)));
  b.linear_cross_entropy(b.embedding(table, b.input("ids", kRows)), table, b.input("targets", kRows));
  const Graph graph = std::move(b).finish();
  const Result result = last_of(graph, device, Recompute::None, Gradients::Replaced, 7);
  for (std::size_t i = 0; i < kWidth * kWidth; ++i) ASSERT_EQ(result.gradients[i], 0.0f);
  double norm = 0;
  for (const float g : result.gradients) norm += std::abs(static_cast<double>(g));
  EXPECT_GT(norm, 0);
}

TEST(SharedGradients, TakeWhatIsPlanned) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const DType type : {DType::F32, DType::Bf16})
      for (const Recompute recompute : {Recompute::None, Recompute::Cheap, Recompute::Blocks}) {
        const auto device = backend::open("cpu", {.threads = 2});
        train::MeasuredBackend measured(*device);
        const Graph graph = model(kind, type);
        const MemoryUse use = plan_memory(graph, Mode::Train, *device, {}, recompute, Gradients::Replaced), apart = plan_memory(graph, Mode::Train, *device, {}, recompute);
        EXPECT_EQ(use.gradient_bytes, apart.gradient_bytes);
        EXPECT_LT(use.total(), apart.total());
        last_of(graph, measured, recompute, Gradients::Replaced, 3);
        EXPECT_LE(measured.peak_bytes(), use.total() + 256);
        EXPECT_GE(static_cast<double>(measured.peak_bytes()), 0.95 * static_cast<double>(use.total()));
      }
}

}  // namespace
}  // namespace pgtrain::engine::graph
