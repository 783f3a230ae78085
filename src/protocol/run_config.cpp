// run_config.cpp: the field table itself and its freezing: known keys, kinds, ranges, defaults that depend on other
// fields, rules between fields. The size presets and rates by size are those of src/engine/train; the trainer's
// tests hold both against each other.
#include "protocol/run_config.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "protocol/message.hpp"

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

constexpr double no_limit = 9.2e18;
constexpr int byte_vocabulary = 257;  // 256 bytes and the end of text
constexpr int default_bpe_vocabulary = 2048;
constexpr int64_t widest_head = 128;  // what every device's attention takes

std::string show_number(double value) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

bool read_real(std::string_view text, double& value) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size() && std::isfinite(value);
}

// Also takes 1e3 and 1000.0, since JSON does not tell them from 1000.
bool read_integer(std::string_view text, int64_t& value) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec == std::errc() && result.ptr == text.data() + text.size()) return true;
  double real = 0;
  if (!read_real(text, real) || real != std::floor(real) || std::fabs(real) > 9.007e15) return false;
  value = static_cast<int64_t>(real);
  return true;
}

std::vector<std::string> split_choices(const char* choices) {
  std::vector<std::string> names(1);
  for (const char* c = choices; *c; ++c) {
    if (*c == '|')
      names.emplace_back();
    else
      names.back().push_back(*c);
  }
  return names;
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return text;
}

std::string quote(std::string_view text) {
  constexpr size_t longest = 60;
  std::string shown(text.substr(0, longest));
  if (text.size() > longest) {
    while (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0xc0) == 0x80) shown.pop_back();
    if (!shown.empty() && static_cast<unsigned char>(shown.back()) >= 0xc0) shown.pop_back();
    shown += "…";
  }
  return "\"" + shown + "\"";
}

std::string allowed_range(const ConfigField& field) {
  const std::string unit = *field.unit ? std::string(" ") + field.unit : std::string();
  if (field.maximum >= no_limit) return "at least " + show_number(field.minimum) + unit;
  return "between " + show_number(field.minimum) + " and " + show_number(field.maximum) + unit;
}

// Turns a given value into its canonical text. False: `error` says what is allowed.
bool canonical_value(const ConfigField& field, const std::string& given, std::string& value, ConfigError& error) {
  double number = 0;
  int64_t integer = 0;
  switch (field.kind) {
    case FieldKind::Choice: {
      const auto names = split_choices(field.choices);
      if (std::find(names.begin(), names.end(), given) != names.end()) {
        value = given;
        return true;
      }
      error = {field.name, std::string(field.name) + " cannot be " + quote(given), "Choose " + list(names) + "."};
      return false;
    }
    case FieldKind::Text:
      if (!is_clean_utf8(given)) {
        error = {field.name, std::string(field.name) + " is not valid UTF-8, or holds a NUL", "Give text in UTF-8."};
        return false;
      }
      if (given.size() <= field.maximum) {
        value = given;
        return true;
      }
      error = {field.name, std::string(field.name) + " is too long: " + std::to_string(given.size()) + " bytes",
               "Give at most " + show_number(field.maximum) + " bytes."};
      return false;
    case FieldKind::Integer:
    case FieldKind::Unsigned64:
      if (!read_integer(given, integer)) {
        error = {field.name, std::string(field.name) + " is not a whole number: " + quote(given),
                 std::string("Give a whole number ") + allowed_range(field) + "."};
        return false;
      }
      number = static_cast<double>(integer);
      value = std::to_string(integer);
      break;
    case FieldKind::Real:
      if (!read_real(given, number)) {
        error = {field.name, std::string(field.name) + " is not a number: " + quote(given),
                 std::string("Give a number ") + allowed_range(field) + "."};
        return false;
      }
      value = show_number(number);
      break;
  }
  if (number >= field.minimum && (number <= field.maximum || field.maximum >= no_limit)) return true;
  error = {field.name, std::string(field.name) + " is out of range: " + quote(given), "Give a number " + allowed_range(field) + "."};
  return false;
}

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

