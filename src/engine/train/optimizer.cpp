// Neighbouring parameters of one kind are updated in one call: with matrices first, that is two calls a step.
#include "engine/train/optimizer.hpp"

#include <cmath>

namespace pgtrain::engine::train {

Optimizer::Optimizer(graph::ParameterStore& store, const OptimizerOptions& options)
    : store_(store), options_(options), squared_norm_(static_cast<float*>(store.backend().allocate(sizeof(float)))) {}

Optimizer::~Optimizer() { store_.backend().release(squared_norm_); }

double Optimizer::gradient_norm() {
  store_.backend().sum_of_squares(squared_norm_, store_.gradients(), store_.count(), false);
  float squares = 0;
  store_.backend().download(&squares, squared_norm_, sizeof squares);
  return std::sqrt(static_cast<double>(squares));
}

void Optimizer::update(std::int64_t step, double learning_rate) {
  backend::AdamW call;
  call.learning_rate = static_cast<float>(learning_rate);
  call.beta1 = static_cast<float>(options_.beta1), call.beta2 = static_cast<float>(options_.beta2);
  call.epsilon = static_cast<float>(options_.epsilon);
  const double taken = static_cast<double>(step + 1);
  call.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(options_.beta1, taken)));
  call.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(options_.beta2, taken)));
  call.clip = static_cast<float>(options_.gradient_clip);
  call.squared_norm = options_.gradient_clip > 0 ? squared_norm_ : nullptr;
  const auto& parameters = store_.parameters();
  for (std::size_t first = 0; first < parameters.size();) {
    std::size_t next = first + 1;
    while (next < parameters.size() && parameters[next].decays == parameters[first].decays) ++next;
    const std::int64_t begin = parameters[first].offset, end = next < parameters.size() ? parameters[next].offset : store_.count();
    call.parameter = store_.weights() + begin, call.gradient = store_.gradients() + begin;
    call.m = store_.first_moments() + begin, call.v = store_.second_moments() + begin;
    call.shadow = store_.shadow() != nullptr ? static_cast<core::Bf16*>(store_.shadow()) + begin : nullptr;
    call.count = end - begin;
    call.weight_decay = parameters[first].decays ? static_cast<float>(options_.weight_decay) : 0.0f;
    store_.backend().adamw(call);
    first = next;
  }
}

}  // namespace pgtrain::engine::train
