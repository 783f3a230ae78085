// Blocks that are forgotten and computed again: the same bits in less memory, with every kind of operation between, dropout that
// drops alike, weights in 4 bits and decomposed adapters; lifetimes that do not meet, planned against held bytes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "../exact_gradients.hpp"
#include "engine/backend/devices.hpp"
#include "engine/graph/plan.hpp"
#include "engine/train/measured_backend.hpp"

namespace pgtrain::engine::graph {
namespace {

using Floats = std::vector<float>;
constexpr std::int64_t kRows = 24, kWidth = 32, kVocabulary = 11;
constexpr int kBlocks = 4;

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
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  const auto device = backend::open("cpu", {.threads = 2});
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const DType type : {DType::F32, DType::Bf16}) {
      const Graph graph = model(kind, type);
      const Result whole = result_of(graph, *device, Recompute::None, seed), again = result_of(graph, *device, Recompute::Blocks, seed);
      EXPECT_EQ(whole.losses, again.losses);
      EXPECT_EQ(0, std::memcmp(whole.gradients.data(), again.gradients.data(), whole.gradients.size() * sizeof(float))) << static_cast<int>(kind) << " " << core::name_of(type);
      double norm = 0;
      for (const float g : whole.gradients) norm += static_cast<double>(g) * static_cast<double>(g);
      EXPECT_GT(norm, 0);
      EXPECT_TRUE(std::isfinite(norm));
    }
}

TEST(Recompute, KeepsOnlyWhatLeavesABlock) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted}) {
    const Graph graph = model(kind, DType::F32);
    const ExecutionPlan whole = compile(graph, Mode::Train), again = compile(graph, Mode::Train, Recompute::Blocks);
    EXPECT_LT(again.arena_bytes, whole.arena_bytes * 6 / 10) << static_cast<int>(kind);
    EXPECT_EQ(compile(graph, Mode::Evaluate, Recompute::Blocks).arena_bytes, compile(graph, Mode::Evaluate).arena_bytes);
    // Between the forward and the first step back two values of each block are there, and statistics.
    std::size_t first_back = 0;
    while (again.steps[first_back].kind == Step::Kind::Forward && !again.steps[first_back].is_again) ++first_back;
    std::uint64_t large = 0;
    for (const Buffer& buffer : again.buffers)
      if (buffer.first < static_cast<std::int32_t>(first_back) && buffer.last >= static_cast<std::int32_t>(first_back)) large += buffer.bytes >= kRows * kWidth * 4;
    EXPECT_LE(large, 2u * kBlocks + 3) << static_cast<int>(kind);
    std::size_t repeated = 0;
    for (const Step& step : again.steps) repeated += step.is_again;
    EXPECT_GE(repeated, 4u * kBlocks - 4) << static_cast<int>(kind);
  }
}

TEST(Recompute, BuffersThatLiveTogetherLieApart) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted}) {
    const ExecutionPlan plan = compile(model(kind, DType::Bf16), Mode::Train, Recompute::Blocks);
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
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted}) {
    NaiveBackend device;
    const Graph graph = model(kind, DType::F32);
    const Result result = result_of(graph, device, Recompute::Blocks, 5);
    for (const float g : result.gradients) ASSERT_TRUE(std::isfinite(g)) << static_cast<int>(kind);
  }
}

TEST(Recompute, TakesWhatIsPlanned) {
  for (const Kind kind : {Kind::Llama, Kind::Gpt, Kind::Adapted})
    for (const DType type : {DType::F32, DType::Bf16}) {
      const auto device = backend::open("cpu", {.threads = 2});
      train::MeasuredBackend measured(*device);
      const Graph graph = model(kind, type);
      const std::uint64_t planned = plan_memory(graph, Mode::Train, *device, {}, Recompute::Blocks).total();
      EXPECT_LT(planned, plan_memory(graph, Mode::Train, *device).total());
      result_of(graph, measured, Recompute::Blocks, 3);
      EXPECT_LE(measured.peak_bytes(), planned + 256);
      EXPECT_GE(static_cast<double>(measured.peak_bytes()), 0.95 * static_cast<double>(planned));
    }
}

}  // namespace
}  // namespace pgtrain::engine::graph
