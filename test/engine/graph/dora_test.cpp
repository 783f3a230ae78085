// Weight-decomposed adapters (DoRA) in a graph: against PEFT's own layers, their gradients with the lengths held as constants against
// differences, in stacked projections, in 4 bits, behind dropout and under a gelu; planned against held bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "../exact_gradients.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/train/measured_backend.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::graph {
namespace {

using Floats = std::vector<float>;

// --- PEFT's layers -----------------------------------------------------------------------------------------------

class Peft : public ::testing::TestWithParam<const char*> {
 protected:
  Floats stored(const std::string& part) const {
    const io::StoredTensor* tensor = file_.find(std::string(GetParam()) + " " + part);
    if (tensor == nullptr) throw std::runtime_error("dora_reference.safetensors has no " + part);
    Floats values(tensor->elements());
    file_.read_f32(*tensor, values.data());
    return values;
  }
  std::vector<std::int64_t> shape(const std::string& part) const {
    const auto& stored_shape = file_.find(std::string(GetParam()) + " " + part)->shape;
    return {stored_shape.begin(), stored_shape.end()};
  }
  void expect_near(const Floats& got, const std::string& part, double bar) const {
    const Floats want = stored(part);
    ASSERT_EQ(got.size(), want.size());
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
      difference += d * d, size += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    }
    EXPECT_LE(std::sqrt(difference), bar * std::sqrt(size)) << part;
    EXPECT_GT(size, 0) << part;
  }
  io::SafetensorsFile file_{std::string(PGTRAIN_FIXTURES) + "/dora_reference.safetensors"};
};

TEST_P(Peft, HasOurLossesAndGradients) {
  const std::string kind = GetParam();
  const bool is_in_out = kind.rfind("in_out", 0) == 0, is_dropped = kind.find("dropped") != std::string::npos;
  const auto rows = shape("x")[0];
  Builder b(DType::F32);
  const Value numbers = b.input("numbers", rows);
  const Value x = b.embedding(b.parameter("x", shape("x"), false), numbers), left = b.embedding(b.parameter("left", shape("left"), false), numbers);
  const Builder::Adapter adapter{b.parameter("down", shape("down"), false), b.parameter("up", shape("up"), false), 0, std::stof(file_.metadata().at("scale")),
                                 b.parameter("magnitude", shape("magnitude"), false)};
  const Value weight = b.frozen("weight", shape("weight")), bias = b.frozen("bias", shape("bias")), read = is_dropped ? left : Value{};
  const Value y = is_in_out ? b.linear(x, weight, bias, Activation::None, read, {adapter}) : b.projection(x, weight, bias, read, {adapter});
  b.linear_cross_entropy(y, b.frozen("head", shape("head")), b.input("targets", rows));
  const Graph graph = std::move(b).finish();
  const auto device = backend::open("cpu", {.threads = 2});
  ParameterStore store(graph, *device, Mode::Train);
  Floats weights(static_cast<std::size_t>(store.count()));
  for (const Parameter& parameter : store.parameters()) {
    const Floats values = stored(parameter.name);
    std::copy(values.begin(), values.end(), weights.begin() + parameter.offset);
  }
  store.upload_weights(weights.data());
  for (const Parameter& parameter : store.frozen()) store.upload_frozen(parameter, stored(parameter.name).data());
  Executor executor(graph, store, Mode::Train);
  std::vector<std::int32_t> count_up(static_cast<std::size_t>(rows));
  std::iota(count_up.begin(), count_up.end(), 0);
  executor.set_input("numbers", count_up.data());
  executor.set_input("targets", count_up.data());
  executor.forward_backward(1.0f);
  Floats losses, gradients(weights.size());
  executor.download_losses(losses);
  expect_near(losses, "losses", 2e-6);
  store.download_gradients(gradients.data());
  for (const Parameter& parameter : store.parameters())
    if (is_dropped || parameter.name != "left")
      expect_near(Floats(gradients.begin() + parameter.offset, gradients.begin() + parameter.offset + parameter.count), "d" + parameter.name, 5e-6);
}

INSTANTIATE_TEST_SUITE_P(Dora, Peft, ::testing::Values("out_in plain", "out_in dropped", "in_out plain", "in_out dropped"), [](const auto& name) {
  std::string out = name.param;
  std::replace(out.begin(), out.end(), ' ', '_');
  return out;
});

// --- gradients ---------------------------------------------------------------------------------------------------

constexpr std::int64_t kRows = 12, kWidth = 24, kVocabulary = 11;