void set_if_open(ConfigPairs& pairs, std::string_view name, const std::string& value) {
  std::string* current = find_value(pairs, name);
  if (current->empty() || *current == "0") *current = value;
}

// Fills the values that depend on the size, the tokenizer or the steps. 0 (-1 for warmup_steps) is "by rule".
void fill_dependent(ConfigPairs& pairs, const RunConfig& config) {
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
  if (config.integer("warmup_steps") < 0)
    *find_value(pairs, "warmup_steps") = std::to_string(std::min<int64_t>(100, config.integer("steps") / 10));
}

bool refuse(ConfigError& error, const char* key, std::string message, std::string hint) {
  error = {key, std::move(message), std::move(hint)};
  return false;
}

// The rules that bind two fields, checked when all values are concrete.
bool check_rules(const RunConfig& config, ConfigError& error) {
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
  if (config.integer("context") < 2)
    return refuse(error, "context", "context " + number("context") + " is too short to predict anything", "Give at least 2 tokens.");
  if (config.text("tokenizer") == "byte" && vocab_size != byte_vocabulary)
    return refuse(error, "vocab_size", "vocab_size " + number("vocab_size") + " does not go with tokenizer byte, which has 257 tokens",
                  "Leave vocab_size out, or set tokenizer to bpe.");
  if (config.text("tokenizer") == "bpe" && vocab_size <= byte_vocabulary)
    return refuse(error, "vocab_size", "vocab_size " + number("vocab_size") + " leaves no room beyond the 257 tokens that bpe begins with",
                  "Give 258 or more.");
  if (config.integer("warmup_steps") > config.integer("steps"))
    return refuse(error, "warmup_steps", "warmup_steps " + number("warmup_steps") + " is more than steps " + number("steps"),
                  "Warm up for a part of the steps, or give more steps.");
  if (config.integer("sample_tokens") > config.integer("context") && config.integer("samples") > 0)
    return refuse(error, "sample_tokens", "sample_tokens " + number("sample_tokens") + " is more than context " + number("context"),
                  "A sample must fit in the model's context: give at most " + number("context") + ".");
  if (config.real("held_out_fraction") == 0 && config.integer("evaluate_every") > 0)
    return refuse(error, "evaluate_every", "evaluate_every needs held-out samples, and held_out_fraction is 0",
                  "Give held_out_fraction a value such as 0.05, or leave evaluate_every out.");
  if (config.planned_tokens() > static_cast<uint64_t>(no_limit))
    return refuse(error, "steps", "the run would look at more than 9.2e18 tokens", "Give fewer steps or smaller batches.");
  return true;
}

const std::string empty_text;

}  // namespace

