// Llama-type models beside transformers, with nothing of it at hand: logits, gradients and twenty steps of tiny checkpoints, and of one in
// 4 bits behind adapters, which bitsandbytes and PEFT trained.
//
// test/fixtures/llama_reference is made by make_llama_reference.py. Bounds: logits 2e-6 and gradients 5e-6 of their length, the first loss
// within 1e-5 relative, ten within 1e-4, all within 1e-3.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/backend/devices.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/decoder.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/optimizer.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr int kSteps = 20, kBatch = 3, kLength = 24, kCells = kBatch * kLength, kVocabulary = 61;

template <typename T>
std::vector<T> read(const io::SafetensorsFile& file, const std::string& name) {
  const io::StoredTensor* tensor = file.find(name);
  if (tensor == nullptr) throw std::runtime_error("no " + name);
  std::vector<T> values(tensor->elements());
  std::memcpy(values.data(), file.data(*tensor).data(), values.size() * sizeof(T));
  return values;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, length = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    length += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / length);
}

class Families : public testing::TestWithParam<const char*> {
 protected:
  Families() {
    if (std::strcmp(GetParam(), "llama-qlora") == 0) {
      adapter_.emplace(folder_ + "/adapter", source_->config());
      tuning_.adapters = adapter_->options(), tuning_.is_quantized = true;
    }
    graph_ = models::build_model(source_->config(), tuning_, core::DType::F32, kBatch, kLength);
    store_.emplace(graph_, *device_, graph::Mode::Train);
    models::load_weights(*source_, tuning_, 1, *store_);
    if (adapter_) adapter_->load(*store_);
  }

  // As text is written: each row's tokens one after the other.
  std::vector<float> decoded_logits(const std::vector<std::int32_t>& tokens) {
    models::Decoder decoder(source_->config(), tuning_, *store_, {.sequences = kBatch, .positions = kLength});
    std::vector<float> out(static_cast<std::size_t>(kCells) * kVocabulary), logits;
    for (int at = 0; at < kLength; ++at) {
      std::vector<models::Decoder::Piece> pieces;
      for (int row = 0; row < kBatch; ++row) pieces.push_back({row, {tokens[static_cast<std::size_t>(row * kLength + at)]}});
      decoder.accept(pieces, &logits);
      for (int row = 0; row < kBatch; ++row) std::copy_n(logits.begin() + row * kVocabulary, kVocabulary, out.begin() + (row * kLength + at) * kVocabulary);
    }
    return out;
  }

  // As training sees it: -log p of one token after another at every place.
  std::vector<float> losses_of_all(graph::Executor& executor) {
    std::vector<float> out(static_cast<std::size_t>(kCells) * kVocabulary), losses;
    for (std::int32_t token = 0; token < kVocabulary; ++token) {
      executor.set_input("targets", std::vector<std::int32_t>(kCells, token).data());
      executor.forward();
      executor.download_losses(losses);
      for (std::size_t cell = 0; cell < kCells; ++cell) out[cell * kVocabulary + static_cast<std::size_t>(token)] = losses[cell];
    }
    return out;
  }

  void compare_gradients() {
    std::vector<float> gradients(static_cast<std::size_t>(store_->count()));
    store_->download_gradients(gradients.data());
    for (const models::ModelWeight& weight : models::model_weights(source_->config())) {
      std::vector<float> wanted;
      for (const models::TensorPart& part : weight.parts) {
        const std::vector<float> rows = read<float>(reference_, "gradient/" + part.name);
        wanted.insert(wanted.end(), rows.begin(), rows.end());
      }
      const auto found = std::find_if(store_->parameters().begin(), store_->parameters().end(), [&](const graph::Parameter& one) { return one.name == weight.name; });
      ASSERT_NE(found, store_->parameters().end()) << weight.name;
      EXPECT_LT(distance({gradients.begin() + found->offset, gradients.begin() + found->offset + found->count}, wanted), 5e-6) << weight.name;
    }
  }

  const std::string folder_ = std::string(PGTRAIN_FIXTURES) + "/llama_reference/" + GetParam();
  const io::SafetensorsFile reference_{folder_ + "/reference.safetensors"};
  const std::unique_ptr<backend::Backend> device_ = backend::open("cpu", {.threads = 1});
  const std::unique_ptr<models::CheckpointSource> source_ = models::CheckpointSource::open(folder_);
  models::Tuning tuning_;
  std::optional<AdapterFolder> adapter_;
  graph::Graph graph_;
  std::optional<graph::ParameterStore> store_;
};

TEST_P(Families, FollowTransformers) {
  graph::Executor executor(graph_, *store_, graph::Mode::Train);
  const auto tokens = read<std::int32_t>(reference_, "tokens"), targets = read<std::int32_t>(reference_, "targets");
  const auto losses = read<double>(reference_, "losses"), rates = read<double>(reference_, "rates");
  std::vector<std::int32_t> positions;
  for (int cell = 0; cell < kCells; ++cell) positions.push_back(cell % kLength);
  executor.set_input("tokens", tokens.data());
  executor.set_input("positions", positions.data());
  executor.set_input("segments", std::vector<std::int32_t>(kCells, 0).data());

  const auto logits = read<float>(reference_, "logits");
  EXPECT_LT(distance(decoded_logits(tokens), logits), 2e-6);
  std::vector<float> wanted;
  for (std::size_t cell = 0; cell < kCells; ++cell) {
    double total = 0;
    for (std::size_t i = 0; i < kVocabulary; ++i) total += std::exp(static_cast<double>(logits[cell * kVocabulary + i]));
    for (std::size_t i = 0; i < kVocabulary; ++i) wanted.push_back(static_cast<float>(std::log(total) - logits[cell * kVocabulary + i]));
  }
  EXPECT_LT(distance(losses_of_all(executor), wanted), 2e-6);

  Optimizer optimizer(*store_, {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .gradient_clip = 0.5});
  for (int step = 0; step < kSteps; ++step) {
    const std::int32_t* learned = targets.data() + step * kCells;
    const double count = static_cast<double>(kCells - std::count(learned, learned + kCells, -1));
    executor.set_input("tokens", tokens.data() + step * kCells);
    executor.set_input("targets", learned);
    store_->zero_gradients();
    executor.forward_backward(static_cast<float>(1 / count));
    EXPECT_NEAR(executor.loss_sum() / count / losses[static_cast<std::size_t>(step)], 1, step == 0 ? 1e-5 : step < 10 ? 1e-4 : 1e-3) << "step " << step;
    if (step == 0 && !adapter_) compare_gradients();
    (void)optimizer.gradient_norm();
    optimizer.update(step, rates[static_cast<std::size_t>(step)]);
  }
}

INSTANTIATE_TEST_SUITE_P(, Families, testing::Values("llama", "qwen2", "qwen3", "mistral", "llama-qlora"), [](const auto& given) {
  std::string name = given.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace pgtrain::engine::train
