// Fills in and checks the options of a run. One table of sizes, one check per field; messages name the field.
#include <algorithm>
#include <cmath>
#include <string>

#include "engine/backend/backend.hpp"
#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/core/sha256.hpp"
#include "engine/core/utf8.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/options.hpp"

namespace pgtrain::engine::train {
namespace {

struct Size {
  const char* name;
  int layers, width, heads, context, batch_size;
  double learning_rate;
};
constexpr Size kSizes[] = {{"nano", 2, 64, 2, 64, 16, 3e-3},    {"micro", 4, 128, 4, 128, 16, 2e-3}, {"tiny", 4, 256, 8, 256, 8, 1e-3},
                           {"small", 6, 384, 6, 256, 8, 1e-3}, {"medium", 8, 512, 8, 512, 4, 6e-4}, {"base", 12, 768, 12, 1024, 4, 6e-4}};

constexpr int kDefaultBpeVocabulary = 2048, kByteVocabulary = 257;

[[noreturn]] void refuse(const std::string& field, const std::string& reason, const std::string& hint) {
  throw core::Error("config_invalid", field + ": " + reason, "", hint);
}

void check_choice(const char* field, const std::string& value, std::initializer_list<const char*> choices) {
  std::string list;
  for (const char* choice : choices) {
    if (value == choice) return;
    list += (list.empty() ? "" : ", ") + std::string(choice);
  }
  refuse(field, "\"" + core::printable(value) + "\" is not known", "Use one of: " + list + ".");
}

template <typename T>
void check_range(const char* field, T value, T least, T most) {
  const auto text = [](T number) {
    if constexpr (std::is_floating_point_v<T>) {
      char buffer[32];
      std::snprintf(buffer, sizeof buffer, "%g", number);
      return std::string(buffer);
    } else {
      return std::to_string(number);
    }
  };
  // Written so that NaN is outside.
  if (!(value >= least && value <= most)) refuse(field, text(value) + " is outside the range", "Give a value from " + text(least) + " to " + text(most) + ".");
}

void check_ranges(const TrainingOptions& o) {
  check_range("layers", o.layers, 0, 256);
  check_range("width", o.width, 0, 16384);
  check_range("heads", o.heads, 0, 256);
  check_range("context", o.context, 0, 131072);
  check_range("vocab_size", o.vocab_size, 0, 1000000);
  check_range<std::int64_t>("steps", o.steps, 0, 1000000000);
  check_range("epochs", o.epochs, 0.0, 10000.0);
  check_range("dpo_beta", o.dpo_beta, 1e-6, 100.0);
  check_range("lora_rank", o.lora_rank, 1, 1024);
  check_range("lora_alpha", o.lora_alpha, 0.0, 1e6);
  check_range("lora_dropout", o.lora_dropout, 0.0, 0.95);
  check_range("early_stopping_patience", o.early_stopping_patience, 0, 100000);
  check_range("early_stopping_threshold", o.early_stopping_threshold, 0.0, 1e6);
  check_range("batch_size", o.batch_size, 0, 65536);
  check_range("gradient_accumulation", o.gradient_accumulation, 1, 65536);
  check_range("learning_rate", o.learning_rate, 0.0, 1e12);
  check_range("min_learning_rate_ratio", o.min_learning_rate_ratio, 0.0, 1.0);
  check_range("warmup_steps", o.warmup_steps, -1, 1000000000);
  check_range("weight_decay", o.weight_decay, 0.0, 10.0);
  check_range("beta1", o.beta1, 0.0, 0.999999);
  check_range("beta2", o.beta2, 0.0, 0.999999);
  check_range("epsilon", o.epsilon, 1e-16, 1.0);
  check_range("gradient_clip", o.gradient_clip, 0.0, 1e6);
  check_range("held_out_fraction", o.held_out_fraction, 0.0, 0.9);
  check_range("evaluation_batches", o.evaluation_batches, 0, 1000000);
  check_range("evaluate_every", o.evaluate_every, 0, 1000000000);
  check_range("checkpoint_every", o.checkpoint_every, 0, 1000000000);
  check_range("samples", o.samples, 0, 1000);
  check_range("sample_tokens", o.sample_tokens, 1, 65536);
  check_range("sample_temperature", o.sample_temperature, 0.0, 100.0);
  check_range("sample_top_k", o.sample_top_k, 0, 1000000);
  check_range("sample_top_p", o.sample_top_p, 1e-6, 1.0);
  check_range("max_seconds", o.max_seconds, 0.0, 1e9);
}

// Sizes of a new model, from its preset.
void resolve_shape(TrainingOptions& o) {
  check_choice("family", o.family, {"gpt"});
  check_choice("size", o.size, {"nano", "micro", "tiny", "small", "medium", "base"});
  check_choice("tokenizer", o.tokenizer, {"byte", "bpe"});
  const Size& size = *std::find_if(std::begin(kSizes), std::end(kSizes), [&](const Size& row) { return o.size == row.name; });
  if (o.layers == 0) o.layers = size.layers;
  // The heads of a preset fit its own width only; another width keeps their width.
  if (o.width == 0) o.width = size.width;
  if (o.heads == 0) o.heads = o.width == size.width ? size.heads : std::max(1, o.width * size.heads / size.width);
  if (o.context == 0) o.context = size.context;
  if (o.width % o.heads != 0) refuse("heads", std::to_string(o.heads) + " does not divide the width " + std::to_string(o.width), "Choose heads that divide width.");
  if (o.width / o.heads > backend::kWidestHead)
    refuse("heads", "a head would be " + std::to_string(o.width / o.heads) + " wide, at most " + std::to_string(backend::kWidestHead) + " is supported", "Choose more heads.");
  if (o.width % 8 != 0 || (o.width / o.heads) % 8 != 0)
    refuse("width", "width and width / heads must be multiples of 8, here " + std::to_string(o.width) + " and " + std::to_string(o.width / o.heads), "Choose a multiple of 8.");

  if (o.tokenizer == "byte") {
    if (o.vocab_size != 0 && o.vocab_size != kByteVocabulary) refuse("vocab_size", "the byte tokenizer has exactly 257 tokens", "Leave it out, or use tokenizer => bpe.");
    o.vocab_size = kByteVocabulary;
  } else {
    if (o.vocab_size == 0) o.vocab_size = kDefaultBpeVocabulary;
    if (o.vocab_size <= kByteVocabulary) refuse("vocab_size", std::to_string(o.vocab_size) + " leaves no room for merges", "Give more than 257.");
  }
  if (o.batch_size == 0) o.batch_size = size.batch_size;
  if (o.learning_rate == 0) o.learning_rate = size.learning_rate;
}

// What fine-tuning leaves open.
void resolve_base(TrainingOptions& o) {
  if (o.context == 0) o.context = 512;
  if (o.batch_size == 0) o.batch_size = 4;
  if (o.learning_rate == 0) o.learning_rate = o.method == "full" ? 2e-5 : 2e-4;
}

}  // namespace

TrainingOptions resolve(const TrainingOptions& options) {
  TrainingOptions o = options;
  check_choice("method", o.method, {"full", "lora", "qlora"});
  check_choice("objective", o.objective, {"supervised", "dpo"});
  check_choice("loss_on", o.loss_on, {"answers", "all"});
  check_choice("precision", o.precision, {"auto", "fp32", "bf16"});
  check_choice("artifact_precision", o.artifact_precision, {"fp32", "bf16"});
  check_choice("adapter_precision", o.adapter_precision, {"fp32", "bf16", "fp16"});
  check_choice("schedule", o.schedule, {"cosine", "linear", "constant"});
  check_choice("optimizer", o.optimizer, {"adamw", "adamw_8bit", "muon"});
  check_choice("moments", o.moments, {"fp32", "bf16"});
  check_choice("recompute", o.recompute, {"auto", "none", "cheap", "blocks"});
  check_choice("long_samples", o.long_samples, {"error", "split", "truncate"});
  for (const std::string& form : o.exports) check_choice("exports", form, {"peft", "merged", "gguf_f16", "gguf_q8_0", "gguf_q4_k"});
  check_ranges(o);
  if (!o.validation_path.empty()) o.held_out_fraction = 0;
  if (core::first_invalid_utf8(o.sample_prompt) != std::string::npos) refuse("sample_prompt", "is not valid UTF-8", "Store the prompt as UTF-8.");
  if (!has_base(o) && (o.method != "full" || o.objective != "supervised")) refuse("method", "adapters and preferences need a base model", "Name a base model.");
  if (!o.chat_template.empty()) find_chat_template("", o.chat_template);
  if (has_base(o)) resolve_base(o);
  else resolve_shape(o);
  if ((o.steps > 0) == (o.epochs > 0)) refuse("steps", "either steps or epochs say how long the run is", "Give one of them.");
  if (o.samples > 0 && o.sample_tokens > o.context)
    refuse("sample_tokens", std::to_string(o.sample_tokens) + " is more than the context of " + std::to_string(o.context), "A sample ends where the context is full.");
  if (o.context < 2) refuse("context", "1 is too short", "A model needs a context of at least 2 tokens.");
  if (o.warmup_steps < 0 && o.steps > 0) o.warmup_steps = default_warmup(o.steps);
  return o;
}

bool has_base(const TrainingOptions& options) { return !options.base_folder.empty() || !options.base_config.empty(); }

int default_warmup(std::int64_t steps) { return static_cast<int>(std::min<std::int64_t>(100, steps / 10)); }

models::Tuning tuning_of(const TrainingOptions& o) {
  models::Tuning tuning;
  if (o.method == "full") return tuning;
  models::AdapterOptions adapters;
  adapters.rank = o.lora_rank, adapters.alpha = o.lora_alpha, adapters.dropout = o.lora_dropout;
  adapters.is_rank_stabilised = o.use_rslora, adapters.is_weight_decomposed = o.use_dora;
  adapters.targets = o.lora_targets, adapters.modules_to_save = o.modules_to_save;
  tuning.adapters = adapters;
  tuning.is_quantized = o.method == "qlora";
  return tuning;
}

OptimizerOptions optimizer_of(const TrainingOptions& o) {
  OptimizerOptions out{o.weight_decay, o.beta1, o.beta2, o.epsilon, o.gradient_clip};
  out.kind = parse_optimizer(o.optimizer);
  out.moments = o.moments == "bf16" ? core::DType::Bf16 : core::DType::F32;
  return out;
}

models::ModelConfig model_config(const TrainingOptions& options, int vocab_size, int end_of_text) {
  return models::fresh_gpt2(options.layers, options.width, options.heads, options.context, vocab_size, end_of_text);
}

std::string describe_for_resume(const TrainingOptions& o) {
  std::string out;
  const auto add = [&](const char* name, const std::string& value) { out += std::string(name) + "=" + value + "\n"; };
  const auto real = [](double value) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%a", value);
    return std::string(buffer);
  };
  if (!has_base(o)) add("family", o.family);
  for (const auto& [name, value] : {std::pair{"layers", o.layers}, {"width", o.width}, {"heads", o.heads}, {"context", o.context}, {"vocab_size", o.vocab_size},
                                    {"batch_size", o.batch_size}, {"gradient_accumulation", o.gradient_accumulation}, {"warmup_steps", o.warmup_steps},
                                    {"evaluation_batches", o.evaluation_batches}})
    add(name, std::to_string(value));
  add("tokenizer", o.tokenizer);
  add("steps", std::to_string(o.steps));
  add("epochs", real(o.epochs));
  add("optimizer", o.optimizer + " " + o.moments);
  if (has_base(o)) {
    add("base", o.base_name);
    add("method", o.method);
    add("objective", o.objective + " " + real(o.dpo_beta));
    add("loss_on", o.loss_on);
    add("chat_template", core::sha256_hex(o.chat_template));
  }
  if (o.method != "full") {
    add("adapters", std::to_string(o.lora_rank) + " " + real(o.lora_alpha) + " " + real(o.lora_dropout) + (o.use_rslora ? " rslora" : "") + (o.use_dora ? " dora" : ""));
    for (const std::string& target : o.lora_targets) add("target", target);
    for (const std::string& module : o.modules_to_save) add("module_to_save", module);
  }
  add("long_samples", o.long_samples);
  add("schedule", o.schedule);
  for (const auto& [name, value] : {std::pair{"learning_rate", o.learning_rate}, {"min_learning_rate_ratio", o.min_learning_rate_ratio}, {"weight_decay", o.weight_decay},
                                    {"beta1", o.beta1}, {"beta2", o.beta2}, {"epsilon", o.epsilon}, {"gradient_clip", o.gradient_clip},
                                    {"held_out_fraction", o.held_out_fraction}})
    add(name, real(value));
  add("seed", std::to_string(o.seed));
  return out;
}

}  // namespace pgtrain::engine::train
