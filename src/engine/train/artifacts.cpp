// Writes, checks and loads model.safetensors, config.json and tokenizer.json.
#include "engine/train/artifacts.hpp"

#include <cmath>
#include <cstring>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/model.hpp"
#include "engine/train/model_tokenizer.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::uint64_t kMaxConfigBytes = 1 << 20, kMaxTokenizerBytes = 64 << 20;

std::vector<std::uint64_t> shape_of(const graph::Parameter& parameter) { return {parameter.shape.begin(), parameter.shape.end()}; }

std::vector<float> weights_of(const graph::ParameterStore& store) {
  std::vector<float> weights(static_cast<std::size_t>(store.count()));
  store.download_weights(weights.data());
  return weights;
}

std::string path_in(const std::string& folder, const char* name) { return folder + "/" + name; }

models::ModelConfig stored(models::ModelConfig config, const std::string& precision) {
  config.stored_type = precision == "bf16" ? "bfloat16" : "float32";
  return config;
}

[[noreturn]] void fail_check(const std::string& path, const std::string& reason) {
  throw core::Error("io_error", "the written file \"" + path + "\" does not read back as what was trained: " + reason, "",
                    "Check the device that holds this folder, then retry the run.");
}

}  // namespace

std::vector<Artifact> write_artifacts(const std::string& folder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                                      const graph::ParameterStore& store, const std::string& stored_precision) {
  const std::vector<float> weights = weights_of(store);
  std::vector<core::Bf16> rounded;
  if (stored_precision == "bf16") {
    rounded.reserve(weights.size());
    for (const float weight : weights) rounded.push_back(core::to_bf16(weight));
  }
  std::vector<io::TensorToWrite> tensors;
  for (const graph::Parameter& parameter : store.parameters()) {
    if (rounded.empty()) tensors.push_back({parameter.name, io::StoredType::F32, shape_of(parameter), weights.data() + parameter.offset});
    else tensors.push_back({parameter.name, io::StoredType::BF16, shape_of(parameter), rounded.data() + parameter.offset});
  }
  std::vector<Artifact> out;
  const auto add = [&](const char* name, const io::WrittenFile& file) { out.push_back({name, path_in(folder, name), file.bytes, file.sha256}); };
  add(kModelFile, io::write_safetensors(path_in(folder, kModelFile), std::move(tensors)));
  add(kConfigFile, io::write_file(path_in(folder, kConfigFile), stored(config, stored_precision).to_json()));
  add(kTokenizerFile, io::write_file(path_in(folder, kTokenizerFile), tokenizer.to_json()));
  return out;
}

void check_artifacts(const std::string& folder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                     const graph::ParameterStore& store, const std::string& stored_precision) {
  const std::vector<float> weights = weights_of(store);
  const io::SafetensorsFile file(path_in(folder, kModelFile));
  if (file.tensors().size() != store.parameters().size()) fail_check(file.path(), "it has " + std::to_string(file.tensors().size()) + " tensors");
  for (const graph::Parameter& parameter : store.parameters()) {
    const io::StoredTensor& tensor = file.require(parameter.name, shape_of(parameter));
    std::vector<float> read(static_cast<std::size_t>(parameter.count));
    file.read_f32(tensor, read.data());
    for (std::int64_t i = 0; i < parameter.count; ++i) {
      const float trained = weights[static_cast<std::size_t>(parameter.offset + i)];
      if (!std::isfinite(trained)) throw core::Error("non_finite_loss", "weight " + parameter.name + " is not finite after training", "", "Lower learning_rate.");
      const float wanted = stored_precision == "bf16" ? core::to_float(core::to_bf16(trained)) : trained;
      if (std::memcmp(&read[static_cast<std::size_t>(i)], &wanted, sizeof wanted) != 0) fail_check(file.path(), "tensor " + parameter.name + " differs");
    }
  }
  const std::string config_path = path_in(folder, kConfigFile), tokenizer_path = path_in(folder, kTokenizerFile);
  const auto read_config = models::ModelConfig::from_json(io::read_small_file(config_path, kMaxConfigBytes), config_path);
  if (read_config.to_json() != stored(config, stored_precision).to_json()) fail_check(config_path, "a field differs");
  const auto read_tokenizer = tokenizers::Tokenizer::from_json(io::read_small_file(tokenizer_path, kMaxTokenizerBytes), tokenizer_path);
  if (read_tokenizer.to_json() != tokenizer.to_json()) fail_check(tokenizer_path, "its tokens differ");
}

LoadedModel load_model(const std::string& folder, backend::Backend& backend) {
  const auto source = models::CheckpointSource::open(folder);
  if (source->config().family != models::Family::Gpt2)
    throw core::Error("model_invalid", folder + ": text is drawn from GPT-2 models only, this is a " + source->config().model_type + " model");
  auto tokenizer = open_tokenizer(*source);
  const graph::Graph graph = models::build_model(source->config(), {}, core::DType::F32, 1, 1);
  auto store = std::make_unique<graph::ParameterStore>(graph, backend, graph::Mode::Evaluate);
  models::load_weights(*source, {}, 0, *store);
  return {source->config(), std::move(tokenizer), std::move(store)};
}

}  // namespace pgtrain::engine::train
