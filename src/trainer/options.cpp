// options.cpp: names on the left are the engine's, names in quotes are the user's; they are the same.
#include "trainer/options.hpp"

#include <algorithm>

namespace pgtrain::trainer {

namespace {

// The first comma from a place on that is no part of a pattern, as those in {1,3}, (a|b,c) and [,;] are.
size_t next_comma(const std::string& text, size_t at) {
  int depth = 0;
  for (bool is_class = false; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\\') ++at;
    else if (is_class) is_class = c != ']';
    else if (c == '[') is_class = true;
    else if (c == '(' || c == '{') ++depth;
    else if (c == ')' || c == '}') --depth;
    else if (c == ',' && depth <= 0) return at;
  }
  return text.size();
}

// Apart by commas, spaces around them left out.
std::vector<std::string> list_of(const std::string& text) {
  std::vector<std::string> items;
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_comma(text, at);
    const size_t first = text.find_first_not_of(' ', at), last = text.find_last_not_of(' ', end - 1);
    if (first < end && end > at) items.push_back(text.substr(first, last - first + 1));
    at = end + 1;
  }
  return items;
}

}  // namespace

engine::train::TrainingOptions training_options(const protocol::RunConfig& config, const protocol::down::Job& job) {
  const auto whole = [&](const char* name) { return static_cast<int>(config.integer(name)); };
  const auto is_true = [&](const char* name) { return config.text(name) == "true"; };
  engine::train::TrainingOptions options;
  if (!job.base.empty()) options.base_folder = kBaseFolder;
  options.base_config = job.base_config;
  options.validation_path = job.validation.name;
  options.template_time = job.submitted_at;
  options.base_name = job.base_name.empty() ? config.text("base_model") : job.base_name;
  options.method = config.text("method");
  options.objective = config.text("objective");
  options.dpo_beta = config.real("dpo_beta");
  options.loss_on = config.text("loss_on");
  options.chat_template = config.text("chat_template");
  options.lora_rank = whole("lora_rank");
  options.lora_alpha = config.real("lora_alpha");
  options.lora_dropout = config.real("lora_dropout");
  options.lora_targets = list_of(config.text("lora_targets"));
  options.modules_to_save = list_of(config.text("modules_to_save"));
  options.use_rslora = is_true("use_rslora");
  options.use_dora = is_true("use_dora");
  options.exports = list_of(config.text("exports"));
  options.epochs = config.real("epochs");
  options.optimizer = config.text("optimizer");
  options.moments = config.text("moments");
  options.early_stopping_patience = whole("early_stopping_patience");
  options.early_stopping_threshold = config.real("early_stopping_threshold");
  options.recompute = config.text("recompute");
  options.family = config.text("family");
  options.size = config.text("size");
  options.layers = whole("layers");
  options.width = whole("width");
  options.heads = whole("heads");
  options.context = whole("context");
  options.tokenizer = config.text("tokenizer");
  options.vocab_size = whole("vocab_size");
  options.precision = config.text("precision");
  options.artifact_precision = config.text("artifact_precision");
  options.adapter_precision = config.text("adapter_precision");
  options.steps = config.integer("steps");
  options.batch_size = whole("batch_size");
  options.gradient_accumulation = whole("gradient_accumulation");
  options.long_samples = config.text("long_samples");
  options.learning_rate = config.learning_rate();
  options.min_learning_rate_ratio = config.real("min_learning_rate_ratio");
  options.schedule = config.text("schedule");
  options.warmup_steps = whole("warmup_steps");
  options.weight_decay = config.real("weight_decay");
  options.beta1 = config.real("beta1");
  options.beta2 = config.real("beta2");
  options.epsilon = config.real("epsilon");
  options.gradient_clip = config.real("gradient_clip");
  options.held_out_fraction = config.real("held_out_fraction");
  options.evaluation_batches = whole("evaluation_batches");
  options.evaluate_every = whole("evaluate_every");
  options.checkpoint_every = whole("checkpoint_every");
  options.samples = whole("samples");
  options.sample_tokens = whole("sample_tokens");
  options.sample_prompt = config.text("sample_prompt");
  options.sample_temperature = config.real("sample_temperature");
  options.sample_top_k = whole("sample_top_k");
  options.sample_top_p = config.real("sample_top_p");
  options.seed = config.unsigned64("seed");
  options.max_seconds = config.real("max_seconds");
  options.memory_limit_bytes = job.memory_limit_bytes;
  return options;
}

}  // namespace pgtrain::trainer
