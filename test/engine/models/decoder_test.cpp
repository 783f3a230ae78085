// The decoder of every family against the whole forward pass: alone and in batches, a prompt in one piece and in many, with adapters,
// with weights in 4 bits, at the border of the context.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "../naive_backend.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/models/decoder.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::models {
namespace {

constexpr int kVocabulary = 29;

ModelConfig small(const std::string& type) {
  if (type == "gpt2") return fresh_gpt2(2, 24, 3, 11, kVocabulary, kVocabulary - 1);
  ModelConfig config;
  config.model_type = type;
  config.layers = 2, config.width = 24, config.heads = 4, config.kv_heads = 2, config.head_width = 8, config.inner_width = 20, config.context = 13, config.vocab_size = kVocabulary;
  config.ties_head = type == "qwen3", config.qk_norm = type == "qwen3";
  config.qkv_bias = config.output_bias = config.mlp_bias = type == "llama";
  config.window = type == "mistral" ? 3 : 0;
  config.slides = {type == "mistral", false};
  return config;
}

void fill(graph::ParameterStore& store, std::mt19937& random) {
  const auto draw = [&](const graph::Parameter& parameter, float* to) {
    const bool is_gain = parameter.shape.size() == 1 && parameter.name.ends_with("weight");
    for (std::int64_t i = 0; i < parameter.count; ++i) to[i] = (is_gain ? 1.0f : 0.0f) + 0.3f * std::normal_distribution<float>()(random);
  };
  std::vector<float> flat(static_cast<std::size_t>(store.count()));
  for (const graph::Parameter& parameter : store.parameters()) draw(parameter, flat.data() + parameter.offset);
  store.upload_weights(flat.data());
  for (const graph::Parameter& parameter : store.frozen()) {
    std::vector<float> values(static_cast<std::size_t>(parameter.count));
    draw(parameter, values.data());
    store.upload_frozen(parameter, values.data());
  }
}

// What the whole pass gives each next token after each position of a row: the row stands there once for every one of them.
class WholePass {
 public:
  WholePass(const ModelConfig& config, const Tuning& tuning, core::DType type, backend::Backend& device, std::mt19937& random)
      : context_(config.context), graph_(build_model(config, tuning, type, kVocabulary, context_)), store_(graph_, device, graph::Mode::Evaluate),
        executor_(graph_, store_, graph::Mode::Evaluate) {
    fill(store_, random);
  }
  graph::ParameterStore& store() { return store_; }
  std::vector<std::vector<double>> losses(const std::vector<std::int32_t>& row) {
    std::vector<std::int32_t> tokens, positions, segments, targets;
    for (std::int32_t next = 0; next < kVocabulary; ++next)
      for (std::int32_t i = 0; i < context_; ++i)
        tokens.push_back(row[static_cast<std::size_t>(i)]), positions.push_back(i), segments.push_back(0), targets.push_back(next);
    executor_.set_input("tokens", tokens.data());
    executor_.set_input("positions", positions.data());
    executor_.set_input("segments", segments.data());
    executor_.set_input("targets", targets.data());
    executor_.forward();
    std::vector<float> flat;
    executor_.download_losses(flat);
    std::vector<std::vector<double>> out(static_cast<std::size_t>(context_), std::vector<double>(kVocabulary));
    for (std::size_t next = 0; next < kVocabulary; ++next)
      for (std::size_t i = 0; i < out.size(); ++i) out[i][next] = flat[next * out.size() + i];
    return out;
  }

