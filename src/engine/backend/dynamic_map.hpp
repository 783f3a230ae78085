// The dynamic data type of bitsandbytes (Dettmers 2016): 256 sorted numbers in [-1, 1], or in [0, 1], dense near zero. Code books
// of 8-bit moments (AdamW8bit) and of NF4's quantised scales, bit for bit the ones that create_dynamic_map() makes with PyTorch
// on processors with fused multiply-add: boundaries are rounded to float once.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace pgtrain::engine::backend {

inline std::array<float, 256> dynamic_map(bool is_signed) {
  std::array<float, 256> map{};
  std::size_t used = 0;
  map[used++] = 0.0f;
  map[used++] = 1.0f;
  for (int exponent = 0; exponent < 7; ++exponent) {
    const int means = is_signed ? 1 << exponent : 2 << exponent;
    const float start = 0.1f, step = (1.0f - start) / static_cast<float>(means), magnitude = static_cast<float>(std::pow(10.0, exponent - 6));
    const auto boundary = [&](int i) {
      return i < (means + 1) / 2 ? static_cast<float>(static_cast<double>(start) + static_cast<double>(step) * i) : static_cast<float>(1.0 - static_cast<double>(step) * (means - i));
    };
    for (int i = 0; i < means; ++i) {
      const float mean = (boundary(i) + boundary(i + 1)) / 2.0f;
      map[used++] = magnitude * mean;
      if (is_signed) map[used++] = -magnitude * mean;
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace pgtrain::engine::backend
