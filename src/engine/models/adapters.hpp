// Which weights of a model train: all of them, or low-rank adapters beside frozen ones (LoRA, Hu and others 2021).
//
// Called by the models' graphs, by the plan and by what reads and writes adapters. Names are module paths as PEFT has them, without
// ".weight".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/models/weights.hpp"

namespace pgtrain::engine::models {

struct AdapterOptions {
  int rank = 16;
  double alpha = 32;
  double dropout = 0;
  bool is_rank_stabilised = false;   // scale alpha / sqrt(rank) instead of alpha / rank (rsLoRA)
  bool is_weight_decomposed = false; // a trained length for each output beside the direction (DoRA, Liu and others 2024)
  // Each a module's last name ("q_proj"), the end of its path ("mlp.c_proj"), its whole path, a regular expression that matches its whole
  // path, or "all-linear": every linear layer but the head.
  std::vector<std::string> targets;
  // Modules that train whole beside the adapters: those whose path ends so, as PEFT compares ("lm_head", "embed_tokens", "norm").
  std::vector<std::string> modules_to_save;
  // PEFT's rank_pattern and alpha_pattern: for a module whose path, or its end behind a dot, is matched by a regular expression, the first
  // that does, instead of rank and alpha.
  std::vector<std::pair<std::string, int>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
};

// What is trained and how the rest lies there.
struct Tuning {
  std::optional<AdapterOptions> adapters;  // none: every weight trains
  bool is_quantized = false;               // the frozen linear layers in 4 bits (NF4)
  bool is_frozen = false;                  // but for adapters nothing trains: the model is only to be used
};

// One adapter: A [rank, in] and B [out, rank] of a module.
struct AdapterSpec {
  std::string module;                // "model.layers.0.self_attn.q_proj"
  std::int64_t in = 0, out = 0;
  std::int64_t column = 0;           // where its output begins in the projection that it shares
  std::string weight;                // that projection's name among model_weights()
  bool is_in_out = false;            // its matrix is [in, out]: PEFT's fan_in_fan_out
  std::int64_t rank = 0;
  double alpha = 0, scale = 0;       // what it computes counts scale times
};

// Last names of the modules that adapters can be put beside: every linear layer but the head.
std::vector<std::string> linear_modules(const ModelConfig& config);
// The adapters of a model, in the order of model_weights(). config_invalid when a target matches nothing, or one of targets and patterns is
// no regular expression.
std::vector<AdapterSpec> adapter_specs(const ModelConfig& config, const AdapterOptions& options);
// Names among model_weights() of what modules_to_save chooses. config_invalid when it names nothing, a part of a projection, or a
// matrix that the embedding and the head share.
std::vector<std::string> saved_weights(const ModelConfig& config, const AdapterOptions& options);

}  // namespace pgtrain::engine::models
