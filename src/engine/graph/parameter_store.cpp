// Flat buffers of a model's parameters, see executor.hpp.
#include "engine/graph/executor.hpp"

namespace pgtrain::engine::graph {
namespace {

std::size_t float_bytes(std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); }

}  // namespace

ParameterStore::ParameterStore(const Graph& graph, backend::Backend& backend, Mode mode)
    : backend_(backend), compute_(graph.compute), parameters_(graph.parameters), count_(graph.parameter_count()) {
  try {
    weights_ = static_cast<float*>(backend_.allocate(float_bytes(count_)));
    if (compute_ == DType::Bf16) shadow_ = backend_.allocate(static_cast<std::size_t>(count_) * 2);
    if (mode == Mode::Train) {
      gradients_ = static_cast<float*>(backend_.allocate(float_bytes(count_)));
      m_ = static_cast<float*>(backend_.allocate(float_bytes(count_)));
      v_ = static_cast<float*>(backend_.allocate(float_bytes(count_)));
      backend_.zero(gradients_, float_bytes(count_));
      backend_.zero(m_, float_bytes(count_));
      backend_.zero(v_, float_bytes(count_));
    }
  } catch (...) {
    for (void* memory : {static_cast<void*>(weights_), shadow_, static_cast<void*>(gradients_), static_cast<void*>(m_), static_cast<void*>(v_)}) backend_.release(memory);
    throw;
  }
}

ParameterStore::~ParameterStore() {
  for (void* memory : {static_cast<void*>(weights_), shadow_, static_cast<void*>(gradients_), static_cast<void*>(m_), static_cast<void*>(v_)}) backend_.release(memory);
}

void ParameterStore::upload_weights(const float* host) {
  backend_.upload(weights_, host, float_bytes(count_));
  if (shadow_ != nullptr) backend_.cast(DType::Bf16, shadow_, DType::F32, weights_, count_);
}

void ParameterStore::download_weights(float* host) const { backend_.download(host, weights_, float_bytes(count_)); }

void ParameterStore::upload_moments(const float* m, const float* v) {
  backend_.upload(m_, m, float_bytes(count_));
  backend_.upload(v_, v, float_bytes(count_));
}

void ParameterStore::download_moments(float* m, float* v) const {
  backend_.download(m, m_, float_bytes(count_));
  backend_.download(v, v_, float_bytes(count_));
}

void ParameterStore::download_gradients(float* host) const { backend_.download(host, gradients_, float_bytes(count_)); }

void ParameterStore::zero_gradients() { backend_.zero(gradients_, float_bytes(count_)); }

const void* ParameterStore::compute_pointer(const Parameter& parameter) const {
  if (shadow_ != nullptr) return static_cast<const std::uint16_t*>(shadow_) + parameter.offset;
  return weights_ + parameter.offset;
}

}  // namespace pgtrain::engine::graph
