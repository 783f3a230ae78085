// Every kind of rotation beside transformers' own: its tables, the losses and gradients of a model that is turned so, and the decoder's
// logits with cached keys. test/fixtures/rope_reference.safetensors is made by make_rope_reference.py. Beside them the formulas in double.
#include "engine/models/rope.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>
#include <random>

#include "engine/backend/devices.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/decoder.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::models {
namespace {

constexpr int kLength = 48;

class Reference {
 public:
  template <typename T>
  std::vector<T> read(const std::string& name) const {
    const io::StoredTensor* tensor = file_.find(name);
    if (tensor == nullptr) throw std::runtime_error("no " + name);
    std::vector<T> values(tensor->elements());
    std::memcpy(values.data(), file_.data(*tensor).data(), values.size() * sizeof(T));
    return values;
  }
  // Parts that lie side by side in one matrix of ours.
  std::vector<float> read_parts(const std::string& prefix, const ModelWeight& weight, std::size_t count) const {
    std::vector<float> out;
    for (std::size_t i = 0; i < count; ++i) {
      const auto part = read<float>(prefix + weight.parts[i].name);
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  }

 private:
  const io::SafetensorsFile file_{std::string(PGTRAIN_FIXTURES) + "/rope_reference.safetensors"};
};

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, length = 0;
  EXPECT_LE(b.size(), a.size());
  for (std::size_t i = 0; i < b.size(); ++i) difference += std::pow(static_cast<double>(a[i]) - b[i], 2), length += std::pow(static_cast<double>(b[i]), 2);
  return std::sqrt(difference / length);
}

void expect_transformers(const Reference& reference, const std::string& kind) {
  const auto text = reference.read<char>(kind + "/config");
  const ModelConfig config = ModelConfig::from_json({text.data(), text.size()}, kind);
  const auto table = rope_table(config, kLength), wanted = reference.read<float>(kind + "/table");
  ASSERT_EQ(table.size(), wanted.size());
  for (std::size_t i = 0; i < table.size(); ++i) ASSERT_NEAR(table[i], wanted[i], 1e-5) << i;

  const auto device = backend::open("cpu", {.threads = 1});
  const graph::Graph graph = build_model(config, {}, core::DType::F32, 1, kLength);
  graph::ParameterStore store(graph, *device, graph::Mode::Train);
  graph::Executor executor(graph, store, graph::Mode::Train);
  const std::vector<ModelWeight> weights = model_weights(config);
  std::vector<float> flat(static_cast<std::size_t>(store.count())), gradients(flat.size()), losses;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto values = reference.read_parts("weights/", weights[i], weights[i].parts.size());
    for (const graph::Parameter& parameter : store.parameters())
      if (parameter.name == weights[i].name) std::copy(values.begin(), values.end(), flat.begin() + parameter.offset);
  }
  store.upload_weights(flat.data());
  const auto tokens = reference.read<std::int32_t>("tokens");
  std::vector<std::int32_t> positions, segments(kLength, 0), targets(tokens.begin() + 1, tokens.end());
  for (int i = 0; i < kLength; ++i) positions.push_back(i);
  targets.push_back(-1);
  const std::int32_t* const inputs[] = {tokens.data(), positions.data(), segments.data(), targets.data()};
  for (int i = 0; i < 4; ++i) executor.set_input(std::array{"tokens", "positions", "segments", "targets"}[static_cast<std::size_t>(i)], inputs[i]);
  store.zero_gradients();
  executor.forward_backward(1);
  executor.download_losses(losses);
  losses.pop_back();
  EXPECT_LT(distance(losses, reference.read<float>(kind + "/losses")), 1e-5);
  store.download_gradients(gradients.data());
  int compared = 0;
  for (const ModelWeight& weight : weights)
    for (const graph::Parameter& parameter : store.parameters()) {
      if (parameter.name != weight.name || weight.parts[0].name != "model.layers.0.self_attn.q_proj.weight") continue;
      const auto wanted_gradients = reference.read_parts(kind + "/gradient/", weight, 2);
      EXPECT_LT(distance({gradients.begin() + parameter.offset, gradients.end()}, wanted_gradients), 1e-4);
      ++compared;
    }
  EXPECT_EQ(compared, 1);

  Decoder decoder(config, {}, store, {.positions = kLength, .rows = 5});
  std::vector<float> logits;
  for (int from = 0; from < kLength; from += 7) decoder.accept({{0, {tokens.begin() + from, tokens.begin() + std::min(kLength, from + 7)}}}, &logits);
  EXPECT_LT(distance(logits, reference.read<float>(kind + "/logits")), 1e-5);
}

TEST(Rope, EveryKindIsWhatTransformersComputes) {
  const Reference reference;
  for (const char* kind : {"default", "linear", "llama3", "dynamic_within", "dynamic_beyond", "yarn", "yarn_all", "yarn_mscale"}) {
    SCOPED_TRACE(kind);
    expect_transformers(reference, kind);
  }
}

TEST(Rope, IsTheFormulasInDouble) {
  std::mt19937 random(test::seed());
  const auto between = [&](double low, double high) { return std::uniform_real_distribution<double>(low, high)(random); };
  for (int round = 0; round < 200; ++round) {
    Rope rope;
    rope.base = std::exp(between(3, 14)), rope.factor = between(1, 40), rope.original_context = static_cast<int>(between(2, 5000));
    const int width = 4 + 2 * static_cast<int>(between(0, 60));
    const auto positions = static_cast<std::int64_t>(between(1, 20000));
    const auto expect = [&](RopeKind kind, double frequency(const Rope&, int, std::int64_t, int)) {
      rope.kind = kind;
      const auto found = rope_frequencies(rope, width, positions);
      for (int pair = 0; pair < width / 2; ++pair) {
        const double wanted = frequency(rope, width, positions, pair);
        ASSERT_NEAR(found[static_cast<std::size_t>(pair)] / wanted, 1, 5e-6) << rope_kind_name(kind) << " pair " << pair << " of " << width / 2;
      }
    };
    expect(RopeKind::Dynamic, [](const Rope& r, int d, std::int64_t n, int i) {
      const double original = r.original_context, seen = std::max<double>(original, static_cast<double>(n));
      const double base = r.base * std::pow((r.factor * seen - original * (r.factor - 1)) / original, d / (d - 2.0));
      return std::pow(base, -2.0 * i / d);
    });
    rope.fast_turns = between(2, 40), rope.slow_turns = between(0.1, 1.9), rope.rounds_turns = round % 2 == 0;
    expect(RopeKind::Yarn, [](const Rope& r, int d, std::int64_t, int i) {
      // The pair whose wave lies so many times in the original context.
      const auto pair = [&](double times) { return std::log(r.original_context / (2 * std::numbers::pi * times)) / std::log(r.base) * d / 2; };
      double a = pair(r.fast_turns), b = pair(r.slow_turns);
      if (r.rounds_turns) a = std::floor(a), b = std::ceil(b);
      a = std::max(a, 0.0), b = std::min(b, d - 1.0);
      if (a == b) b += 0.001;
      const double divided = std::clamp((i - a) / (b - a), 0.0, 1.0), frequency = std::pow(r.base, -2.0 * i / d);
      return frequency * (1 - divided) + frequency / r.factor * divided;
    });
  }
  EXPECT_DOUBLE_EQ(yarn_attention_factor(1), 1);
  EXPECT_DOUBLE_EQ(yarn_attention_factor(std::numbers::e, 0.5), 1.05);
}

}  // namespace
}  // namespace pgtrain::engine::models