// A stack with columns that no adapter has, one that reads something else, a layer [in, out] under a gelu.
Graph decomposed(DType type, Storage storage, float rate = 0, bool are_decomposed = true) {
  Builder b(type);
  const Value table = b.parameter("table", {kVocabulary, kWidth}, true), gain = b.frozen("gain", {kWidth}), shift = b.frozen("shift", {kWidth});
  const auto adapter = [&](const std::string& name, std::int64_t in, std::int64_t out, std::int64_t column) {
    return Builder::Adapter{b.parameter(name + ".down", {3, in}, true), b.parameter(name + ".up", {out, 3}, true), column, 0.5f,
                            are_decomposed ? b.parameter(name + ".magnitude", {out}, true) : Value{}};
  };
  const Value x = b.embedding(table, b.input("ids", kRows));
  const Value packed = b.projection(b.layer_norm(x, gain, shift, 1e-5f), b.frozen("packed", {kWidth + 9, kWidth}, storage, {kWidth - 3, 5, 7}), b.frozen("packed.bias", {kWidth + 9}), {},
                                    {adapter("right", kWidth, 7, kWidth + 2), adapter("left", kWidth, kWidth - 3, 0)});
  const Value hidden = b.linear(packed, b.frozen("hidden", {kWidth + 9, 2 * kWidth}, storage, {kWidth + 9}), b.frozen("hidden.bias", {2 * kWidth}), Activation::Gelu, {},
                                {adapter("hidden", kWidth + 9, 2 * kWidth, 0)});
  const Value last = b.projection(hidden, b.frozen("last", {kWidth + 4, 2 * kWidth}, storage, {kWidth + 4}), {}, b.dropout(b.add(hidden, hidden), rate),
                                  {adapter("last", 2 * kWidth, kWidth, 4)});
  const Value out = b.linear(last, b.frozen("out", {kWidth + 4, kWidth}, storage, {kWidth + 4}), b.frozen("out.bias", {kWidth}), Activation::Gelu, b.dropout(last, rate),
                             {adapter("out", kWidth + 4, kWidth, 0)});
  b.linear_cross_entropy(b.add(out, x), table, b.input("targets", kRows));
  return std::move(b).finish();
}

Floats random_weights(const Graph& graph, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 0.3f);
  Floats weights(static_cast<std::size_t>(graph.parameter_count()));
  for (float& w : weights) w = normal(random);
  return weights;
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

TEST(Dora, ExactGradientsEqualDifferencesWithTheLengthsHeld) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (const Storage storage : {Storage::Compute, Storage::Nf4}) {
    const Graph graph = decomposed(DType::F32, storage);
    expect_exact_gradients(graph, random_weights(graph, random), [&](Executor& executor) {
      std::mt19937 same(seed);
      set_inputs(executor, same);
    }, random);
  }
}

// A magnitude that is the length of the weight with its adapter changes nothing.
TEST(Dora, WithTheLengthsThatAreThereIsLora) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const auto device = backend::open("cpu", {.threads = 2});
  const Graph plain = decomposed(DType::F32, Storage::Compute, 0, false), graph = decomposed(DType::F32, Storage::Compute);
  ParameterStore plain_store(plain, *device, Mode::Train), store(graph, *device, Mode::Train);
  upload_random_frozen(plain_store);
  upload_random_frozen(store);
  const Floats plain_weights = random_weights(plain, random);
  Floats weights(static_cast<std::size_t>(store.count()));
  const auto place_of = [](const ParameterStore& in, const std::string& name) {
    return *std::find_if(in.parameters().begin(), in.parameters().end(), [&](const Parameter& parameter) { return parameter.name == name; });
  };
  for (const Parameter& parameter : store.parameters())
    if (const std::size_t dot = parameter.name.rfind(".magnitude"); dot == std::string::npos)
      std::copy_n(plain_weights.begin() + place_of(plain_store, parameter.name).offset, parameter.count, weights.begin() + parameter.offset);
  // The length of each output's weights, in double.
  const auto fill = [&](const std::string& name, const std::string& matrix, std::int64_t column) {
    const Parameter magnitude = place_of(store, name + ".magnitude"), down = place_of(store, name + ".down"), up = place_of(store, name + ".up");
    const Parameter& weight = *std::find_if(store.frozen().begin(), store.frozen().end(), [&](const Parameter& parameter) { return parameter.name == matrix; });
    const Floats values = store.frozen_values(weight);
    const bool is_in_out = weight.role == Parameter::Role::InOut;
    const std::int64_t in = down.shape[1], pitch = weight.shape[1];
    for (std::int64_t o = 0; o < magnitude.count; ++o) {
      double square = 0;
      for (std::int64_t i = 0; i < in; ++i) {
        double v = values[static_cast<std::size_t>(is_in_out ? i * pitch + column + o : (column + o) * pitch + i)];
        for (std::int64_t k = 0; k < 3; ++k) v += 0.5 * weights[static_cast<std::size_t>(up.offset + o * 3 + k)] * weights[static_cast<std::size_t>(down.offset + k * in + i)];
        square += v * v;
      }
      weights[static_cast<std::size_t>(magnitude.offset + o)] = static_cast<float>(std::sqrt(square));
    }
  };
  fill("left", "packed", 0), fill("right", "packed", kWidth + 2), fill("hidden", "hidden", 0), fill("last", "last", 4), fill("out", "out", 0);
  plain_store.upload_weights(plain_weights.data());
  store.upload_weights(weights.data());
  Executor plain_executor(plain, plain_store, Mode::Train), executor(graph, store, Mode::Train);
  std::vector<Floats> losses(2), bases(2);
  for (Executor* one : {&plain_executor, &executor}) {
    std::mt19937 same(seed);
    set_inputs(*one, same);
    one->forward();
    one->download_losses(losses[one == &executor]);
    one->use_adapters(false);
    one->forward();
    one->download_losses(bases[one == &executor]);
  }
  for (std::size_t row = 0; row < kRows; ++row) EXPECT_NEAR(losses[0][row], losses[1][row], 1e-4 * (1 + std::abs(losses[0][row]))) << row;
  EXPECT_EQ(bases[0], bases[1]) << "without adapters it is the model that was adapted";
  EXPECT_NE(losses[1], bases[1]);
}

