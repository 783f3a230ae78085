// Flat buffers of a model's parameters, see executor.hpp.
#include "engine/graph/executor.hpp"

#include <algorithm>

namespace pgtrain::engine::graph {
namespace {

std::size_t float_bytes(std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); }

}  // namespace

ParameterStore::ParameterStore(const Graph& graph, backend::Backend& backend, Mode mode)
    : backend_(backend), compute_(graph.compute), count_(graph.parameter_count()) {
  for (const Parameter& parameter : graph.parameters) (parameter.trains ? parameters_ : frozen_parameters_).push_back(parameter);
  try {
    weights_ = static_cast<float*>(backend_.allocate(float_bytes(count_)));
    if (compute_ == DType::Bf16) shadow_ = backend_.allocate(static_cast<std::size_t>(count_) * 2);
    if (graph.frozen_count() > 0) frozen_ = static_cast<char*>(backend_.allocate(static_cast<std::size_t>(graph.frozen_count()) * core::size_of(compute_)));
    if (mode == Mode::Train) {
      gradients_ = static_cast<float*>(backend_.allocate(float_bytes(count_)));
      backend_.zero(gradients_, float_bytes(count_));
    }
  } catch (...) {
    release_all();
    throw;
  }
}

ParameterStore::~ParameterStore() { release_all(); }

void ParameterStore::release_all() noexcept {
  for (void* memory : {static_cast<void*>(weights_), shadow_, static_cast<void*>(gradients_), static_cast<void*>(frozen_)})
    backend_.release(memory);
}

void ParameterStore::upload_frozen(const Parameter& parameter, const float* host) {
  char* to = frozen_ + static_cast<std::size_t>(parameter.offset) * core::size_of(compute_);
  if (compute_ == DType::F32) return backend_.upload(to, host, float_bytes(parameter.count));
  // Narrowed here, so that the device needs no room for both.
  constexpr std::int64_t kAtOnce = std::int64_t{1} << 20;
  std::vector<core::Bf16> narrow(static_cast<std::size_t>(std::min(parameter.count, kAtOnce)));
  for (std::int64_t begin = 0; begin < parameter.count; begin += kAtOnce) {
    const std::int64_t count = std::min(kAtOnce, parameter.count - begin);
    for (std::int64_t i = 0; i < count; ++i) narrow[static_cast<std::size_t>(i)] = core::to_bf16(host[begin + i]);
    backend_.upload(to + static_cast<std::size_t>(begin) * sizeof(core::Bf16), narrow.data(), static_cast<std::size_t>(count) * sizeof(core::Bf16));
  }
}

void ParameterStore::upload_weights(const float* host) {
  backend_.upload(weights_, host, float_bytes(count_));
  refresh_shadow();
}

void ParameterStore::refresh_shadow() {
  if (shadow_ != nullptr) backend_.cast(DType::Bf16, shadow_, DType::F32, weights_, count_);
}

void ParameterStore::download_weights(float* host) const { backend_.download(host, weights_, float_bytes(count_)); }

void ParameterStore::download_gradients(float* host) const { backend_.download(host, gradients_, float_bytes(count_)); }

void ParameterStore::zero_gradients() { backend_.zero(gradients_, float_bytes(count_)); }

const void* ParameterStore::compute_pointer(const Parameter& parameter) const {
  if (!parameter.trains) return frozen_ + static_cast<std::size_t>(parameter.offset) * core::size_of(compute_);
  if (shadow_ != nullptr) return static_cast<const std::uint16_t*>(shadow_) + parameter.offset;
  return weights_ + parameter.offset;
}

}  // namespace pgtrain::engine::graph
