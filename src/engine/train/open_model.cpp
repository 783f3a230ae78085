// Opens models for use, see open_model.hpp.
#include "engine/train/open_model.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/io/file.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/model_tokenizer.hpp"
#include "engine/train/options.hpp"

namespace pgtrain::engine::train {
namespace {

core::DType choose_type(const std::string& precision, const models::ModelConfig& config, const backend::Backend& backend) {
  if (precision == "fp32") return core::DType::F32;
  if (precision == "bf16") return core::DType::Bf16;
  if (precision != "auto") throw core::Error("config_invalid", "precision: only auto, fp32 and bf16 are known", "", "Choose one of these.");
  return config.stored_type == "float32" ? core::DType::F32 : backend.info().best_dtype;
}

std::string find_template(const models::CheckpointSource& source, const std::string& folder, const std::string& given) {
  if (!given.empty()) return given;
  if (!folder.empty())
    if (std::optional<std::string> beside = models::chat_template_in(folder)) return *beside;
  return source.chat_template();
}

}  // namespace

FoundModel find_model(const ModelFiles& files, const std::string& chat_template) {
  const bool is_adapter = !files.folder.empty() && io::file_exists(files.folder + "/" + kAdapterConfigFile);
  if (is_adapter && files.base_folder.empty())
    throw core::Error("model_invalid", files.folder + ": is an adapter, and its base model is not given", "", "Give the base model that it was trained on.");
  FoundModel found;
  found.source = open_base(is_adapter || files.folder.empty() ? files.base_folder : files.folder);
  found.tuning.is_frozen = true;
  if (is_adapter) {
    found.adapter = std::make_unique<AdapterFolder>(files.folder, found.source->config());
    found.tuning.adapters = found.adapter->options();
  }
  found.chat_template = find_template(*found.source, files.folder, chat_template);
  return found;
}

FoundCheckpoint find_checkpoint(const ModelFiles& files, const std::string& chat_template) {
  const TrainingOptions& trained = files.trained_with;
  auto reader = std::make_unique<CheckpointReader>(files.checkpoint);
  std::unique_ptr<models::CheckpointSource> base;
  if (!files.base_folder.empty()) base = open_base(files.base_folder);
  tokenizers::Tokenizer tokenizer = base != nullptr ? open_tokenizer(*base) : tokenizers::Tokenizer::from_json(reader->state().tokenizer, "tokenizer in " + files.checkpoint);
  models::ModelConfig config = base != nullptr ? base->config() : model_config(trained, tokenizer.vocab_size(), tokenizer.end_of_text());
  std::string found = !chat_template.empty() ? chat_template : base != nullptr ? base->chat_template() : std::string();
  return {std::move(reader), std::move(base), std::move(config), std::move(tokenizer), tuning_of(trained).adapters, std::move(found)};
}

namespace {

// The weights of a training graph, as far as they trained, in a graph that does not train.
OpenModel open_checkpoint(const ModelFiles& files, const std::string& chat_template, const std::string& precision, std::int64_t batch, std::int64_t length,
                          backend::Backend& backend, const std::function<void()>& poll) {
  FoundCheckpoint found = find_checkpoint(files, chat_template);
  models::Tuning tuning;
  tuning.is_frozen = true;
  tuning.adapters = found.adapters;
  // As the files would be that the run ends with.
  if (!tuning.adapters) found.config.stored_type = files.trained_with.artifact_precision == "bf16" ? "bfloat16" : "float32";
  length = std::min<std::int64_t>(length, found.config.context);
  graph::Graph graph = models::build_model(found.config, tuning, choose_type(precision, found.config, backend), batch, length);
  auto store = std::make_unique<graph::ParameterStore>(graph, backend, graph::Mode::Evaluate);
  if (tuning.adapters) models::load_weights(*found.base, tuning, 0, *store, poll);
  found.reader->load_weights(*store, !tuning.adapters, poll);
  return {std::move(found.config), std::move(tuning), std::move(found.tokenizer), std::move(found.chat_template), std::move(graph), length, std::move(store)};
}

}  // namespace

OpenModel open_model(const ModelFiles& files, const std::string& chat_template, const std::string& precision, std::int64_t batch, std::int64_t length,
                     backend::Backend& backend, const std::function<void()>& poll) {
  if (!files.checkpoint.empty()) return open_checkpoint(files, chat_template, precision, batch, length, backend, poll);
  FoundModel found = find_model(files, chat_template);
  const models::ModelConfig& config = found.source->config();
  length = std::min<std::int64_t>(length, config.context);
  graph::Graph graph = models::build_model(config, found.tuning, choose_type(precision, config, backend), batch, length);
  auto store = std::make_unique<graph::ParameterStore>(graph, backend, graph::Mode::Evaluate);
  models::load_weights(*found.source, found.tuning, 0, *store, poll);
  if (found.adapter) found.adapter->load(*store);
  tokenizers::Tokenizer tokenizer = open_tokenizer(*found.source);
  return {config, std::move(found.tuning), std::move(tokenizer), std::move(found.chat_template), std::move(graph), length, std::move(store)};
}

}  // namespace pgtrain::engine::train
