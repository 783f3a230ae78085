// Frozen weights in 4 bits: the host's quantiser against a naive one and against bitsandbytes' own bits, a graph on such weights
// against the same graph on the numbers that they stand for, planned against held bytes, and what cannot read them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "../bf16_errors.hpp"
#include "../exact_gradients.hpp"
#include "engine/backend/devices.hpp"
#include "engine/backend/dynamic_map.hpp"
#include "engine/backend/nf4.hpp"
#include "engine/core/error.hpp"
#include "engine/train/measured_backend.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::graph {
namespace {

using backend::Nf4Tensor;
using Floats = std::vector<float>;

Floats random_values(std::mt19937& random, std::int64_t count) {
  std::normal_distribution<float> normal(0.0f, 0.3f);
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

TEST(Nf4, EachCodeIsTheNearestOfItsBlock) {
  std::mt19937 random(test::seed());
  for (const std::int64_t count : {1, 63, 64, 65, 200, 64 * 300 + 17}) {
    const Floats values = random_values(random, count);
    const Nf4Tensor tensor = backend::nf4_quantize(values.data(), count);
    const auto blocks = static_cast<std::size_t>((count + 63) / 64);
    ASSERT_EQ(tensor.scales.size(), blocks);
    ASSERT_EQ(tensor.nested.size(), (blocks + 255) / 256);
    std::vector<double> scales(blocks);
    for (std::size_t i = 0; i < values.size(); ++i) scales[i / 64] = std::max(scales[i / 64], static_cast<double>(std::abs(values[i])));
    double mean = 0;
    for (const double scale : scales) mean += scale / static_cast<double>(blocks);
    EXPECT_NEAR(tensor.offset, mean, 1e-6 * mean);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double share = static_cast<double>(values[i]) / scales[i / 64];
      const int code = i % 2 == 0 ? tensor.codes[i / 2] >> 4 : tensor.codes[i / 2] & 15;
      for (int other = 0; other < 16; ++other)
        EXPECT_LE(std::abs(share - static_cast<double>(backend::kNf4Levels[code])), std::abs(share - static_cast<double>(backend::kNf4Levels[other])) + 1e-6) << i << " of " << count;
    }
    // A scale is off by at most half of the widest gap of its map.
    const auto book = backend::dynamic_map(true);
    for (std::size_t block = 0; block < blocks; ++block) {
      const double got = static_cast<double>(book[tensor.scales[block]]) * static_cast<double>(tensor.nested[block / 256]) + static_cast<double>(tensor.offset);
      EXPECT_NEAR(got, scales[block], 0.0075 * static_cast<double>(tensor.nested[block / 256]) + 1e-6);
    }
    EXPECT_EQ(backend::nf4_values(tensor, count).size(), values.size());
  }
}

TEST(Nf4, NothingIsLostOfNothing) {
  const Floats zeros(64 * 3 + 5);
  for (const float value : backend::nf4_values(backend::nf4_quantize(zeros.data(), 197), 197)) EXPECT_EQ(std::abs(value), 0.0f);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Floats values(100, 1.0f);
    values[77] = bad;
    try {
      backend::nf4_quantize(values.data(), 100);
      FAIL() << "not refused";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.code, "model_invalid");
    }
  }
}

struct StoredBits {
  const char* name;
  std::uint64_t bits;
};
constexpr StoredBits kStored[] = {
#include "../../fixtures/nf4_quantize_reference.inc"
};
std::uint64_t stored_bits(const std::string& name) {
  for (const StoredBits& stored : kStored)
    if (name == stored.name) return stored.bits;
  ADD_FAILURE() << "nf4_quantize_reference.inc has no " << name;
  return 0;
}
template <class T>
std::uint64_t hash_of(const std::vector<T>& values) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
  for (std::size_t i = 0; i < values.size() * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 0x100000001B3u;
  return hash;
}

// The inputs of test/fixtures/make_nf4_reference.py, made anew: blocks of very different sizes, one of zeros, an end that is no block.
TEST(Nf4, HasTheBitsOfBitsandbytes) {
  for (const std::int64_t count : {64, 192, 64 * 700, 64 * 513 + 21}) {
    Floats values;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t z = test::fixed_bits(70, static_cast<std::uint64_t>(i)), size = test::fixed_bits(71, static_cast<std::uint64_t>(i / 64)) % 40;
      const double total = static_cast<double>(z & 0xFFFFFF) + static_cast<double>(z >> 24 & 0xFFFFF) - static_cast<double>(z >> 44 & 0xFFFFF) - 0x800000;
      values.push_back(size == 7 ? 0.0f : static_cast<float>(std::ldexp(total, -26) * (1 + static_cast<double>(size))));
    }
    const std::string name = std::to_string(count);
    EXPECT_EQ(hash_of(values), stored_bits("values " + name)) << "the inputs are others than the fixture's";
    const Nf4Tensor tensor = backend::nf4_quantize(values.data(), count);
    EXPECT_EQ(hash_of(tensor.codes), stored_bits("codes " + name));
    EXPECT_EQ(hash_of(std::vector<float>{tensor.offset}), stored_bits("offset " + name));
    EXPECT_EQ(hash_of(tensor.scales), stored_bits("scales " + name));
    EXPECT_EQ(hash_of(tensor.nested), stored_bits("nested " + name));
    EXPECT_EQ(hash_of(backend::nf4_values(tensor, count)), stored_bits("numbers " + name));
  }
}

