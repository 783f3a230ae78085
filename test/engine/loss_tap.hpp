// A backend that hands everything on and keeps the losses, row by row, that Executor::loss_sum sums. For tests.
#pragma once

#include <vector>

#include "engine/train/measured_backend.hpp"

namespace pgtrain::engine {

struct LossTap : train::MeasuredBackend {
  using MeasuredBackend::MeasuredBackend;
  std::vector<double> losses;
  void sum(float* out, const float* x, std::int64_t count, bool accumulate) override {
    std::vector<float> values(static_cast<std::size_t>(count));
    download(values.data(), x, values.size() * sizeof(float));
    losses.assign(values.begin(), values.end());
    MeasuredBackend::sum(out, x, count, accumulate);
  }
};

}  // namespace pgtrain::engine