TEST(Dora, TakesWhatIsPlanned) {
  for (const Storage storage : {Storage::Compute, Storage::Nf4})
    for (const auto& [type, set] : {std::pair{DType::F32, ""}, {DType::Bf16, ""}, {DType::Bf16, "x86-64-v2"}}) {
      const auto device = backend::open("cpu", {.threads = 2, .instruction_set = set});
      train::MeasuredBackend measured(*device);
      const Graph graph = decomposed(type, storage, 0.2f);
      const std::uint64_t planned = plan_memory(graph, Mode::Train, *device).total();
      ParameterStore store(graph, measured, Mode::Train);
      upload_random_frozen(store);
      std::mt19937 random(1);
      store.upload_weights(random_weights(graph, random).data());
      Executor executor(graph, store, Mode::Train);
      set_inputs(executor, random);
      executor.forward_backward(1.0f);
      EXPECT_LE(measured.peak_bytes(), planned + 256) << core::name_of(type);
      EXPECT_GE(static_cast<double>(measured.peak_bytes()), 0.95 * static_cast<double>(planned)) << core::name_of(type);
    }
}

// bf16 is the same computation with roundings.
TEST(Dora, InBf16IsNear) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  const auto device = backend::open("cpu", {.threads = 2});
  std::vector<Floats> losses, gradients;
  for (const DType type : {DType::F32, DType::Bf16}) {
    std::mt19937 random(seed);
    const Graph graph = decomposed(type, Storage::Compute);
    ParameterStore store(graph, *device, Mode::Train);
    upload_random_frozen(store);
    store.upload_weights(random_weights(graph, random).data());
    Executor executor(graph, store, Mode::Train);
    set_inputs(executor, random);
    executor.forward_backward(1.0f);
    losses.emplace_back();
    executor.download_losses(losses.back());
    gradients.emplace_back(static_cast<std::size_t>(store.count()));
    store.download_gradients(gradients.back().data());
  }
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < gradients[0].size(); ++i) {
    difference += std::pow(static_cast<double>(gradients[1][i]) - static_cast<double>(gradients[0][i]), 2);
    size += std::pow(static_cast<double>(gradients[0][i]), 2);
  }
  EXPECT_LE(std::sqrt(difference), 0.05 * std::sqrt(size));
  for (std::size_t row = 0; row < kRows; ++row) EXPECT_NEAR(losses[1][row], losses[0][row], 0.05 * (1 + std::abs(losses[0][row])));
}

TEST(Dora, RefusesWhatDoesNotFit) {
  Builder b(DType::F32);
  const Value x = b.embedding(b.parameter("table", {5, 4}, true), b.input("ids", 6));
  const Value frozen = b.frozen("frozen", {8, 4}), trained = b.parameter("trained", {8, 4}, true), down = b.parameter("down", {2, 4}, true), up = b.parameter("up", {4, 2}, true);
  const Value magnitude = b.parameter("magnitude", {4}, false), longer = b.parameter("longer", {5}, false);
  EXPECT_THROW(b.projection(x, frozen, {}, {}, {{down, up, 0, 1, longer}}), core::Error);
  EXPECT_THROW(b.projection(x, trained, {}, {}, {{down, up, 0, 1, magnitude}}), core::Error);
  EXPECT_THROW(b.projection(x, frozen, {}, {}, {{down, up, 0, 1, magnitude}, {down, up, 4, 1, {}}}), core::Error);
  EXPECT_NO_THROW(b.projection(x, frozen, {}, {}, {{down, up, 0, 1, magnitude}}));
}

}  // namespace
}  // namespace pgtrain::engine::graph
