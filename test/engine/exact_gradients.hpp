// Holds the gradients of a whole graph, computed in double, against central differences: of each parameter along its
// gradient and at single elements, and of all together in random directions. Used by tests of graphs and of models.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/graph/executor.hpp"
#include "naive_backend.hpp"

namespace pgtrain::engine {

// The same values each time, so that two stores of one graph hold the same.
inline void upload_random_frozen(graph::ParameterStore& store) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0.0f, 0.2f);
  for (const graph::Parameter& parameter : store.frozen()) {
    std::vector<float> values(static_cast<std::size_t>(parameter.count));
    for (float& value : values) value = normal(random);
    store.upload_frozen(parameter, values.data());
  }
}

class ExactGradients {
 public:
  static constexpr double kBar = 1e-7;
  using SetInputs = std::function<void(graph::Executor&)>;

  ExactGradients(const graph::Graph& graph, const std::vector<float>& weights, const SetInputs& set_inputs)
      : store_(graph, device_, graph::Mode::Train), executor_(graph, store_, graph::Mode::Train), weights_(weights.begin(), weights.end()) {
    store_.upload_weights(weights.data());
    upload_random_frozen(store_);
    store_.zero_gradients();
    set_inputs(executor_);
    executor_.forward_backward(kScale);
    gradient_ = device_.read(core::DType::F32, store_.gradients(), store_.count());
  }

  reference::Vector& gradient() { return gradient_; }

  // The worst relative error over all that is asked, and where it is.
  struct Worst {
    double error = 0;
    std::string where;
  };
  Worst worst(std::mt19937& random) {
    Worst worst;
    const auto note = [&](double error, const std::string& where) {
      if (!(error <= worst.error)) worst = {error, where};  // NaN is worst
    };
    for (const graph::Parameter& parameter : store_.parameters()) {
      note(error_of(parameter), parameter.name);
      for (int element = 0; element < 4; ++element) {
        const std::size_t chosen = reference::size(parameter.offset) + random() % reference::size(parameter.count);
        reference::Vector single(weights_.size());
        single[chosen] = 1;
        note(error_along(single, norm_of(parameter.offset, parameter.count)), parameter.name + " element " + std::to_string(static_cast<std::int64_t>(chosen) - parameter.offset));
      }
    }
    for (int round = 0; round < 8; ++round) {
      reference::Vector direction(weights_.size());
      double length = 0;
      for (double& d : direction) d = std::normal_distribution<double>()(random), length += d * d;
      for (double& d : direction) d /= std::sqrt(length);
      note(error_along(direction, norm_of(0, store_.count())), "all, direction " + std::to_string(round));
    }
    return worst;
  }
  // Along the gradient of one parameter, where every element of it counts.
  double error_of(const graph::Parameter& parameter) {
    const double norm = norm_of(parameter.offset, parameter.count);
    reference::Vector direction(weights_.size());
    for (auto i = reference::size(parameter.offset); i < reference::size(parameter.offset + parameter.count); ++i) direction[i] = gradient_[i] / norm;
    return error_along(direction, norm);
  }

 private:
  static constexpr float kScale = 0.25f;
  // Loss in double, which Executor::loss_sum gives as float only.
  struct Device : ExactBackend {
    Device() { holds_norms = true; }
    double last_sum = 0;
    void sum(float* out, const float* x, std::int64_t count, bool accumulate) override {
      ExactBackend::sum(out, x, count, accumulate);
      last_sum = read(core::DType::F32, out, 1)[0];
    }
  };

  double norm_of(std::int64_t offset, std::int64_t count) const {
    double norm = 0;
    for (auto i = reference::size(offset); i < reference::size(offset + count); ++i) norm += gradient_[i] * gradient_[i];
    return std::sqrt(norm);
  }
  double error_along(const reference::Vector& direction, double norm) {
    double slope = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) slope += direction[i] * gradient_[i];
    constexpr double step = 2e-4;
    const double wide = loss_at(direction, step) - loss_at(direction, -step), narrow = loss_at(direction, step / 2) - loss_at(direction, -step / 2);
    // Richardson's step removes the third-order term.
    return std::abs((4 * narrow / step - wide / (2 * step)) / 3 - slope) / norm;
  }
  double loss_at(const reference::Vector& direction, double step) {
    reference::Vector moved(weights_);
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += step * direction[i];
    device_.write(core::DType::F32, store_.weights(), moved);
    executor_.forward();
    executor_.loss_sum();
    return kScale * device_.last_sum;
  }

  Device device_;
  graph::ParameterStore store_;
  graph::Executor executor_;
  reference::Vector weights_, gradient_;
};

// Also shows that the comparison can fail: one gradient that is off by a thousandth of its parameter's must be found.
inline void expect_exact_gradients(const graph::Graph& graph, const std::vector<float>& weights, const ExactGradients::SetInputs& set_inputs, std::mt19937& random) {
  ExactGradients exact(graph, weights, set_inputs);
  const ExactGradients::Worst found = exact.worst(random);
  EXPECT_LE(found.error, ExactGradients::kBar) << found.where;
  for (const graph::Parameter& parameter : graph.parameters) {
    if (!parameter.trains) continue;
    ExactGradients planted(graph, weights, set_inputs);
    double most = 0;
    std::size_t at = 0;
    for (auto i = reference::size(parameter.offset); i < reference::size(parameter.offset + parameter.count); ++i)
      if (std::abs(planted.gradient()[i]) > most) most = std::abs(planted.gradient()[i]), at = i;
    ASSERT_GT(most, 0) << parameter.name << " has no gradient at all";
    planted.gradient()[at] *= 1.001;
    EXPECT_GT(planted.error_of(parameter), ExactGradients::kBar) << parameter.name;
  }
}

}  // namespace pgtrain::engine
