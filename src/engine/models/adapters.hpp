// Which weights of a model train: all of them, or low-rank adapters beside frozen ones (LoRA, Hu and others 2021).
//
// Called by the models' graphs, by the plan and by what writes adapters. Names are module paths as PEFT has them, without ".weight".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pgtrain::engine::models {

struct AdapterOptions {
  int rank = 16;
  double alpha = 32;
  double dropout = 0;
  bool is_rank_stabilised = false;   // scale alpha / sqrt(rank) instead of alpha / rank (rsLoRA)
  std::vector<std::string> targets;  // last parts of module names, "q_proj"; all-linear is spelled out by the model
  double scale() const;
};

// One adapter: A [rank, in] and B [out, rank] of a module.
struct AdapterSpec {
  std::string module;                // "model.layers.0.self_attn.q_proj"
  std::int64_t in = 0, out = 0;
  std::int64_t column = 0;           // where its output begins in the projection that it shares
};

}  // namespace pgtrain::engine::models
