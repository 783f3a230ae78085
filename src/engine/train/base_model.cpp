// Opens and describes base models, see base_model.hpp.
#include "engine/train/base_model.hpp"

#include <filesystem>
#include <set>
#include <vector>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/train/model_tokenizer.hpp"

namespace pgtrain::engine::train {
namespace {

namespace fs = std::filesystem;

std::string json_list(const std::vector<std::string>& texts) {
  std::string out = "[";
  for (const std::string& text : texts) out += (out.size() > 1 ? "," : "") + core::json_quote(text);
  return out + "]";
}

}  // namespace

std::unique_ptr<models::CheckpointSource> open_base(const std::string& folder) {
  std::vector<std::string> gguf;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".gguf") gguf.push_back(entry.path().string());
  if (error) throw core::Error("io_error", "cannot look into " + folder, error.message());
  if (gguf.size() > 1)
    throw core::Error("model_invalid", folder + ": holds " + std::to_string(gguf.size()) + " GGUF files", "",
                      "Give one: models in several parts are joined first, and other quantisations are models of their own.");
  return models::CheckpointSource::open(gguf.empty() ? folder : gguf[0]);
}

std::optional<templates::ChatTemplate> open_chat_template(const models::CheckpointSource& source, const std::string& given) {
  if (!given.empty()) return templates::ChatTemplate::parse(given, "chat_template", templates::Origin::Config);
  const std::string own = source.chat_template();
  if (own.empty()) return std::nullopt;
  return templates::ChatTemplate::parse(own, "the model's chat template");
}

std::string describe_base(const std::string& folder) {
  const auto source = open_base(folder);
  const models::ModelConfig& config = source->config();
  std::uint64_t parameters = 0;
  std::set<std::string> types;
  for (const models::SourceTensor& tensor : source->tensors()) {
    parameters += tensor.elements;
    types.insert(tensor.stored_type);
  }
  std::vector<std::string> warnings;
  const tokenizers::Tokenizer tokenizer = open_tokenizer(*source);
  // A template that is not understood is no reason to refuse the model: text can be learned without one.
  bool has_template = false;
  try {
    has_template = open_chat_template(*source, "").has_value();
  } catch (const core::Error& error) {
    warnings.push_back("chat template: " + error.message + (error.detail.empty() ? "" : ": " + error.detail));
  }
  const auto number = [](const char* name, std::uint64_t value) { return std::string("\"") + name + "\":" + std::to_string(value) + ","; };
  return "{\"model_type\":" + core::json_quote(config.model_type) + "," + number("parameters", parameters) +
         number("context_length", static_cast<std::uint64_t>(config.context)) + number("vocab_size", static_cast<std::uint64_t>(config.vocab_size)) +
         number("tokenizer_size", static_cast<std::uint64_t>(tokenizer.vocab_size())) + "\"stored_types\":" + json_list({types.begin(), types.end()}) +
         ",\"has_chat_template\":" + (has_template ? "true" : "false") + ",\"warnings\":" + json_list(warnings) + ",\"architecture\":" + config.to_json() + "}";
}

}  // namespace pgtrain::engine::train
