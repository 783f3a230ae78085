// Flat buffers of a model's parameters, see executor.hpp.
#include "engine/graph/executor.hpp"

#include <algorithm>

#include "engine/backend/dynamic_map.hpp"
#include "engine/backend/nf4.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/nf4_layout.hpp"

namespace pgtrain::engine::graph {
namespace {

constexpr std::int64_t kAtOnce = std::int64_t{1} << 20;  // of what is narrowed or taken apart on the host

std::size_t float_bytes(std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); }

}  // namespace

ParameterStore::ParameterStore(const Graph& graph, backend::Backend& backend, Mode mode, Gradients gradients)
    : backend_(backend), compute_(graph.compute), count_(graph.parameter_count()) {
  for (const Parameter& parameter : graph.parameters) (parameter.trains ? parameters_ : frozen_parameters_).push_back(parameter);
  try {
    if (compute_ == DType::F32) {
      weights_ = static_cast<float*>(backend_.allocate(float_bytes(count_)));
    } else {
      high_ = static_cast<core::Bf16*>(backend_.allocate(static_cast<std::size_t>(count_) * sizeof *high_));
      low_ = static_cast<std::uint16_t*>(backend_.allocate(static_cast<std::size_t>(count_) * sizeof *low_));
    }
    if (graph.frozen_count() > 0) frozen_ = static_cast<char*>(backend_.allocate(static_cast<std::size_t>(graph.frozen_count()) * core::size_of(compute_)));
    if (graph.quantized_bytes() > 0) {
      quantized_ = static_cast<char*>(backend_.allocate(graph.quantized_bytes()));
      backend_.upload(quantized_, backend::dynamic_map(true).data(), kNf4First);
    }
    if (mode == Mode::Train && gradients == Gradients::Added) {
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
  for (void* memory : {static_cast<void*>(weights_), static_cast<void*>(high_), static_cast<void*>(low_), static_cast<void*>(gradients_), static_cast<void*>(frozen_), static_cast<void*>(quantized_)})
    backend_.release(memory);
}

namespace {

// Between [in, out] and [out, in].
std::vector<float> transposed(const float* from, std::int64_t rows, std::int64_t columns) {
  std::vector<float> out(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) out[static_cast<std::size_t>(c * rows + r)] = from[r * columns + c];
  return out;
}

}  // namespace

// A matrix [in, out] is quantised as the [out, in] that it would be elsewhere: blocks are runs of one output's weights.
void ParameterStore::upload_nf4(const Parameter& parameter, const float* host) {
  std::vector<float> turned;
  if (parameter.role == Parameter::Role::InOut) {
    turned = transposed(host, parameter.shape[0], parameter.shape[1]);
    host = turned.data();
  }
  for (const Nf4Part& part : nf4_parts(parameter)) {
    const backend::Nf4Tensor tensor = backend::nf4_quantize(host + part.first, part.count);
    backend_.upload(quantized_ + part.codes, tensor.codes.data(), tensor.codes.size());
    backend_.upload(quantized_ + part.scales, tensor.scales.data(), tensor.scales.size());
    backend_.upload(quantized_ + part.nested, tensor.nested.data(), tensor.nested.size() * sizeof(float));
    offsets_[part.codes] = tensor.offset;
  }
  ++quantized_count_;
}

void ParameterStore::dequantize(const Parameter& parameter, void* to) const {
  for (const Nf4Part& part : nf4_parts(parameter))
    backend_.nf4_dequantize({.type = compute_, .out = static_cast<char*>(to) + static_cast<std::size_t>(part.first) * core::size_of(compute_),
                             .codes = reinterpret_cast<const std::uint8_t*>(quantized_ + part.codes), .absmax8 = reinterpret_cast<const std::uint8_t*>(quantized_ + part.scales),
                             .nested_absmax = reinterpret_cast<const float*>(quantized_ + part.nested), .code_book = reinterpret_cast<const float*>(quantized_),
                             .nested_offset = offsets_.at(part.codes), .count = part.count});
}

std::vector<float> ParameterStore::nf4_host_values(const Parameter& parameter) const {
  std::vector<float> out;
  for (const Nf4Part& part : nf4_parts(parameter)) {
    backend::Nf4Tensor tensor = backend::nf4_room(part.count);
    backend_.download(tensor.codes.data(), quantized_ + part.codes, tensor.codes.size());
    backend_.download(tensor.scales.data(), quantized_ + part.scales, tensor.scales.size());
    backend_.download(tensor.nested.data(), quantized_ + part.nested, tensor.nested.size() * sizeof(float));
    tensor.offset = offsets_.at(part.codes);
    const std::vector<float> values = backend::nf4_values(tensor, part.count);
    out.insert(out.end(), values.begin(), values.end());
  }
  if (parameter.role == Parameter::Role::InOut) out = transposed(out.data(), parameter.shape[1], parameter.shape[0]);
  return out;
}

std::vector<float> ParameterStore::frozen_values(const Parameter& parameter) const {
  std::vector<float> out;
  if (parameter.storage == Storage::Nf4) {
    out = nf4_host_values(parameter);
    if (compute_ == DType::Bf16)
      for (float& value : out) value = core::to_float(core::to_bf16(value));
    return out;
  }
  out.resize(static_cast<std::size_t>(parameter.count));
  if (compute_ == DType::F32) {
    backend_.download(out.data(), compute_pointer(parameter), float_bytes(parameter.count));
  } else {
    std::vector<core::Bf16> narrow(out.size());
    backend_.download(narrow.data(), compute_pointer(parameter), narrow.size() * sizeof(core::Bf16));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = core::to_float(narrow[i]);
  }
  return out;
}

void ParameterStore::upload_frozen(const Parameter& parameter, const float* host) {
  if (parameter.storage == Storage::Nf4) return upload_nf4(parameter, host);
  char* to = frozen_ + static_cast<std::size_t>(parameter.offset) * core::size_of(compute_);
  if (compute_ == DType::F32) return backend_.upload(to, host, float_bytes(parameter.count));
  // Narrowed here, so that the device needs no room for both.
  std::vector<core::Bf16> narrow(static_cast<std::size_t>(std::min(parameter.count, kAtOnce)));
  for (std::int64_t begin = 0; begin < parameter.count; begin += kAtOnce) {
    const std::int64_t count = std::min(kAtOnce, parameter.count - begin);
    for (std::int64_t i = 0; i < count; ++i) narrow[static_cast<std::size_t>(i)] = core::to_bf16(host[begin + i]);
    backend_.upload(to + static_cast<std::size_t>(begin) * sizeof(core::Bf16), narrow.data(), static_cast<std::size_t>(count) * sizeof(core::Bf16));
  }
}

// Taken apart here, so that the device needs no room for floats as well.
void ParameterStore::upload(std::int64_t first, std::int64_t count, const float* host) {
  if (weights_ != nullptr) return backend_.upload(weights_ + first, host, float_bytes(count));
  std::vector<core::Bf16> high(static_cast<std::size_t>(std::min(count, kAtOnce)));
  std::vector<std::uint16_t> low(high.size());
  for (std::int64_t begin = 0; begin < count; begin += kAtOnce) {
    const auto now = static_cast<std::size_t>(std::min(kAtOnce, count - begin));
    for (std::size_t i = 0; i < now; ++i) {
      const core::Halves halves = core::split(host[static_cast<std::size_t>(begin) + i]);
      high[i] = halves.high, low[i] = halves.low;
    }
    backend_.upload(high_ + first + begin, high.data(), now * sizeof high[0]);
    backend_.upload(low_ + first + begin, low.data(), now * sizeof low[0]);
  }
}

void ParameterStore::download(std::int64_t first, std::int64_t count, float* host) const {
  if (weights_ != nullptr) return backend_.download(host, weights_ + first, float_bytes(count));
  std::vector<core::Bf16> high(static_cast<std::size_t>(std::min(count, kAtOnce)));
  std::vector<std::uint16_t> low(high.size());
  for (std::int64_t begin = 0; begin < count; begin += kAtOnce) {
    const auto now = static_cast<std::size_t>(std::min(kAtOnce, count - begin));
    backend_.download(high.data(), high_ + first + begin, now * sizeof high[0]);
    backend_.download(low.data(), low_ + first + begin, now * sizeof low[0]);
    for (std::size_t i = 0; i < now; ++i) host[static_cast<std::size_t>(begin) + i] = core::join({high[i], low[i]});
  }
}

float* ParameterStore::floats(const Parameter& parameter, float* room) const {
  if (weights_ != nullptr) return weights_ + parameter.offset;
  backend_.join(room, halves(parameter.offset), parameter.count);
  return room;
}

void ParameterStore::keep_floats(const Parameter& parameter, const float* from) {
  if (weights_ == nullptr) backend_.split(halves(parameter.offset), from, parameter.count);
}

void ParameterStore::download_gradients(float* host) const { backend_.download(host, lent_ != nullptr ? lent_ : gradients_, float_bytes(count_)); }

void ParameterStore::zero_gradients() { backend_.zero(gradients(), float_bytes(count_)); }

const void* ParameterStore::compute_pointer(const Parameter& parameter) const {
  if (parameter.storage == Storage::Nf4) throw core::Error("config_invalid", "the weight " + parameter.name + " is held in 4 bits, which this cannot read");
  if (!parameter.trains) return frozen_ + static_cast<std::size_t>(parameter.offset) * core::size_of(compute_);
  if (high_ != nullptr) return high_ + parameter.offset;
  return weights_ + parameter.offset;
}

}  // namespace pgtrain::engine::graph
