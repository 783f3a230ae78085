// Writes and reads PEFT's files.
#include "engine/train/adapter_files.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/safetensors_set.hpp"
#include "engine/train/export_parts.hpp"

namespace pgtrain::engine::train {
namespace {

using core::JsonValue;

constexpr std::uint64_t kMostConfigBytes = 1 << 20;
constexpr std::size_t kMostPatterns = 4096;
const std::string kPrefix = "base_model.model.";
const std::string kDown = ".lora_A.weight", kUp = ".lora_B.weight", kLengths = ".lora_magnitude_vector";

std::string path_in(const std::string& folder, const char* name) { return folder + "/" + name; }

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string list_text(const std::vector<std::string>& names) {
  std::string out = "[";
  for (const std::string& name : names) out += (out.size() > 1 ? ", " : "") + core::json_quote(name);
  return out + "]";
}

std::string number_text(double value) {
  char text[40];
  std::snprintf(text, sizeof text, value == std::floor(value) && std::fabs(value) < 1e15 ? "%.0f" : "%.17g", value);
  return text;
}

// Last names when they say the same as all paths, because programs that load adapters show and compare them.
std::vector<std::string> target_modules(const models::ModelConfig& config, const std::vector<models::AdapterSpec>& specs) {
  std::set<std::string> chosen, last_names;
  for (const models::AdapterSpec& spec : specs) {
    chosen.insert(spec.module);
    last_names.insert(spec.module.substr(spec.module.rfind('.') + 1));
  }
  std::size_t count = 0;
  for (const models::ModelWeight& weight : models::model_weights(config))
    for (const models::TensorPart& part : weight.parts)
      if (const std::string module = part.module();
          ends_with(part.name, ".weight") && last_names.count(module.substr(module.rfind('.') + 1)) > 0)
        ++count;
  const std::set<std::string>& out = count == chosen.size() ? last_names : chosen;
  return {out.begin(), out.end()};
}

// Whole paths, which PEFT takes for themselves whatever its version makes of ends.
template <typename F>
std::string pattern_text(const std::vector<models::AdapterSpec>& specs, const F& value_of) {
  std::string out = "{";
  for (const models::AdapterSpec& spec : specs)
    if (const std::string value = value_of(spec); !value.empty()) out += (out.size() > 1 ? ", " : "") + core::json_quote(spec.module) + ": " + value;
  return out + "}";
}

std::string config_text(const models::ModelConfig& config, const models::AdapterOptions& options,
                        const std::vector<models::AdapterSpec>& specs, const std::string& base_name) {
  const auto boolean = [](bool value) { return std::string(value ? "true" : "false"); };
  const bool is_in_out = std::any_of(specs.begin(), specs.end(), [](const models::AdapterSpec& spec) { return spec.is_in_out; });
  const std::pair<const char*, std::string> fields[] = {
      {"alpha_pattern", pattern_text(specs, [&](const models::AdapterSpec& spec) { return spec.alpha == options.alpha ? "" : number_text(spec.alpha); })},
      {"auto_mapping", "null"},
      {"base_model_name_or_path", base_name.empty() ? "null" : core::json_quote(base_name)},
      {"bias", "\"none\""},
      {"fan_in_fan_out", boolean(is_in_out)},
      {"inference_mode", "true"},
      {"init_lora_weights", "true"},
      {"layers_pattern", "null"},
      {"layers_to_transform", "null"},
      {"lora_alpha", number_text(options.alpha)},
      {"lora_dropout", number_text(options.dropout)},
      {"modules_to_save", options.modules_to_save.empty() ? "null" : list_text(options.modules_to_save)},
      {"peft_type", "\"LORA\""},
      {"r", std::to_string(options.rank)},
      {"rank_pattern", pattern_text(specs, [&](const models::AdapterSpec& spec) { return spec.rank == options.rank ? "" : std::to_string(spec.rank); })},
      {"revision", "null"},
      {"target_modules", list_text(target_modules(config, specs))},
      {"task_type", "\"CAUSAL_LM\""},
      {"use_dora", boolean(options.is_weight_decomposed)},
      {"use_rslora", boolean(options.is_rank_stabilised)}};
  std::string out;
  for (const auto& [key, value] : fields) out += (out.empty() ? "{\n  \"" : ",\n  \"") + std::string(key) + "\": " + value;
  return out + "\n}\n";
}

}  // namespace

std::vector<Artifact> write_adapter(const std::string& folder, const models::ModelConfig& config, const models::AdapterOptions& options,
                                    const std::string& base_name, const graph::ParameterStore& store, io::StoredType type) {
  const std::string path = path_in(folder, kAdapterFile), config_path = path_in(folder, kAdapterConfigFile);
  std::map<std::string, models::ModelWeight> whole;  // modules_to_save
  for (models::ModelWeight& weight : models::model_weights(config)) whole.emplace(weight.name, std::move(weight));
  std::vector<io::TensorToWrite> tensors;
  std::vector<float> values;  // those that are being written
  const auto add = [&](const std::string& name, std::vector<std::uint64_t> shape, const graph::Parameter& parameter, std::int64_t begin) {
    const auto fetch = [&store, &parameter, &values, name, begin, type](std::uint64_t first, std::size_t bytes, void* to) {
      const std::uint64_t size = io::stored_type_bytes(type);
      values.resize(bytes / size);
      store.download_weight(parameter, begin + static_cast<std::int64_t>(first / size), static_cast<std::int64_t>(values.size()), values.data());
      if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
        throw core::Error("non_finite_loss", "weight " + name + " is not finite after training", "",
                          "Lower learning_rate, or train in precision => fp32.");
      store_values(type, values.data(), values.size(), name, "adapter_precision", static_cast<char*>(to));
    };
    tensors.push_back({kPrefix + name, type, std::move(shape), nullptr, fetch});
  };
  for (const graph::Parameter& parameter : store.parameters()) {
    std::vector<std::uint64_t> shape(parameter.shape.begin(), parameter.shape.end());
    const auto found = whole.find(parameter.name);
    if (found == whole.end()) {
      add(parameter.name, shape, parameter, 0);
      continue;
    }
    std::int64_t rows = 0, row = 0;
    for (const models::TensorPart& part : found->second.parts) rows += part.rows;
    for (const models::TensorPart& part : found->second.parts) {
      shape[0] = static_cast<std::uint64_t>(part.rows);
      add(part.name, shape, parameter, parameter.count / rows * row);
      row += part.rows;
    }
  }
  const io::WrittenFile weights = io::write_safetensors(path, std::move(tensors));
  const io::WrittenFile text = io::write_file(config_path, config_text(config, options, models::adapter_specs(config, options), base_name));
  return {{kAdapterFile, path, weights.bytes, weights.sha256}, {kAdapterConfigFile, config_path, text.bytes, text.sha256}};
}

namespace {

// Refuses a folder without an adapter before its files are opened.
std::string checked(const std::string& folder) {
  if (!io::file_exists(path_in(folder, kAdapterConfigFile)))
    throw core::Error("model_invalid", folder + ": adapter_config.json is missing", "", "Give the folder of an adapter as PEFT saves it.");
  if (!io::file_exists(path_in(folder, kAdapterFile))) {
    io::refuse_pickle(folder);
    io::refuse_pickle(path_in(folder, "adapter_model.bin"));
    throw core::Error("model_invalid", folder + ": adapter_model.safetensors is missing", "",
                      "Give the folder of an adapter as PEFT saves it.");
  }
  return path_in(folder, kAdapterFile);
}

class AdapterConfigReader {
 public:
  AdapterConfigReader(const std::string& path) : path_(path), root_(JsonValue::parse(io::read_small_file(path, kMostConfigBytes), path)) {}

