// Chooses the next token from logits: greedy at temperature 0, else by draw among the top_k likeliest that together hold top_p and are
// at least min_p times as likely as the likeliest. Means and order are those of transformers.
#pragma once

#include <cstdint>
#include <vector>

namespace pgtrain::engine::train {

struct SamplerOptions {
  double temperature = 0.8;
  int top_k = 0;       // 0 = all
  double top_p = 1.0;
  double min_p = 0;    // 0 = all
};

// uniform in [0, 1). Ties go to the smaller id, so the choice does not depend on the sort. Not all logits may be NaN or -inf.
std::int32_t choose_token(const float* logits, std::size_t count, const SamplerOptions& options, double uniform);
inline std::int32_t choose_token(const std::vector<float>& logits, const SamplerOptions& options, double uniform) {
  return choose_token(logits.data(), logits.size(), options, uniform);
}

// Divides the positive logits of tokens that stand in the text, and multiplies the negative ones, once each (Keskar and others 2019).
void penalize_repetition(float* logits, const std::vector<bool>& is_seen, double penalty);

}  // namespace pgtrain::engine::train
