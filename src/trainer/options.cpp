// options.cpp: names on the left are the engine's, names in quotes are the user's; they are the same.
#include "trainer/options.hpp"

namespace pgtrain::trainer {

engine::train::TrainingOptions training_options(const protocol::RunConfig& config, uint64_t memory_limit_bytes) {
  const auto whole = [&](const char* name) { return static_cast<int>(config.integer(name)); };
  engine::train::TrainingOptions options;
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
  options.steps = config.integer("steps");
  options.batch_size = whole("batch_size");
  options.gradient_accumulation = whole("gradient_accumulation");
  options.long_samples = config.text("long_samples");
  options.learning_rate = config.real("learning_rate");
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
  options.memory_limit_bytes = memory_limit_bytes;
  return options;
}

}  // namespace pgtrain::trainer
