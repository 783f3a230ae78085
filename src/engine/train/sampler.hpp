// Chooses the next token from logits: greedy at temperature 0, else by draw among the top_k likeliest that together hold top_p.
#pragma once

#include <cstdint>
#include <vector>

namespace pgtrain::engine::train {

struct SamplerOptions {
  double temperature = 0.8;
  int top_k = 0;       // 0 = all
  double top_p = 1.0;
};

// uniform in [0, 1). Ties go to the smaller id, so the choice does not depend on the sort. Not all logits may be NaN or -inf.
std::int32_t choose_token(const std::vector<float>& logits, const SamplerOptions& options, double uniform);

}  // namespace pgtrain::engine::train
