// A folder as transformers saves it, as a checkpoint source.
#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/safetensors_set.hpp"
#include "engine/models/checkpoint_kinds.hpp"

namespace pgtrain::engine::models {
namespace {

constexpr std::uint64_t kMostConfigBytes = 1 << 20, kMostTokenizerBytes = std::uint64_t{64} << 20;

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string text_in(const std::string& folder, const char* name) {
  const std::string path = folder + "/" + name;
  return io::file_exists(path) ? io::read_small_file(path, kMostTokenizerBytes) : std::string();
}

class HfFolderSource final : public CheckpointSource {
 public:
  explicit HfFolderSource(const std::string& folder) : folder_(folder), files_(checked(folder)) {
    config_ = ModelConfig::from_json(io::read_small_file(folder + "/config.json", kMostConfigBytes), folder + "/config.json");
    add_answer_ends();
    std::unordered_map<std::string, Found> found;
    std::unordered_map<std::string, io::SafetensorsSet::Entry> entries;
    for (const io::SafetensorsSet::Entry& entry : files_.entries()) {
      const std::string name = full_name(entry.tensor->name);
      if (carries_no_weights(name)) continue;
      if (!entries.emplace(name, entry).second)
        throw core::Error("model_invalid",
                          entry.file->path() + ": tensor \"" + core::printable(entry.tensor->name) + "\" appears twice in the model", "",
                          "Get the folder again from where it was made.");
      found.emplace(name, Found{entry.tensor->name, entry.tensor->shape});
    }
    const auto parameters = parameter_shapes(config_);
    std::vector<Wanted> wanted;
    for (const ParameterShape& parameter : parameters) wanted.push_back({parameter.name, parameter.shape});
    compare(folder, config_.model_type, wanted, found);
    for (const ParameterShape& parameter : parameters) {
      here_.push_back(entries.at(parameter.name));
      check_type(here_.back());
      tensors_.push_back({parameter.name, parameter.shape, io::stored_type_name(here_.back().tensor->type)});
    }
    index_tensors();
  }

  std::string tokenizer_json() const override { return text_of("tokenizer.json"); }
  std::string tokenizer_config_json() const override { return text_of("tokenizer_config.json"); }

  std::string chat_template() const override { return chat_template_in(folder_).value_or(""); }

 private:
  // Before weights are looked for: what else people give.
  static const std::string& checked(const std::string& folder) {
    if (io::file_exists(folder + "/config.json")) return folder;
    if (io::file_exists(folder + "/adapter_config.json"))
      throw core::Error("model_invalid", folder + ": holds an adapter, not a model", "",
                        "Give the folder of the base model; its name stands in adapter_config.json.");
    io::refuse_pickle(folder);
    throw core::Error("model_invalid", folder + ": config.json is missing", "",
                      "Give the folder of a model as Hugging Face's tools save it, or the path of a GGUF file.");
  }

  std::string text_of(const char* name) const { return text_in(folder_, name); }

  // Tokens that end an answer stand in generation_config.json when the configuration has only the end of text.
  void add_answer_ends() {
    const std::string path = folder_ + "/generation_config.json";
    if (!io::file_exists(path)) return;
    const core::JsonValue root = core::JsonValue::parse(io::read_small_file(path, kMostConfigBytes), path);
    const core::JsonValue* eos = root.find("eos_token_id");
    if (eos == nullptr || eos->is_null()) return;
    const auto add = [&](const core::JsonValue& value) {
      const std::int64_t id = value.as_integer();
      if (id < 0 || id >= config_.vocab_size || config_.eos.size() >= 256) return;
      if (std::find(config_.eos.begin(), config_.eos.end(), static_cast<int>(id)) == config_.eos.end())
        config_.eos.push_back(static_cast<int>(id));
    };
    if (eos->kind() != core::JsonValue::Kind::Array) return add(*eos);
    for (const core::JsonValue& value : eos->elements()) add(value);
  }

  // Checkpoints of the bare model lack the prefix.
  std::string full_name(const std::string& name) const {
    const std::string prefix = config_.family == Family::Gpt2 ? "transformer." : "model.";
    return name.rfind(prefix, 0) == 0 || name == "lm_head.weight" ? name : prefix + name;
  }

  // Masks and frequencies that old versions saved, and the copy of a tied matrix.
  bool carries_no_weights(const std::string& name) const {
    if (name == "lm_head.weight") return config_.ties_head;
    if (config_.family == Family::Gpt2) return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias");
    return ends_with(name, ".rotary_emb.inv_freq");
  }

  static void check_type(const io::SafetensorsSet::Entry& entry) {
    const io::StoredType type = entry.tensor->type;
    if (type == io::StoredType::F32 || type == io::StoredType::F16 || type == io::StoredType::BF16 || type == io::StoredType::F64) return;
    throw core::Error("model_invalid",
                      entry.file->path() + ": tensor \"" + core::printable(entry.tensor->name) + "\": dtype " + io::stored_type_name(type) +
                          " cannot be used as a weight",
                      "", "Weights must be F32, F16, BF16 or F64; take the model's version without quantisation.");
  }

  Layout layout(std::size_t index) const override {
    const auto& shape = tensors_[index].shape;
    return {GgufLayout::Same, shape[0], shape.size() == 2 ? shape[1] : 1};
  }
  std::uint64_t piece(std::size_t) const override { return 1; }
  void read(std::size_t index, std::uint64_t first, std::uint64_t count, float* out) const override {
    here_[index].file->read_f32(*here_[index].tensor, first, count, out);
  }

  std::string folder_;
  io::SafetensorsSet files_;
  std::vector<io::SafetensorsSet::Entry> here_;
};

}  // namespace

// A file of its own is newer than the field, and wins in transformers too.
std::optional<std::string> chat_template_in(const std::string& folder) {
  if (io::file_exists(folder + "/chat_template.jinja")) return text_in(folder, "chat_template.jinja");
  const std::string text = text_in(folder, "tokenizer_config.json");
  if (text.empty()) return {};
  const core::JsonValue root = core::JsonValue::parse(text, folder + "/tokenizer_config.json");
  const core::JsonValue* value = root.find("chat_template");
  if (value == nullptr || value->is_null()) return {};
  if (value->kind() != core::JsonValue::Kind::Array) return value->as_string();
  for (const core::JsonValue& choice : value->elements())
    if (choice.at("name").as_string() == "default") return choice.at("template").as_string();
  return {};
}

std::unique_ptr<CheckpointSource> open_hf_folder(const std::string& folder) { return std::make_unique<HfFolderSource>(folder); }

}  // namespace pgtrain::engine::models
