// Rotations.
#include "engine/models/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pgtrain::engine::models {
namespace {

double base_of(const Rope& rope, int head_width, std::int64_t positions) {
  if (rope.kind != RopeKind::Dynamic || positions <= rope.original_context) return rope.base;
  const double width = head_width, stretched = rope.factor * static_cast<double>(positions) / rope.original_context - (rope.factor - 1);
  return rope.base * std::pow(stretched, width / (width - 2));
}

float llama3(const Rope& rope, float frequency) {
  const auto factor = static_cast<float>(rope.factor), low = static_cast<float>(rope.low_frequency_factor),
             high = static_cast<float>(rope.high_frequency_factor), original = static_cast<float>(rope.original_context);
  const float length = 2.0f * std::numbers::pi_v<float> / frequency;
  if (length > original / low) return frequency / factor;
  if (length < original / high) return frequency;
  const float smooth = (original / length - low) / (high - low);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

// Pairs that turn often in the original context keep their frequency, those that turn seldom have it divided, between them it blends.
std::vector<float> yarn(const Rope& rope, int head_width, const std::vector<float>& turns) {
  const auto pair_that_turns = [&](double times) {
    return head_width * std::log(rope.original_context / (times * 2 * std::numbers::pi)) / (2 * std::log(rope.base));
  };
  double first = pair_that_turns(rope.fast_turns), last = pair_that_turns(rope.slow_turns);
  if (rope.rounds_turns) first = std::floor(first), last = std::ceil(last);
  first = std::max(first, 0.0), last = std::min(last, head_width - 1.0);
  if (first == last) last += 0.001;
  std::vector<float> out;
  for (const float turn : turns) {
    const float ramp = (static_cast<float>(out.size()) - static_cast<float>(first)) / static_cast<float>(last - first);
    const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    out.push_back(1.0f / (static_cast<float>(rope.factor) * turn) * (1.0f - kept) + 1.0f / turn * kept);
  }
  return out;
}

}  // namespace

const char* rope_kind_name(RopeKind kind) {
  switch (kind) {
    case RopeKind::None:
      return "none";
    case RopeKind::Default:
      return "default";
    case RopeKind::Linear:
      return "linear";
    case RopeKind::Dynamic:
      return "dynamic";
    case RopeKind::Yarn:
      return "yarn";
    case RopeKind::Llama3:
      return "llama3";
  }
  return "";
}

std::vector<float> rope_frequencies(const Rope& rope, int head_width, std::int64_t positions) {
  std::vector<float> turns(static_cast<std::size_t>(head_width / 2));
  const auto base = static_cast<float>(base_of(rope, head_width, positions));
  for (std::size_t i = 0; i < turns.size(); ++i) turns[i] = std::pow(base, static_cast<float>(2 * i) / static_cast<float>(head_width));
  if (rope.kind == RopeKind::Yarn) return yarn(rope, head_width, turns);
  std::vector<float> out;
  for (const float turn : turns) {
    const float frequency = 1.0f / turn;
    out.push_back(rope.kind == RopeKind::Linear ? frequency / static_cast<float>(rope.factor) : rope.kind == RopeKind::Llama3 ? llama3(rope, frequency) : frequency);
  }
  return out;
}

double yarn_attention_factor(double factor, double weight) { return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1; }

}  // namespace pgtrain::engine::models
