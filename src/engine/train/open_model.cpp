// Opens models for use, see open_model.hpp.
#include "engine/train/open_model.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/io/file.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/model_tokenizer.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::uint64_t kMostTemplateBytes = 1 << 20;

core::DType choose_type(const std::string& precision, const models::ModelConfig& config, const backend::Backend& backend) {
  if (precision == "fp32") return core::DType::F32;
  if (precision == "bf16") return core::DType::Bf16;
  if (precision != "auto") throw core::Error("config_invalid", "precision: only auto, fp32 and bf16 are known", "", "Choose one of these.");
  return config.stored_type == "float32" ? core::DType::F32 : backend.info().best_dtype;
}

std::string find_template(const models::CheckpointSource& source, const std::string& folder, const std::string& given) {
  if (!given.empty()) return given;
  const std::string beside = folder + "/" + kChatTemplateFile;
  return !folder.empty() && io::file_exists(beside) ? io::read_small_file(beside, kMostTemplateBytes) : source.chat_template();
}

}  // namespace

OpenModel open_model(const ModelFiles& files, const std::string& chat_template, const std::string& precision, std::int64_t batch, std::int64_t length,
                     backend::Backend& backend, const std::function<void()>& poll) {
  const bool is_adapter = !files.folder.empty() && io::file_exists(files.folder + "/" + kAdapterConfigFile);
  if (is_adapter && files.base_folder.empty())
    throw core::Error("model_invalid", files.folder + ": is an adapter, and its base model is not given", "", "Give the base model that it was trained on.");
  auto source = open_base(is_adapter || files.folder.empty() ? files.base_folder : files.folder);
  const models::ModelConfig& config = source->config();
  models::Tuning tuning;
  tuning.is_frozen = true;
  std::optional<AdapterFolder> adapter;
  if (is_adapter) {
    adapter.emplace(files.folder, config);
    tuning.adapters = adapter->options();
  }
  length = std::min<std::int64_t>(length, config.context);
  graph::Graph graph = models::build_model(config, tuning, choose_type(precision, config, backend), batch, length);
  auto store = std::make_unique<graph::ParameterStore>(graph, backend, graph::Mode::Evaluate);
  models::load_weights(*source, tuning, 0, *store, poll);
  if (adapter) adapter->load(*store);
  tokenizers::Tokenizer tokenizer = open_tokenizer(*source);
  std::string found = find_template(*source, files.folder, chat_template);
  return {std::move(source), std::move(tuning), std::move(tokenizer), std::move(found), std::move(graph), length, std::move(store)};
}

}  // namespace pgtrain::engine::train