const std::vector<ConfigField>& config_fields() {
  using enum FieldKind;
  static const std::vector<ConfigField> fields = {
      {"family", Choice, "gpt", "", 0, 0, "gpt", "", "model family; gpt is the GPT-2 architecture"},
      {"size", Choice, "tiny", "", 0, 0, "nano|micro|tiny|small|medium|base", "",
       "preset of layers, width, heads, context, batch_size and learning_rate"},
      {"layers", Integer, "0", "0: the size's", 0, 96, "", "", "transformer blocks"},
      {"width", Integer, "0", "0: the size's", 0, 8192, "", "", "numbers per token; heads times a multiple of 8 that is at most 128"},
      {"heads", Integer, "0", "0: the size's", 0, 128, "", "", "attention heads"},
      {"context", Integer, "0", "0: the size's", 0, 8192, "", "tokens", "longest sequence that the model sees"},
      {"tokenizer", Choice, "byte", "", 0, 0, "byte|bpe", "", "byte: 256 bytes and an end of text; bpe: learnt from the run's own samples"},
      {"vocab_size", Integer, "0", "0: 2048 for bpe, 257 for byte", 0, 100000, "", "tokens", "size of the vocabulary that bpe learns"},
      {"precision", Choice, "auto", "", 0, 0, "auto|fp32|bf16", "", "numbers computed with; auto is bf16 where the device is fast at it"},
      {"artifact_precision", Choice, "fp32", "", 0, 0, "fp32|bf16", "", "numbers that the finished model is stored as"},
      {"steps", Integer, "500", "", 1, 100000000, "", "steps", "optimiser updates in all"},
      {"batch_size", Integer, "0", "0: the size's", 0, 4096, "", "sequences", "sequences per micro-batch"},
      {"gradient_accumulation", Integer, "1", "", 1, 4096, "", "micro-batches", "micro-batches per step"},
      {"long_samples", Choice, "split", "", 0, 0, "error|split|truncate", "", "what happens to a sample longer than the context"},
      {"learning_rate", Real, "0", "0: the size's", 0, 1e12, "", "", "highest learning rate of the schedule"},
      {"min_learning_rate_ratio", Real, "0.1", "", 0, 1, "", "", "last learning rate as a part of the highest"},
      {"schedule", Choice, "cosine", "", 0, 0, "cosine|linear|constant", "", "how the learning rate falls after the warm-up"},
      {"warmup_steps", Integer, "-1", "-1: a tenth of steps, at most 100", -1, 1000000, "", "steps",
       "steps in which the learning rate rises"},
      {"weight_decay", Real, "0.1", "", 0, 10, "", "", "AdamW's decay of matrices"},
      {"beta1", Real, "0.9", "", 0, 0.999999, "", "", "AdamW's first moment"},
      {"beta2", Real, "0.95", "", 0, 0.999999, "", "", "AdamW's second moment"},
      {"epsilon", Real, "1e-08", "", 1e-16, 1, "", "", "AdamW's guard against division by zero"},
      {"gradient_clip", Real, "1", "", 0, 1e6, "", "", "largest norm of the gradient; 0: not clipped"},
      {"held_out_fraction", Real, "0.05", "", 0, 0.9, "", "", "part of the samples kept apart to evaluate on; 0: no evaluation"},
      {"evaluation_batches", Integer, "16", "", 1, 100000, "", "micro-batches", "at most this much held-out text per evaluation"},
      {"evaluate_every", Integer, "0", "", 0, 100000000, "", "steps", "steps between evaluations; 0: before and after only"},
      {"checkpoint_every", Integer, "500", "", 0, 100000000, "", "steps", "steps between checkpoints; 0: only when told to leave"},
      {"samples", Integer, "0", "", 0, 100, "", "texts", "texts drawn from the model at each evaluation"},
      {"sample_tokens", Integer, "64", "", 1, 4096, "", "tokens", "length of a drawn text"},
      {"sample_prompt", Text, "", "", 0, 4096, "", "bytes", "what drawn texts begin with"},
      {"sample_temperature", Real, "0.8", "", 0, 10, "", "", "0: always the likeliest token"},
      {"sample_top_k", Integer, "50", "", 0, 100000, "", "tokens", "draw from this many likeliest tokens; 0: from all"},
      {"sample_top_p", Real, "1", "", 1e-6, 1, "", "", "draw from the likeliest tokens that hold this much probability"},
      {"seed", Unsigned64, "1", "", 0, no_limit, "", "", "equal seeds give equal runs on one kind of device"},
      {"max_seconds", Real, "0", "", 0, 1e9, "", "seconds", "an attempt completes with the steps it has made after this time; 0: no limit"},
  };
  return fields;
}

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

uint64_t RunConfig::planned_tokens() const { return unsigned64("steps") * tokens_per_step(); }

bool freeze_config(const ConfigPairs& given, RunConfig& frozen, ConfigError& error) {
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
    if (value.empty() && field->kind != FieldKind::Text) continue;
    if (!canonical_value(*field, value, *find_value(config.pairs_, key), error)) return false;
  }
  fill_dependent(config.pairs_, config);
  if (!check_rules(config, error)) return false;
  frozen = std::move(config);
  return true;
}

}  // namespace pgtrain::protocol
