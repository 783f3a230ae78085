// Host side of NF4, see nf4.hpp. Each product, quotient and comparison is a float's, in the order in which bitsandbytes makes them.
#include "engine/backend/nf4.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "engine/backend/dynamic_map.hpp"
#include "engine/core/error.hpp"

namespace pgtrain::engine::backend {
namespace {

const std::array<float, 256>& book() {
  static const std::array<float, 256> map = dynamic_map(true);
  return map;
}

// How many bounds between neighbouring levels a share lies above; one on a bound goes down.
template <std::size_t N>
std::array<float, N - 1> bounds_of(const float* levels) {
  std::array<float, N - 1> bounds{};
  for (std::size_t i = 0; i + 1 < N; ++i) bounds[i] = (levels[i] + levels[i + 1]) / 2.0f;
  return bounds;
}
std::uint8_t code_of(float share) {
  static const std::array<float, 15> bounds = bounds_of<16>(kNf4Levels);
  std::uint8_t code = 0;
  for (const float bound : bounds) code = static_cast<std::uint8_t>(code + (share > bound));
  return code;
}
std::uint8_t scale_code_of(float share) {
  static const std::array<float, 255> bounds = bounds_of<256>(book().data());
  return static_cast<std::uint8_t>(std::lower_bound(bounds.begin(), bounds.end(), share) - bounds.begin());
}

// The scale of a block, and each value's share of it. A block that is not full is divided by its scale, a full one multiplied by the
// scale's inverse: so does the peer.
template <class Take>
float share_out(const float* values, std::int64_t count, std::int64_t whole, Take&& take) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  const float divisor = std::max(largest, 1e-38f), inverse = 1.0f / divisor;
  for (std::int64_t i = 0; i < count; ++i) take(i, std::clamp(count == whole ? values[i] * inverse : values[i] / divisor, -1.0f, 1.0f));
  return count == whole ? largest : divisor;
}

void quantize_scales(std::vector<float>& scales, Nf4Tensor& out) {
  double sum = 0;
  for (const float scale : scales) sum += static_cast<double>(scale);
  out.offset = static_cast<float>(sum / static_cast<double>(scales.size()));
  for (float& scale : scales) scale -= out.offset;
  const auto count = static_cast<std::int64_t>(scales.size());
  for (std::int64_t begin = 0; begin < count; begin += kNf4NestedBlock)
    out.nested[static_cast<std::size_t>(begin / kNf4NestedBlock)] = share_out(scales.data() + begin, std::min(kNf4NestedBlock, count - begin), kNf4NestedBlock,
                                                                              [&](std::int64_t i, float share) { out.scales[static_cast<std::size_t>(begin + i)] = scale_code_of(share); });
}

void require_finite(const float* values, std::int64_t count) {
  const float* bad = std::find_if(values, values + count, [](float value) { return !std::isfinite(value); });
  if (bad != values + count) throw core::Error("model_invalid", "a weight is not finite, so it cannot be held in 4 bits", "Element " + std::to_string(bad - values) + " of " + std::to_string(count) + ".");
}

}  // namespace

Nf4Tensor nf4_room(std::int64_t count) {
  const std::int64_t blocks = (count + kNf4Block - 1) / kNf4Block, nested = (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
  Nf4Tensor out;
  out.codes.resize(static_cast<std::size_t>((count + 1) / 2));
  out.scales.resize(static_cast<std::size_t>(blocks));
  out.nested.resize(static_cast<std::size_t>(nested));
  return out;
}

Nf4Tensor nf4_quantize(const float* values, std::int64_t count) {
  require_finite(values, count);
  Nf4Tensor out = nf4_room(count);
  std::vector<float> scales;
  for (std::int64_t begin = 0; begin < count; begin += kNf4Block)
    scales.push_back(share_out(values + begin, std::min(kNf4Block, count - begin), kNf4Block, [&](std::int64_t i, float share) {
      std::uint8_t& pair = out.codes[static_cast<std::size_t>((begin + i) / 2)];
      pair = static_cast<std::uint8_t>(i % 2 == 0 ? code_of(share) << 4 : pair | code_of(share));
    }));
  if (count % 2 != 0) out.codes.back() = static_cast<std::uint8_t>(out.codes.back() | code_of(0.0f));  // as if a zero followed
  quantize_scales(scales, out);
  return out;
}

std::vector<float> nf4_values(const Nf4Tensor& tensor, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t block = i / kNf4Block;
    const std::uint8_t pair = tensor.codes[i / 2];
    const float scaled = book()[tensor.scales[block]] * tensor.nested[block / kNf4NestedBlock];
    out[i] = kNf4Levels[i % 2 == 0 ? pair >> 4 : pair & 15] * (scaled + tensor.offset);
  }
  return out;
}

}  // namespace pgtrain::engine::backend
