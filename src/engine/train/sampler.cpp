// Sampling on the host, in double: a vocabulary is small beside a forward pass. Only as much of it is sorted as is asked for.
#include "engine/train/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pgtrain::engine::train {
namespace {

// Ids of tokens and how likely they are, relative to the likeliest.
struct Candidates {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;
  double total = 0;
  void add(std::int32_t id, double weight) { ids.push_back(id), weights.push_back(weight), total += weight; }
  void keep(std::size_t count) {
    ids.resize(count), weights.resize(count);
    total = std::accumulate(weights.begin(), weights.end(), 0.0);
  }
};

}  // namespace

std::int32_t choose_token(const float* logits, std::size_t count, const SamplerOptions& options, double uniform) {
  const auto likelier = [&](std::int32_t a, std::int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::int32_t top = 0;
  for (std::size_t id = 1; id < count; ++id)
    if (likelier(static_cast<std::int32_t>(id), top)) top = static_cast<std::int32_t>(id);
  if (options.temperature <= 0) return top;
  const auto weight_of = [&](std::int32_t id) { return std::exp((static_cast<double>(logits[id]) - logits[top]) / options.temperature); };

  Candidates found;
  const bool is_sorted = options.top_k > 0 || options.top_p < 1.0;
  if (!is_sorted) {
    for (std::size_t id = 0; id < count; ++id)
      if (const double weight = weight_of(static_cast<std::int32_t>(id)); weight >= options.min_p) found.add(static_cast<std::int32_t>(id), weight);
  } else {
    std::vector<std::int32_t> ids(count);
    std::iota(ids.begin(), ids.end(), 0);
    const std::size_t most = options.top_k > 0 ? std::min<std::size_t>(options.top_k, count) : count;
    double whole = 0;
    if (options.top_k == 0)
      for (const std::int32_t id : ids) whole += weight_of(id);
    // In growing stretches: the likeliest few often hold enough.
    for (std::size_t sorted = 0; sorted < most;) {
      const std::size_t next = options.top_k > 0 ? most : std::min(most, std::max<std::size_t>(256, 4 * sorted));
      std::partial_sort(ids.begin() + static_cast<std::ptrdiff_t>(sorted), ids.begin() + static_cast<std::ptrdiff_t>(next), ids.end(), likelier);
      for (; sorted < next; ++sorted) found.add(ids[sorted], weight_of(ids[sorted]));
      if (options.top_k == 0 && found.total >= options.top_p * whole) break;
    }
    if (options.top_p < 1.0) {
      const double wanted = options.top_p * (options.top_k > 0 ? found.total : whole);
      double held = 0;
      std::size_t kept = 0;
      while (kept < found.ids.size() && held < wanted) held += found.weights[kept++];
      found.keep(std::max<std::size_t>(1, kept));
    }
    if (options.min_p > 0) found.keep(std::max<std::size_t>(1, static_cast<std::size_t>(std::find_if(found.weights.begin(), found.weights.end(), [&](double weight) {
                                                                                         return weight < options.min_p;
                                                                                       }) - found.weights.begin())));
  }
  double target = uniform * found.total;
  for (std::size_t i = 0; i + 1 < found.ids.size(); ++i) {
    if (target < found.weights[i]) return found.ids[i];
    target -= found.weights[i];
  }
  return found.ids.back();
}

void penalize_repetition(float* logits, const std::vector<bool>& is_seen, double penalty) {
  const auto factor = static_cast<float>(penalty);
  for (std::size_t id = 0; id < is_seen.size(); ++id)
    if (is_seen[id]) logits[id] = logits[id] > 0 ? logits[id] / factor : logits[id] * factor;
}

}  // namespace pgtrain::engine::train
