// Sampling on the host, in double: a vocabulary is small beside a forward pass.
#include "engine/train/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pgtrain::engine::train {

std::int32_t choose_token(const std::vector<float>& logits, const SamplerOptions& options, double uniform) {
  const auto likelier = [&](std::int32_t a, std::int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  if (options.temperature <= 0) return *std::min_element(ids.begin(), ids.end(), likelier);
  std::size_t kept = options.top_k > 0 ? std::min<std::size_t>(options.top_k, ids.size()) : ids.size();
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(kept), ids.end(), likelier);
  std::vector<double> weights(kept);
  double total = 0;
  for (std::size_t i = 0; i < kept; ++i) total += weights[i] = std::exp((static_cast<double>(logits[ids[i]]) - logits[ids[0]]) / options.temperature);
  if (options.top_p < 1.0) {
    double held = 0;
    std::size_t count = 0;
    while (count < kept && held < options.top_p * total) held += weights[count++];
    kept = std::max<std::size_t>(1, count);
    total = std::accumulate(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(kept), 0.0);
  }
  double target = uniform * total;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    if (target < weights[i]) return ids[i];
    target -= weights[i];
  }
  return ids[kept - 1];
}

}  // namespace pgtrain::engine::train