  models::AdapterOptions read() const {
    if (const std::string& type = root_.at("peft_type").as_string(); type != "LORA")
      refuse("peft_type", core::printable(type) + " is not supported, supported: LORA");
    for (const auto& [key, value] : root_.members()) check(key, value);
    models::AdapterOptions out;
    out.rank = rank_of(root_.at("r"), "r");
    out.alpha = find("lora_alpha") == nullptr ? 8 : alpha_of(*find("lora_alpha"), "lora_alpha");
    out.dropout = number("lora_dropout", 0);
    if (!(out.dropout >= 0 && out.dropout < 1)) refuse("lora_dropout", "is not at least 0 and below 1");
    out.is_rank_stabilised = boolean("use_rslora"), out.is_weight_decomposed = boolean("use_dora");
    if (const JsonValue* pattern = find("rank_pattern"))
      for (const auto& [module, rank] : pattern->members()) out.rank_pattern.emplace_back(module, rank_of(rank, "rank_pattern"));
    if (const JsonValue* pattern = find("alpha_pattern"))
      for (const auto& [module, alpha] : pattern->members()) out.alpha_pattern.emplace_back(module, alpha_of(alpha, "alpha_pattern"));
    if (out.rank_pattern.size() + out.alpha_pattern.size() > kMostPatterns) refuse("rank_pattern", "has more entries than a model has modules");
    if (const JsonValue* saved = find("modules_to_save"))
      for (const JsonValue& module : saved->elements()) out.modules_to_save.push_back(module.as_string());
    return out;
  }
  std::string base_name() const {
    const JsonValue* name = find("base_model_name_or_path");
    return name == nullptr ? std::string() : name->as_string();
  }