// --- in a graph --------------------------------------------------------------------------------------------------

constexpr std::int64_t kRows = 12, kWidth = 40, kVocabulary = 11;

// Stacked parts that are no whole blocks, a bias, both layouts, an input without a gradient, adapters.
Graph quantized(DType type, Storage storage) {
  Builder b(type);
  const Value table = b.frozen("table", {kVocabulary, kWidth}), gain = b.frozen("gain", {kWidth}), shift = b.frozen("shift", {kWidth});
  const auto adapter = [&](const std::string& name, std::int64_t in, std::int64_t out, std::int64_t column) {
    return Builder::Adapter{b.parameter(name + ".down", {3, in}, true), b.parameter(name + ".up", {out, 3}, true), column, 0.5f};
  };
  const Value x = b.embedding(table, b.input("ids", kRows));
  const Value packed = b.projection(b.layer_norm(x, gain, shift, 1e-5f), b.frozen("packed", {kWidth + 7, kWidth}, storage, {kWidth - 3, 3, 7}), b.frozen("packed.bias", {kWidth + 7}), {},
                                    {adapter("left", kWidth, kWidth - 3, 0), adapter("right", kWidth, 7, kWidth)});
  const Value hidden = b.linear(packed, b.frozen("hidden", {kWidth + 7, 2 * kWidth}, storage, {kWidth + 7}), b.frozen("hidden.bias", {2 * kWidth}), Activation::Gelu);
  const Value last = b.projection(hidden, b.frozen("last", {kWidth, 2 * kWidth}, storage, {kWidth}), {}, {}, {adapter("last", 2 * kWidth, kWidth, 0)});
  b.linear_cross_entropy(b.add(last, x), table, b.input("targets", kRows));
  return std::move(b).finish();
}

void set_inputs(Executor& executor, std::mt19937& random) {
  std::vector<std::int32_t> ids(kRows), targets(kRows);
  for (std::size_t i = 0; i < kRows; ++i) {
    ids[i] = static_cast<std::int32_t>(random() % kVocabulary);
    targets[i] = i % 5 == 3 ? -1 : static_cast<std::int32_t>(random() % kVocabulary);
  }
  executor.set_input("ids", ids.data());
  executor.set_input("targets", targets.data());
}

TEST(QuantizedGraph, IsTheGraphOnTheNumbersThatTheCodesStandFor) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  const auto device = backend::open("cpu", {.threads = 2});
  for (const DType type : {DType::F32, DType::Bf16}) {
    std::mt19937 random(seed);
    const Graph narrow = quantized(type, Storage::Nf4), plain = quantized(type, Storage::Compute);
    ParameterStore narrow_store(narrow, *device, Mode::Train), plain_store(plain, *device, Mode::Train);
    for (std::size_t i = 0; i < narrow_store.frozen().size(); ++i) {
      const Parameter& parameter = narrow_store.frozen()[i];
      const Floats values = random_values(random, parameter.count);
      narrow_store.upload_frozen(parameter, values.data());
      const Floats stands_for = narrow_store.frozen_values(parameter);
      EXPECT_EQ(stands_for == values, parameter.storage == Storage::Compute && type == DType::F32) << parameter.name;
      plain_store.upload_frozen(plain_store.frozen()[i], stands_for.data());
      EXPECT_EQ(plain_store.frozen_values(plain_store.frozen()[i]), stands_for);
    }
    const Floats weights = random_values(random, narrow_store.count());
    std::vector<Floats> results;
    for (ParameterStore* store : {&narrow_store, &plain_store}) {
      store->upload_weights(weights.data());
      Executor executor(store == &narrow_store ? narrow : plain, *store, Mode::Train);
      std::mt19937 same(seed);
      set_inputs(executor, same);
      executor.forward_backward(1.0f);
      Floats losses, gradients(static_cast<std::size_t>(store->count()));
      executor.download_losses(losses);
      store->download_gradients(gradients.data());
      results.push_back(losses);
      results.push_back(gradients);
    }
    // Numbers that were [in, out] lie [out, in] here, so products may be added up in another order.
    const double bar = type == DType::F32 ? 1e-5 : 3e-2;
    for (const std::size_t kind : {0, 1}) {
      const double most = static_cast<double>(std::abs(*std::max_element(results[kind].begin(), results[kind].end(), [](float a, float b) { return std::abs(a) < std::abs(b); })));
      EXPECT_GT(most, 0);
      for (std::size_t i = 0; i < results[kind].size(); ++i) EXPECT_NEAR(results[kind][i], results[kind + 2][i], bar * most) << core::name_of(type) << " " << i;
    }
  }
}

