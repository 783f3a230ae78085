// The learning rate of each step: linear warm-up, then cosine, linear or constant.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>

namespace pgtrain::engine::train {

struct Schedule {
  std::string shape = "cosine";  // cosine | linear | constant
  double peak = 1e-3;
  double floor_ratio = 0.1;      // of peak, where the decay ends
  std::int64_t warmup_steps = 0, steps = 1;

  // step counts from 0; the first step of a warm-up is peak / warmup_steps, not 0, so that it learns something.
  double rate(std::int64_t step) const {
    if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    if (shape == "constant") return peak;
    const double done = std::min(1.0, static_cast<double>(step - warmup_steps) / static_cast<double>(std::max<std::int64_t>(1, steps - warmup_steps)));
    const double left = shape == "linear" ? 1.0 - done : 0.5 * (1.0 + std::cos(std::numbers::pi * done));
    return peak * (floor_ratio + (1.0 - floor_ratio) * left);
  }
};

}  // namespace pgtrain::engine::train
