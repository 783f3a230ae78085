// run_config.cpp: freezing: known keys, values in their ranges, defaults that depend on other fields, rules between fields. The
// table is config_table.cpp. The size presets and rates by size are those of src/engine/train; the trainer's tests hold both
// against each other.
#include "protocol/run_config.hpp"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "protocol/config_values.hpp"

namespace pgtrain::protocol {

namespace {

struct SizePreset {
  const char* name;
  int layers, width, heads, context, batch_size;
  const char* learning_rate;
};

constexpr SizePreset presets[] = {
    {"nano", 2, 64, 2, 64, 16, "0.003"},   {"micro", 4, 128, 4, 128, 16, "0.002"},  {"tiny", 4, 256, 8, 256, 8, "0.001"},
    {"small", 6, 384, 6, 256, 8, "0.001"}, {"medium", 8, 512, 8, 512, 4, "0.0006"}, {"base", 12, 768, 12, 1024, 4, "0.0006"},
};

constexpr int byte_vocabulary = 257;  // 256 bytes and the end of text
constexpr int default_bpe_vocabulary = 2048;
constexpr int64_t widest_head = 128;  // what every device's attention takes
constexpr int64_t default_base_context = 512;
constexpr double bytes_per_token = 3.2;  // of English in vocabularies of 30,000 to 150,000 tokens: rather too many tokens than too few

const ConfigField* find_field(std::string_view name) {
  for (const ConfigField& field : config_fields())
    if (name == field.name) return &field;
  return nullptr;
}

std::string* find_value(ConfigPairs& pairs, std::string_view name) {
  for (auto& [key, value] : pairs)
    if (key == name) return &value;
  return nullptr;
}

bool is_open(ConfigPairs& pairs, std::string_view name) {
  const std::string& value = *find_value(pairs, name);
  const ConfigField& field = *find_field(name);
  return value.empty() || (*field.default_rule != '\0' && value == field.default_value);
}

void set_if_open(ConfigPairs& pairs, std::string_view name, const std::string& value) {
  if (is_open(pairs, name)) *find_value(pairs, name) = value;
}

// The shape of a new model, from its size.
void fill_shape(ConfigPairs& pairs, const RunConfig& config) {
  set_if_open(pairs, "family", "gpt");
  set_if_open(pairs, "size", "tiny");
  set_if_open(pairs, "tokenizer", "byte");
  const std::string& size = config.text("size");
  const auto* preset = std::find_if(std::begin(presets), std::end(presets), [&](const SizePreset& p) { return size == p.name; });
  set_if_open(pairs, "layers", std::to_string(preset->layers));
  set_if_open(pairs, "width", std::to_string(preset->width));
  // The heads of a preset fit its own width only; another width keeps their width.
  set_if_open(pairs, "heads", std::to_string(std::max<int64_t>(1, config.integer("width") * preset->heads / preset->width)));
  set_if_open(pairs, "context", std::to_string(preset->context));
  set_if_open(pairs, "batch_size", std::to_string(preset->batch_size));
  set_if_open(pairs, "learning_rate", preset->learning_rate);
  const bool is_byte = config.text("tokenizer") == "byte";
  set_if_open(pairs, "vocab_size", std::to_string(is_byte ? byte_vocabulary : default_bpe_vocabulary));
}

// Fills the values that depend on the base model, the size, the tokenizer or the steps.
void fill_dependent(ConfigPairs& pairs, const RunConfig& config, const RunFacts& facts) {
  const bool has_base = config.has_base_model();
  set_if_open(pairs, "method", has_base ? "lora" : "full");
  const bool has_adapters = config.has_adapters();
  if (has_adapters) set_if_open(pairs, "lora_alpha", std::to_string(2 * config.integer("lora_rank")));
  const bool has_validation = facts.has_validation.value_or(false);
  set_if_open(pairs, "held_out_fraction", has_validation ? "0" : "0.05");
  set_if_open(pairs, "evaluation_batches", has_validation ? "0" : "16");
  set_if_open(pairs, "loss_on", has_base ? "answers" : "all");
  set_if_open(pairs, "long_samples", has_base ? "truncate" : "split");
  set_if_open(pairs, "artifact_precision", has_base ? "bf16" : "fp32");
  set_if_open(pairs, "exports", has_adapters ? "peft" : "merged");
  set_if_open(pairs, "weight_decay", has_adapters ? "0" : "0.1");
  set_if_open(pairs, "beta2", has_base ? "0.999" : "0.95");
  if (has_base) {
    const int64_t context = facts.base_context > 0 ? std::min(default_base_context, facts.base_context) : default_base_context;
    set_if_open(pairs, "context", std::to_string(context));
    set_if_open(pairs, "batch_size", "4");
    const bool is_dpo = config.text("objective") == "dpo";
    set_if_open(pairs, "learning_rate", is_dpo ? (has_adapters ? "5e-05" : "1e-06") : (has_adapters ? "2e-04" : "2e-05"));
    if (config.integer("steps") == 0) set_if_open(pairs, "epochs", "3");
  } else {
    fill_shape(pairs, config);
    if (config.real("epochs") == 0) set_if_open(pairs, "steps", "500");
  }
  // How many steps epochs make is known when the data is in tokens; until then it stays by rule.
  if (config.integer("steps") > 0) set_if_open(pairs, "warmup_steps", std::to_string(std::min<int64_t>(100, config.integer("steps") / 10)));
}

bool refuse(ConfigError& error, const char* key, std::string message, std::string hint) {
  error = {key, std::move(message), std::move(hint)};
  return false;
}

// The first of these that differs from its default.
const char* first_given(const RunConfig& config, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (config.text(name) != find_field(name)->default_value) return name;
  return nullptr;
}

bool check_shape(const RunConfig& config, ConfigError& error) {
  const auto number = [&](const char* name) { return std::to_string(config.integer(name)); };
  const int64_t width = config.integer("width"), heads = config.integer("heads"), vocab_size = config.integer("vocab_size");
  if (width % heads != 0)
    return refuse(error, "width", "width " + number("width") + " is not divisible by heads " + number("heads"),
                  "Choose a width that is a multiple of heads, for example " + std::to_string((width / heads + 1) * heads) + ".");
  if (width / heads > widest_head)
    return refuse(error, "heads",
                  "a head would be " + std::to_string(width / heads) + " wide; at most " + std::to_string(widest_head) + " is supported",
                  "Choose more heads: at least " + std::to_string((width + widest_head - 1) / widest_head) + " for width " + number("width") + ".");
  if (width % 8 != 0 || width / heads % 8 != 0)
    return refuse(error, "width",
                  "width and the width of a head must be multiples of 8, here " + number("width") + " and " + std::to_string(width / heads),
                  "Choose for example width 64 with heads 2.");
  if (config.text("tokenizer") == "byte" && vocab_size != byte_vocabulary)
    return refuse(error, "vocab_size", "vocab_size " + number("vocab_size") + " does not go with tokenizer byte, which has 257 tokens",
                  "Leave vocab_size out, or set tokenizer to bpe.");
  if (config.text("tokenizer") == "bpe" && vocab_size <= byte_vocabulary)
    return refuse(error, "vocab_size", "vocab_size " + number("vocab_size") + " leaves no room beyond the 257 tokens that bpe begins with",
                  "Give 258 or more.");
  return true;
}

// What belongs to fine-tuning, and what a base model brings itself.
bool check_method(const RunConfig& config, const RunFacts& facts, ConfigError& error) {
  const bool has_base = config.has_base_model();
  if (!has_base && config.has_adapters())
    return refuse(error, "method", "method " + config.text("method") + " needs a base_model to put its adapters beside", "Name a base_model, or leave method out.");
  if (!has_base && config.text("objective") == "dpo")
    return refuse(error, "objective", "objective dpo needs a base_model to prefer answers of", "Name a base_model.");
  if (config.text("objective") != "dpo")
    if (const char* key = first_given(config, {"dpo_beta"}))
      return refuse(error, key, std::string(key) + " is of preferences, and objective " + config.text("objective") + " learns none", "Set objective to dpo, or leave it out.");
  if (!has_base)
    if (const char* key = first_given(config, {"chat_template"}))
      return refuse(error, key, std::string(key) + " needs a base_model", "Name a base_model, or leave it out.");
  if (has_base)
    if (const char* key = first_given(config, {"family", "size", "layers", "width", "heads", "tokenizer", "vocab_size"}))
      return refuse(error, key, std::string(key) + " cannot be chosen: the base_model brings its own", "Leave it out.");
  if (facts.base_context > 0 && config.integer("context") > facts.base_context)
    return refuse(error, "context", "context " + config.text("context") + " is more than the " + std::to_string(facts.base_context) + " tokens that the base_model sees",
                  "Give at most " + std::to_string(facts.base_context) + ".");
  if (!config.has_adapters())
    if (const char* key = first_given(config, {"lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "use_rslora", "use_dora", "modules_to_save", "adapter_precision"}))
      return refuse(error, key, std::string(key) + " is of adapters, and method full has none", "Set method to lora or qlora, or leave it out.");
  if (config.text("optimizer") == "muon" && config.has_adapters())
    return refuse(error, "optimizer", "optimizer muon is for whole matrices, not for adapters", "Choose adamw or adamw_8bit, or method full.");
  if (config.text("optimizer") == "adamw_8bit" && config.text("moments") != "fp32")
    return refuse(error, "moments", "moments " + config.text("moments") + " do not go with optimizer adamw_8bit, which has 8-bit moments", "Leave moments out.");
  return true;
}

bool check_exports(const RunConfig& config, ConfigError& error) {
  static constexpr const char* known[] = {"peft", "merged", "gguf_f16", "gguf_q8_0", "gguf_q4_k"};
  std::vector<std::string> seen;
  for (const std::string& name : split(config.text("exports"), ',')) {
    if (std::find(std::begin(known), std::end(known), name) == std::end(known))
      return refuse(error, "exports", "exports cannot hold " + quote(name), "Choose from " + list({std::begin(known), std::end(known)}) + ", apart by commas.");
    if (std::find(seen.begin(), seen.end(), name) != seen.end())
      return refuse(error, "exports", "exports names " + name + " twice", "Name each once.");
    if (name == "peft" && !config.has_adapters())
      return refuse(error, "exports", "exports holds peft, and method full has no adapters", "Choose merged or a gguf form.");
    if (name.starts_with("gguf") && !config.has_base_model())
      return refuse(error, "exports", "exports holds " + name + ", which needs the tokenizer of a base_model", "Choose merged.");
    seen.push_back(name);
  }
  return true;
}

bool check_length(const RunConfig& config, ConfigError& error) {
  const auto number = [&](const char* name) { return std::to_string(config.integer(name)); };
  const bool has_steps = config.integer("steps") > 0;
  if (has_steps && config.real("epochs") > 0)
    return refuse(error, "epochs", "both steps and epochs say how long the run is", "Give one of them.");
  if (config.integer("context") < 2)
    return refuse(error, "context", "context " + number("context") + " is too short to predict anything", "Give at least 2 tokens.");
  if (has_steps && config.integer("warmup_steps") > config.integer("steps"))
    return refuse(error, "warmup_steps", "warmup_steps " + number("warmup_steps") + " is more than steps " + number("steps"),
                  "Warm up for a part of the steps, or give more steps.");
  if (config.integer("sample_tokens") > config.integer("context") && config.integer("samples") > 0)
    return refuse(error, "sample_tokens", "sample_tokens " + number("sample_tokens") + " is more than context " + number("context"),
                  "A sample must fit in the model's context: give at most " + number("context") + ".");
  if (config.learning_rate() > find_field("learning_rate")->maximum)
    return refuse(error, "learning_rate_multiplier", "learning_rate " + config.text("learning_rate") + " times " + config.text("learning_rate_multiplier") + " is more than 1e+12",
                  "Give less of either.");
  if (config.planned_tokens(0) > static_cast<uint64_t>(no_limit))
    return refuse(error, "steps", "the run would look at more than 9.2e18 tokens", "Give fewer steps or smaller batches.");
  return true;
}

// What evaluations need, and what needs evaluations.
bool check_evaluation(const RunConfig& config, const RunFacts& facts, ConfigError& error) {
  const auto number = [&](const char* name) { return std::to_string(config.integer(name)); };
  if (facts.has_validation.value_or(false) && config.real("held_out_fraction") > 0)
    return refuse(error, "held_out_fraction", "held_out_fraction " + config.text("held_out_fraction") + " does not go with a validation dataset, which the run is evaluated on",
                  "Leave held_out_fraction out, or the validation dataset.");
  const bool is_evaluated = facts.has_validation.value_or(true) || config.real("held_out_fraction") > 0;
  if (!is_evaluated && config.integer("evaluate_every") > 0)
    return refuse(error, "evaluate_every", "evaluate_every needs held-out samples, and held_out_fraction is 0",
                  "Give held_out_fraction a value such as 0.05, or a validation dataset, or leave evaluate_every out.");
  if (config.integer("early_stopping_patience") > 0 && (config.integer("evaluate_every") == 0 || !is_evaluated))
    return refuse(error, "early_stopping_patience", "early_stopping_patience counts evaluations, and there are none", "Give evaluate_every, and held_out_fraction or a validation dataset.");
  if (config.integer("early_stopping_patience") == 0 && config.real("early_stopping_threshold") > 0)
    return refuse(error, "early_stopping_threshold", "early_stopping_threshold says what counts as lower, and without early_stopping_patience nothing counts",
                  "Give early_stopping_patience, or leave it out.");
  if (config.text("keep_best") == "true" && (config.integer("evaluate_every") == 0 || !is_evaluated))
    return refuse(error, "keep_best", "keep_best compares evaluations, and there are none", "Give evaluate_every, and held_out_fraction or a validation dataset, or leave keep_best out.");
  if (config.text("keep_best") == "true" && (config.integer("checkpoint_every") == 0 || config.integer("checkpoint_every") % config.integer("evaluate_every") != 0))
    return refuse(error, "keep_best", "keep_best keeps checkpoints of evaluated steps, and checkpoint_every " + number("checkpoint_every") + " is no multiple of evaluate_every " + number("evaluate_every"),
                  "Give checkpoint_every such a multiple.");
  return true;
}

// The rules that bind fields to each other, checked when all values are concrete.
bool check_rules(const RunConfig& config, const RunFacts& facts, ConfigError& error) {
  return check_method(config, facts, error) && (config.has_base_model() || check_shape(config, error)) && check_exports(config, error) && check_length(config, error) && check_evaluation(config, facts, error);
}

const std::string empty_text;

}  // namespace

std::string RunConfig::canonical_text() const {
  std::string text;
  for (const auto& [key, value] : pairs_) {
    text += key + '=';
    for (const char c : value) {
      if (c == '\\') text += '\\';
      if (c == '\n')
        text += "\\n";
      else
        text += c;
    }
    text += '\n';
  }
  return text;
}

const std::string& RunConfig::text(std::string_view name) const {
  for (const auto& [key, value] : pairs_)
    if (key == name) return value;
  return empty_text;
}

int64_t RunConfig::integer(std::string_view name) const {
  int64_t value = 0;
  return read_integer(text(name), value) ? value : 0;
}

uint64_t RunConfig::unsigned64(std::string_view name) const { return static_cast<uint64_t>(integer(name)); }

double RunConfig::real(std::string_view name) const {
  double value = 0;
  return read_real(text(name), value) ? value : 0;
}

uint64_t RunConfig::tokens_per_step() const {
  return unsigned64("batch_size") * unsigned64("gradient_accumulation") * unsigned64("context");
}

int64_t RunConfig::planned_steps(uint64_t data_bytes) const {
  if (integer("steps") > 0) return integer("steps");
  const double tokens = static_cast<double>(data_bytes) / (has_base_model() || text("tokenizer") == "bpe" ? bytes_per_token : 1);
  const double steps = real("epochs") * tokens * (1 - real("held_out_fraction")) / static_cast<double>(tokens_per_step());
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(std::min(steps, 1e8))));
}

uint64_t RunConfig::planned_tokens(uint64_t data_bytes) const { return static_cast<uint64_t>(planned_steps(data_bytes)) * tokens_per_step(); }

bool freeze_config(const ConfigPairs& given, RunConfig& frozen, ConfigError& error, const RunFacts& facts) {
  RunConfig config;
  for (const ConfigField& field : config_fields()) config.pairs_.emplace_back(field.name, field.default_value);
  ConfigPairs seen;
  for (const auto& [key, value] : given) {
    const ConfigField* field = find_field(key);
    if (field == nullptr) {
      const std::string nearest = nearest_config_field(key);
      std::vector<std::string> names;
      for (const ConfigField& known : config_fields()) names.push_back(known.name);
      return refuse(error, key.c_str(), "unknown configuration key " + quote(key),
                    nearest.empty() ? "Known keys: " + list(names) + "." : "Did you mean \"" + nearest + "\"?");
    }
    if (find_value(seen, key) != nullptr)
      return refuse(error, key.c_str(), "configuration key " + quote(key) + " is given twice", "Give each key once.");
    seen.emplace_back(key, value);
    if (value.empty() && (field->kind != FieldKind::Text || *field->default_value != '\0')) continue;
    if (value == "auto" && *field->default_rule != '\0') continue;
    if (!canonical_value(*field, value, *find_value(config.pairs_, key), error)) return false;
  }
  // "peft, merged" is the same as "peft,merged".
  std::erase(*find_value(config.pairs_, "exports"), ' ');
  fill_dependent(config.pairs_, config, facts);
  if (!check_rules(config, facts, error)) return false;
  frozen = std::move(config);
  return true;
}

}  // namespace pgtrain::protocol