// Each part is quantised as if it were alone.
TEST(QuantizedGraph, PartsOfAStackKeepScalesOfTheirOwn) {
  std::mt19937 random(test::seed());
  const auto device = backend::open("cpu");
  const Graph graph = quantized(DType::F32, Storage::Nf4);
  ParameterStore store(graph, *device, Mode::Evaluate);
  const Parameter& packed = *std::find_if(store.frozen().begin(), store.frozen().end(), [](const Parameter& parameter) { return parameter.name == "packed"; });
  const Floats values = random_values(random, packed.count);
  store.upload_frozen(packed, values.data());
  Floats alone;
  std::int64_t first = 0;
  for (const std::int64_t rows : packed.part_rows) {
    const Floats part = backend::nf4_values(backend::nf4_quantize(values.data() + first, rows * kWidth), rows * kWidth);
    alone.insert(alone.end(), part.begin(), part.end());
    first += rows * kWidth;
  }
  EXPECT_EQ(store.frozen_values(packed), alone);
}

TEST(QuantizedGraph, ExactGradientsEqualDifferences) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const Graph graph = quantized(DType::F32, Storage::Nf4);
  expect_exact_gradients(graph, random_values(random, graph.parameter_count()), [&](Executor& executor) {
    std::mt19937 same(seed);
    set_inputs(executor, same);
  }, random);
}

TEST(QuantizedGraph, TakesWhatIsPlanned) {
  for (const DType type : {DType::F32, DType::Bf16}) {
    const auto device = backend::open("cpu", {.threads = 2});
    train::MeasuredBackend measured(*device);
    const Graph narrow = quantized(type, Storage::Nf4), plain = quantized(type, Storage::Compute);
    const MemoryUse use = plan_memory(narrow, Mode::Train, *device);
    {
      ParameterStore store(narrow, measured, Mode::Evaluate);
      EXPECT_EQ(measured.peak_bytes() - device->workspace_bytes(), use.weight_bytes);
    }
    // 4 bits and two scales beside: little more than half a byte, and each part's own padding.
    const std::uint64_t matrices = static_cast<std::uint64_t>((kWidth + 7) * kWidth + (kWidth + 7) * 2 * kWidth + 2 * kWidth * kWidth);
    EXPECT_EQ(plan_memory(plain, Mode::Train, *device).weight_bytes - static_cast<std::uint64_t>(plain.frozen_count()) * core::size_of(type),
              use.weight_bytes - static_cast<std::uint64_t>(narrow.frozen_count()) * core::size_of(type) - narrow.quantized_bytes());
    EXPECT_LT(narrow.quantized_bytes(), matrices * 33 / 64 + 1024 + 5 * 4 * 64);
    ParameterStore store(narrow, measured, Mode::Train);
    upload_random_frozen(store);
    std::mt19937 random(1);
    store.upload_weights(random_values(random, store.count()).data());
    Executor executor(narrow, store, Mode::Train);
    set_inputs(executor, random);
    executor.forward_backward(1.0f);
    EXPECT_LE(measured.peak_bytes(), use.total() + 256) << core::name_of(type);
    EXPECT_GE(static_cast<double>(measured.peak_bytes()), 0.95 * static_cast<double>(use.total() - use.optimizer_bytes)) << core::name_of(type);
  }
}

TEST(QuantizedGraph, OnlyProjectionsReadIt) {
  Builder b(DType::F32);
  const Value narrow = b.frozen("narrow", {6, 4}, Storage::Nf4, {6}), ids = b.input("ids", 6);
  EXPECT_THROW(b.embedding(narrow, ids), core::Error);
  const Value x = b.embedding(b.frozen("table", {6, 4}), ids);
  EXPECT_THROW(b.linear_cross_entropy(x, narrow, b.input("targets", 6)), core::Error);
  EXPECT_THROW(b.frozen("vector", {64}, Storage::Nf4, {64}), core::Error);
  EXPECT_THROW(b.frozen("short", {6, 4}, Storage::Nf4, {5}), core::Error);
  EXPECT_NO_THROW(b.projection(x, narrow, {}));
  const auto device = backend::open("cpu");
  const Graph graph = quantized(DType::F32, Storage::Nf4);
  ParameterStore store(graph, *device, Mode::Evaluate);
  for (const Parameter& parameter : store.frozen()) {
    if (parameter.storage == Storage::Compute) EXPECT_NO_THROW(store.compute_pointer(parameter));
    else EXPECT_THROW(store.compute_pointer(parameter), core::Error);
  }
}

}  // namespace
}  // namespace pgtrain::engine::graph