 private:
  const int context_;
  graph::Graph graph_;
  graph::ParameterStore store_;
  graph::Executor executor_;
};

double distance(const float* logits, const std::vector<double>& losses) {
  double total = 0, difference = 0, length = 0;
  for (int i = 0; i < kVocabulary; ++i) total += std::exp(static_cast<double>(logits[i]));
  for (int i = 0; i < kVocabulary; ++i) {
    const double decoded = std::log(total) - static_cast<double>(logits[i]), wanted = losses[static_cast<std::size_t>(i)];
    difference += (decoded - wanted) * (decoded - wanted), length += wanted * wanted;
  }
  return std::sqrt(difference / length);
}

// Three sequences in pieces of any length, side by side; every answer against the whole pass.
void expect_equal(const ModelConfig& config, const Tuning& tuning, core::DType type, backend::Backend& device, double bar, std::mt19937& random) {
  WholePass whole(config, tuning, type, device, random);
  constexpr int kSequences = 3;
  std::vector<std::vector<std::int32_t>> rows(kSequences);
  std::vector<std::vector<std::vector<double>>> losses;
  for (auto& row : rows) {
    for (int i = 0; i < config.context; ++i) row.push_back(static_cast<std::int32_t>(random() % kVocabulary));
    losses.push_back(whole.losses(row));
  }
  Decoder decoder(config, tuning, whole.store(), {.sequences = kSequences, .rows = 1 + static_cast<std::int64_t>(random() % 9)});
  for (int round = 0; round < 2; ++round) {
    for (int sequence = 0; sequence < kSequences; ++sequence) decoder.restart(sequence);
    std::vector<std::size_t> at(kSequences, 0);
    while (true) {
      std::vector<Decoder::Piece> pieces;
      for (int sequence = kSequences - 1; sequence >= 0; --sequence) {
        const auto index = static_cast<std::size_t>(sequence);
        const std::size_t left = rows[index].size() - at[index], count = std::min<std::size_t>(left, random() % 6);
        if (count == 0) continue;
        pieces.push_back({sequence, {rows[index].begin() + static_cast<std::ptrdiff_t>(at[index]), rows[index].begin() + static_cast<std::ptrdiff_t>(at[index] + count)}});
        at[index] += count;
      }
      if (pieces.empty() && std::all_of(at.begin(), at.end(), [&](std::size_t here) { return here == static_cast<std::size_t>(config.context); })) break;
      std::vector<float> logits;
      decoder.accept(pieces, &logits);
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        const auto sequence = static_cast<std::size_t>(pieces[i].sequence);
        EXPECT_LE(distance(logits.data() + i * kVocabulary, losses[sequence][at[sequence] - 1]), bar) << config.model_type << " sequence " << sequence << " position " << at[sequence] - 1;
      }
    }
    for (int sequence = 0; sequence < kSequences; ++sequence) EXPECT_TRUE(decoder.is_full(sequence));
    EXPECT_THROW(decoder.accept({{0, {1}}}, nullptr), core::Error);
  }
  decoder.restart(0);
  EXPECT_THROW(decoder.accept({{0, {kVocabulary}}}, nullptr), core::Error);
  EXPECT_THROW(decoder.accept({{0, {-1}}}, nullptr), core::Error);
  EXPECT_THROW(decoder.accept({{0, {1}}, {0, {1}}}, nullptr), core::Error);
  EXPECT_THROW(decoder.accept({{kSequences, {1}}}, nullptr), core::Error);
}

std::vector<Tuning> tunings(const std::string& type) {
  Tuning plain, frozen, adapted, quantized;
  frozen.is_frozen = true;
  adapted.adapters.emplace();
  adapted.adapters->rank = 3, adapted.adapters->alpha = 5, adapted.adapters->dropout = 0.5, adapted.adapters->targets = {"all-linear"};
  quantized = adapted;
  quantized.is_quantized = true;
  Tuning decomposed = adapted, both = quantized;
  decomposed.adapters->is_weight_decomposed = both.adapters->is_weight_decomposed = true;
  both.adapters->targets = type == "gpt2" ? std::vector<std::string>{"c_fc", "c_attn"} : std::vector<std::string>{"v_proj", "down_proj"};
  return {plain, frozen, adapted, quantized, decomposed, both};
}

TEST(Decoder, EqualsTheWholePassInBatchesAndPieces) {
  const unsigned seed = test::seed();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  NaiveBackend naive;
  for (const char* type : {"gpt2", "llama", "mistral", "qwen3"}) expect_equal(small(type), tunings(type)[random() % 6], core::DType::F32, naive, 1e-6, random);
  for (const char* set : {"", "x86-64-v3", "x86-64-v2"}) {
    std::unique_ptr<backend::Backend> device;
    try {
      device = backend::open("cpu", {.threads = 1, .instruction_set = set});
    } catch (const core::Error&) {
      continue;  // this processor is older
    }
    for (const char* type : {"gpt2", "llama", "mistral", "qwen3"})
      for (const Tuning& tuning : tunings(type)) {
        if (*set != 0 && random() % 4 != 0) continue;
        expect_equal(small(type), tuning, core::DType::F32, *device, 1e-5, random);
        expect_equal(small(type), tuning, core::DType::Bf16, *device, 3e-2, random);
      }
  }
}

// Counts what is held.
class CountingBackend : public NaiveBackend {
 public:
  std::uint64_t asked = 0;
  void* allocate(std::size_t bytes) override {
    asked += bytes;
    return NaiveBackend::allocate(bytes);
  }
};

TEST(Decoder, HoldsWhatItPlans) {
  for (const char* type : {"gpt2", "qwen3"})
    for (const Tuning& tuning : tunings(type))
      for (const DecoderSize& size : {DecoderSize{}, DecoderSize{3, 5, 2}, DecoderSize{2, 100, 64}}) {
        CountingBackend device;
        const ModelConfig config = small(type);
        const graph::Graph graph = build_model(config, tuning, core::DType::F32, 1, 1);
        graph::ParameterStore store(graph, device, graph::Mode::Evaluate);
        std::mt19937 random(1);
        fill(store, random);
        device.asked = 0;
        const Decoder decoder(config, tuning, store, size);
        EXPECT_EQ(device.asked, Decoder::planned_bytes(config, tuning, core::DType::F32, size));
      }
}

}  // namespace
}  // namespace pgtrain::engine::models
