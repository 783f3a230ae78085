// config_names.cpp: finds the configuration key that a user meant: first by the names that other training tools give
// to the same thing, then by edit distance. Called where an unknown key is refused.
#include <algorithm>

#include "protocol/run_config.hpp"

namespace pgtrain::protocol {

namespace {

struct Alias {
  const char* other;
  const char* ours;
};

constexpr Alias aliases[] = {
    {"lr", "learning_rate"},
    {"max_lr", "learning_rate"},
    {"min_lr", "min_learning_rate_ratio"},
    {"n_layer", "layers"},
    {"n_layers", "layers"},
    {"num_hidden_layers", "layers"},
    {"depth", "layers"},
    {"n_embd", "width"},
    {"hidden_size", "width"},
    {"d_model", "width"},
    {"dim", "width"},
    {"n_head", "heads"},
    {"num_attention_heads", "heads"},
    {"n_ctx", "context"},
    {"block_size", "context"},
    {"max_length", "context"},
    {"max_seq_len", "context"},
    {"sequence_length", "context"},
    {"seq_len", "context"},
    {"n_positions", "context"},
    {"batch", "batch_size"},
    {"micro_batch", "batch_size"},
    {"grad_accum", "gradient_accumulation"},
    {"accumulation_steps", "gradient_accumulation"},
    {"n_epochs", "epochs"},
    {"num_epochs", "epochs"},
    {"num_train_epochs", "epochs"},
    {"r", "lora_rank"},
    {"rank", "lora_rank"},
    {"lora_r", "lora_rank"},
    {"alpha", "lora_alpha"},
    {"dropout", "lora_dropout"},
    {"target_modules", "lora_targets"},
    {"lora_target", "lora_targets"},
    {"lora_target_modules", "lora_targets"},
    {"base", "base_model"},
    {"model_name", "base_model"},
    {"model_name_or_path", "base_model"},
    {"model_id", "base_model"},
    {"finetuning_type", "method"},
    {"adapter", "method"},
    {"stage", "objective"},
    {"beta", "dpo_beta"},
    {"train_on_inputs", "loss_on"},
    {"completion_only_loss", "loss_on"},
    {"assistant_only_loss", "loss_on"},
    {"template", "chat_template"},
    {"gradient_checkpointing", "recompute"},
    {"activation_checkpointing", "recompute"},
    {"optim", "optimizer"},
    {"save_total_limit", "keep_checkpoints"},
    {"patience", "early_stopping_patience"},
    {"export", "exports"},
    {"iterations", "steps"},
    {"max_iters", "steps"},
    {"max_steps", "steps"},
    {"warmup", "warmup_steps"},
    {"wd", "weight_decay"},
    {"grad_clip", "gradient_clip"},
    {"max_grad_norm", "gradient_clip"},
    {"clip", "gradient_clip"},
    {"eps", "epsilon"},
    {"dtype", "precision"},
    {"bf16", "precision"},
    {"fp16", "precision"},
    {"lr_scheduler", "schedule"},
    {"lr_scheduler_type", "schedule"},
    {"random_seed", "seed"},
    {"save_steps", "checkpoint_every"},
    {"save_every", "checkpoint_every"},
    {"eval_steps", "evaluate_every"},
    {"eval_interval", "evaluate_every"},
    {"eval_every", "evaluate_every"},
    {"val_split", "held_out_fraction"},
    {"validation_split", "held_out_fraction"},
    {"test_size", "held_out_fraction"},
    {"preset", "size"},
    {"model", "base_model"},
    {"model_size", "size"},
    {"architecture", "family"},
    {"vocabulary_size", "vocab_size"},
    {"n_vocab", "vocab_size"},
    {"max_time", "max_seconds"},
    {"time_limit", "max_seconds"},
    {"timeout", "max_seconds"},
    {"prompt", "sample_prompt"},
    {"temperature", "sample_temperature"},
    {"top_k", "sample_top_k"},
    {"top_p", "sample_top_p"},
    {"truncation", "long_samples"},
};

std::string plain(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 64)) {
    if (c >= 'A' && c <= 'Z') {
      if (!text.empty() && text.back() >= 'a' && text.back() <= 'z') text += '_';  // learningRate
      text += static_cast<char>(c - 'A' + 'a');
    } else {
      text += c == '-' || c == ' ' || c == '.' ? '_' : c;
    }
  }
  return text;
}

// Optimal string alignment: insert, delete, replace, swap of neighbours, each at the price of one.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

std::string nearest_config_field(std::string_view name) {
  const std::string given = plain(name);
  for (const Alias& alias : aliases)
    if (given == alias.other) return alias.ours;
  std::string nearest;
  size_t best = std::max<size_t>(2, given.size() / 3) + 1;
  for (const ConfigField& field : config_fields()) {
    const size_t distance = edit_distance(given, field.name);
    if (distance < best) {
      best = distance;
      nearest = field.name;
    }
  }
  return nearest;
}

}  // namespace pgtrain::protocol
