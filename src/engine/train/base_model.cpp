// Opens and describes base models, see base_model.hpp.
#include "engine/train/base_model.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <vector>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/train/model_tokenizer.hpp"
#include "engine/train/open_model.hpp"

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

FoundTemplate find_chat_template(const std::string& own, const std::string& given) {
  if (!given.empty()) return {templates::ChatTemplate::parse(given, "chat_template", templates::Origin::Config), {}};
  if (own.empty()) return {};
  try {
    return {templates::ChatTemplate::parse(own, "the model's chat template"), {}};
  } catch (const core::Error& error) {
    return {std::nullopt, error.message + (error.detail.empty() ? "" : ": " + error.detail)};
  }
}

std::string describe_base(const std::string& folder, const std::string& adapter_folder) {
  const FoundModel model = find_model({adapter_folder, folder}, "");
  const models::CheckpointSource* source = model.source.get();
  const models::ModelConfig& config = source->config();
  std::string base_name;
  if (model.adapter) {
    model.adapter->visit([&](const std::string& parameter, const std::vector<float>& values) {
      if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
        throw core::Error("model_invalid", adapter_folder + "/" + kAdapterFile + ": the values of \"" + core::printable(parameter) + "\" are not all finite", "",
                          "Its training diverged, or the file is damaged; get it again, or take an earlier checkpoint.");
    });
    base_name = ",\"base_name\":" + core::json_quote(core::printable(model.adapter->base_name(), 200));
  }
  std::uint64_t parameters = 0;
  std::set<std::string> types;
  for (const models::SourceTensor& tensor : source->tensors()) {
    parameters += tensor.elements;
    types.insert(tensor.stored_type);
  }
  std::vector<std::string> warnings;
  const tokenizers::Tokenizer tokenizer = open_tokenizer(*source);
  const FoundTemplate found = find_chat_template(model.chat_template, "");
  if (!found.problem.empty()) warnings.push_back("conversations need a chat_template of their own: " + found.problem);
  std::string rates;
  for (const std::string& rate : config.dropped) rates += (rates.empty() ? "" : ", ") + rate;
  if (!rates.empty() && !model.adapter) warnings.push_back("runs do not apply the dropout of config.json (" + rates + "); adapters have lora_dropout");
  const auto number = [](const char* name, std::uint64_t value) { return std::string("\"") + name + "\":" + std::to_string(value) + ","; };
  return "{\"model_type\":" + core::json_quote(config.model_type) + "," + number("parameters", parameters) +
         number("context_length", static_cast<std::uint64_t>(config.context)) + number("vocab_size", static_cast<std::uint64_t>(config.vocab_size)) +
         number("tokenizer_size", static_cast<std::uint64_t>(tokenizer.vocab_size())) + "\"stored_types\":" + json_list({types.begin(), types.end()}) +
         ",\"has_chat_template\":" + (found.parsed ? "true" : "false") + ",\"chat_template_problem\":" + core::json_quote(found.problem) + ",\"warnings\":" + json_list(warnings) + ",\"architecture\":" + config.to_json() + base_name + "}";
}

}  // namespace pgtrain::engine::train