 private:
  [[noreturn]] void refuse(const std::string& field, const std::string& reason) const {
    throw core::Error("model_invalid", path_ + ": " + core::printable(field) + ": " + reason, "",
                      "Adapters are read as plain LoRA, rsLoRA or DoRA; save it so, or merge it with PEFT and "
                      "give the merged model.");
  }
  const JsonValue* find(const char* field) const {
    const JsonValue* value = root_.find(field);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  int rank_of(const JsonValue& value, const char* field) const {
    const std::int64_t rank = value.as_integer();
    if (rank < 1 || rank > 4096) refuse(field, std::to_string(rank) + " is not between 1 and 4096");
    return static_cast<int>(rank);
  }
  // Weights are multiplied by it in fp32, where more is infinity.
  double alpha_of(const JsonValue& value, const char* field) const {
    const double alpha = value.as_number();
    if (!(std::fabs(alpha) <= std::numeric_limits<float>::max())) refuse(field, "is too large for a number of 32 bits");
    return alpha;
  }
  double number(const char* field, double otherwise) const {
    const double value = find(field) == nullptr ? otherwise : find(field)->as_number();
    if (!std::isfinite(value)) refuse(field, "is not a finite number");
    return value;
  }
  bool boolean(const char* field) const { return find(field) != nullptr && find(field)->as_boolean(); }

  // Fields that were read, or that change nothing once the adapter is trained; of all others only "off" is known to be harmless.
  void check(const std::string& key, const JsonValue& value) const {
    static constexpr const char* kHarmless[] = {"peft_type",       "r",
                                                "lora_alpha",      "lora_dropout",
                                                "use_rslora",      "use_dora",
                                                "modules_to_save", "base_model_name_or_path",
                                                "auto_mapping",    "revision",
                                                "inference_mode",  "task_type",
                                                "peft_version",    "target_modules",
                                                "exclude_modules", "layers_to_transform",
                                                "layers_pattern",  "fan_in_fan_out",
                                                "rank_pattern",    "alpha_pattern",
                                                "megatron_core",   "qalora_group_size",
                                                "runtime_config",  "ensure_weight_tying"};
    if (std::find(std::begin(kHarmless), std::end(kHarmless), key) != std::end(kHarmless)) return;
    using Kind = JsonValue::Kind;
    const bool is_text = value.kind() == Kind::String;
    if (key == "bias" && is_text && value.as_string() == "none") return;
    // The others change the base model's weights when they begin.
    if (key == "init_lora_weights" &&
        (!is_text || value.as_string() == "gaussian" || value.as_string() == "eva" || value.as_string() == "orthogonal"))
      return;
    if (value.kind() == Kind::Null || value.kind() == Kind::False || (value.kind() == Kind::Object && value.members().empty()) ||
        (value.kind() == Kind::Array && value.elements().empty()))
      return;
    refuse(key, (is_text ? core::printable(value.as_string()) : "this value") + " is not supported");
  }

  std::string path_;
  JsonValue root_;
};

}  // namespace

AdapterFolder::AdapterFolder(const std::string& folder, const models::ModelConfig& config) : config_(config), file_(checked(folder)) {
  const AdapterConfigReader reader(path_in(folder, kAdapterConfigFile));
  options_ = reader.read();
  base_name_ = reader.base_name();
  read_names();
  check_shapes();
}

void AdapterFolder::read_names() {
  std::set<std::string> down, up, lengths, saved;
  std::vector<std::string> unknown;
  std::set<std::string> known;
  for (const models::ParameterShape& shape : models::parameter_shapes(config_)) known.insert(shape.name);
  for (const io::StoredTensor& tensor : file_.tensors()) {
    const std::string name = tensor.name.rfind(kPrefix, 0) == 0 ? tensor.name.substr(kPrefix.size()) : "";
    const auto module = [&](const std::string& end) { return name.substr(0, name.size() - end.size()); };
    if (ends_with(name, kDown))
      down.insert(module(kDown));
    else if (ends_with(name, kUp))
      up.insert(module(kUp));
    else if (options_.is_weight_decomposed && ends_with(name, kLengths))
      lengths.insert(module(kLengths));
    else if (!options_.modules_to_save.empty() && known.count(name) > 0)
      saved.insert(name);
    else
      unknown.push_back(core::printable(tensor.name));
  }
  const auto refuse = [&](const std::string& reason) {
    throw core::Error("model_invalid", file_.path() + ": " + reason, "",
                      "The adapter belongs to another model, or its file is not complete; get both from one place.");
  };
  if (!unknown.empty()) refuse(std::to_string(unknown.size()) + " tensors are not known, " + unknown[0] + " among them");
  if (down.empty()) refuse("no tensor of an adapter is in it");
  if (down != up) refuse("some modules have only one of lora_A and lora_B");
  if (options_.is_weight_decomposed && lengths != down) refuse("the modules with lora_magnitude_vector are not those with lora_A");
  options_.targets.assign(down.begin(), down.end());

  std::vector<models::AdapterSpec> specs;
  std::vector<std::string> whole;
  try {
    specs = models::adapter_specs(config_, options_);
    whole = models::saved_weights(config_, options_);
  } catch (const core::Error& error) {
    refuse(error.message);
  }
  for (const models::AdapterSpec& spec : specs)
    for (const std::string& end : {kDown, kUp, kLengths})
      if (end != kLengths || options_.is_weight_decomposed) places_.push_back({spec.module + end, {kPrefix + spec.module + end}});
  if (specs.size() != down.size()) refuse("some of its modules are no linear layers of this " + config_.model_type + " model");
  for (const models::ModelWeight& weight : models::model_weights(config_)) {
    if (std::find(whole.begin(), whole.end(), weight.name) == whole.end()) continue;
    Place place{weight.name, {}};
    for (const models::TensorPart& part : weight.parts) {
      if (saved.erase(part.name) == 0) refuse("tensor \"" + kPrefix + part.name + "\" of modules_to_save is missing");
      place.tensors.push_back(kPrefix + part.name);
    }
    places_.push_back(std::move(place));
  }
  if (!saved.empty()) refuse("tensor \"" + kPrefix + *saved.begin() + "\" belongs to none of modules_to_save");
}

void AdapterFolder::check_shapes() {
  std::map<std::string, std::vector<std::uint64_t>> wanted;
  for (const models::AdapterSpec& spec : models::adapter_specs(config_, options_)) {
    const auto in = static_cast<std::uint64_t>(spec.in), out = static_cast<std::uint64_t>(spec.out), rank = static_cast<std::uint64_t>(spec.rank);
    wanted[kPrefix + spec.module + kDown] = {rank, in};
    wanted[kPrefix + spec.module + kUp] = {out, rank};
    wanted[kPrefix + spec.module + kLengths] = {out};
  }
  for (const models::ParameterShape& shape : models::parameter_shapes(config_)) wanted[kPrefix + shape.name] = shape.shape;
  for (const Place& place : places_)
    for (const std::string& name : place.tensors) {
      const io::StoredTensor& tensor = file_.require(name, wanted.at(name));
      float ignored = 0;
      file_.read_f32(tensor, 0, std::min<std::uint64_t>(1, tensor.elements()), &ignored);  // refuses types that are no weights
    }
}

void AdapterFolder::visit(const std::function<void(const std::string&, const std::vector<float>&)>& visitor) const {
  std::vector<float> values;
  for (const Place& place : places_) {
    values.clear();
    for (const std::string& name : place.tensors) {
      const io::StoredTensor& tensor = *file_.find(name);
      values.resize(values.size() + tensor.elements());
      file_.read_f32(tensor, values.data() + values.size() - tensor.elements());
    }
    visitor(place.parameter, values);
  }
}

void AdapterFolder::load(graph::ParameterStore& store) const {
  std::vector<float> weights(static_cast<std::size_t>(store.count()));
  store.download_weights(weights.data());
  std::map<std::string, std::int64_t> offsets;
  for (const graph::Parameter& parameter : store.parameters()) offsets.emplace(parameter.name, parameter.offset);
  visit([&](const std::string& name, const std::vector<float>& values) {
    std::copy(values.begin(), values.end(), weights.begin() + offsets.at(name));
  });
  store.upload_weights(weights.data());
}

}  // namespace pgtrain::engine::train
