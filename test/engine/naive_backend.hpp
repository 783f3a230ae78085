// Backends that do every operation by the double-precision references, on host memory.
//
// NaiveBackend rounds each result once, when it is stored, as a device would. ExactBackend keeps a double beside every float
// that it stores and computes from those, so that a whole graph runs in double and can be held against differences.
// Slow on purpose; for tests only.
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "engine/backend/backend.hpp"
#include "reference_llama.hpp"

namespace pgtrain::engine {

class RoundedMemory {
 public:
  void* allocate(std::size_t bytes) {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    // NaN everywhere: whatever is read before it is written shows.
    std::memset(memory, 0xFF, bytes);
    return memory;
  }
  void release(void* memory) noexcept { std::free(memory); }
  void stored(void*, std::size_t) {}
  void copied(void*, const void*, std::size_t) {}
  double get(core::DType type, const void* x, std::int64_t i) const {
    return type == core::DType::Bf16 ? core::to_float(static_cast<const core::Bf16*>(x)[i]) : static_cast<const float*>(x)[i];
  }
  void put(core::DType type, void* x, std::int64_t i, double value) {
    if (type == core::DType::Bf16) static_cast<core::Bf16*>(x)[i] = core::to_bf16(static_cast<float>(value));
    else static_cast<float*>(x)[i] = static_cast<float>(value);
  }
};

// Floats only. What is released is not used again: tests are small, and a stale pointer then reads NaN.
class ExactMemory {
 public:
  ExactMemory() : floats_(static_cast<char*>(map(kBytes))), doubles_(static_cast<double*>(map(2 * kBytes))) {}
  ~ExactMemory() {
    munmap(floats_, kBytes);
    munmap(doubles_, 2 * kBytes);
  }
  ExactMemory(const ExactMemory&) = delete;
  ExactMemory& operator=(const ExactMemory&) = delete;
  void* allocate(std::size_t bytes) {
    void* memory = floats_ + used_;
    used_ += (bytes + 255) / 256 * 256;
    if (used_ > kBytes) throw std::runtime_error("the exact backend is for small tests");
    std::memset(memory, 0xFF, bytes);
    stored(memory, bytes);
    return memory;
  }
  void release(void*) noexcept {}
  void stored(void* memory, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes / sizeof(float); ++i) beside(memory)[i] = static_cast<const float*>(memory)[i];
  }
  // What a device's copy moves, the doubles beside it too.
  void copied(void* to, const void* from, std::size_t bytes) { std::memmove(beside(to), beside(from), bytes / sizeof(float) * sizeof(double)); }
  double get(core::DType, const void* x, std::int64_t i) const { return beside(x)[i]; }
  void put(core::DType, void* x, std::int64_t i, double value) {
    static_cast<float*>(x)[i] = static_cast<float>(value);
    beside(x)[i] = value;
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{64} << 20;
  static void* map(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return memory;
  }
  double* beside(const void* x) const { return doubles_ + (static_cast<const char*>(x) - floats_) / static_cast<std::ptrdiff_t>(sizeof(float)); }
  char* floats_;
  double* doubles_;
  std::size_t used_ = 0;
};

template <typename Memory>
class ReferenceBackend : public backend::Backend {
 public:
  using DType = core::DType;
  using Vector = reference::Vector;

  ReferenceBackend() {
    info_.name = "cpu";
    info_.description = "naive reference";
    info_.uuid = "naive";
    info_.isa = "none";
    info_.memory_bytes = std::uint64_t{1} << 40;
    info_.units = 1;
  }

  Vector read(DType type, const void* x, std::int64_t count) const { return read(type, x, 1, count, count); }
  Vector read(DType type, const void* x, std::int64_t rows, std::int64_t width, std::int64_t pitch) const {
    Vector values(reference::size(rows * width));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < width; ++c) values[reference::size(r * width + c)] = memory_.get(type, x, r * pitch + c);
    return values;
  }
  void write(DType type, void* x, const Vector& values) { write(type, x, 1, static_cast<std::int64_t>(values.size()), 0, values); }
  void write(DType type, void* x, std::int64_t rows, std::int64_t width, std::int64_t pitch, const Vector& values) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < width; ++c) memory_.put(type, x, r * pitch + c, values[reference::size(r * width + c)]);
  }

  const backend::DeviceInfo& info() const override { return info_; }
  std::uint64_t workspace_bytes() const override { return 0; }
  void* allocate(std::size_t bytes) override { return memory_.allocate(bytes); }
  void release(void* memory) noexcept override { memory_.release(memory); }
  void upload(void* to, const void* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
    memory_.stored(to, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override {
    std::memmove(to, from, bytes);
    memory_.copied(to, from, bytes);
  }
  void zero(void* memory, std::size_t bytes) override {
    std::memset(memory, 0, bytes);
    memory_.stored(memory, bytes);
  }
  void synchronize() override {}
  void forget(void* memory, std::size_t bytes) override {
    std::memset(memory, 0xFF, bytes);
    memory_.stored(memory, bytes);
  }

  void matmul(const backend::Matmul& a) override {
    const std::int64_t a_rows = a.transpose_a ? a.k : a.m, a_width = a.transpose_a ? a.m : a.k, b_rows = a.transpose_b ? a.n : a.k, b_width = a.transpose_b ? a.k : a.n;
    const std::int64_t c_pitch = a.c_pitch != 0 ? a.c_pitch : a.n;
    Vector out = reference::multiply({a.m, a.n, a.k, a.transpose_a, a.transpose_b, a.alpha, a.beta},
                                     read(a.in, a.a, a_rows, a_width, a.a_pitch != 0 ? a.a_pitch : a_width), read(a.in, a.b, b_rows, b_width, a.b_pitch != 0 ? a.b_pitch : b_width),
                                     a.beta != 0 ? read(a.out, a.c, a.m, a.n, c_pitch) : Vector{}, a.bias != nullptr ? read(a.in, a.bias, a.n) : Vector{});
    if (a.gelu_input != nullptr) write(a.out, a.gelu_input, out);
    if (a.gelu)
      for (double& value : out) value = reference::gelu(value);
    write(a.out, a.c, a.m, a.n, c_pitch, out);
  }
  void embedding_forward(const backend::EmbeddingForward& a) override {
    write(a.type, a.out, reference::embedding(a.width, read(a.type, a.table, a.vocabulary * a.width), {a.ids, a.ids + a.rows}));
  }
  void embedding_backward(const backend::EmbeddingBackward& a) override {
    add_to(a.dtable, reference::embedding_backward(a.vocabulary, a.width, {a.ids, a.ids + a.rows}, read(a.type, a.dout, a.rows * a.width)));
  }
  void layer_norm_forward(const backend::LayerNormForward& a) override {
    const std::int64_t count = a.rows * a.width;
    if (a.residual != nullptr) add(a.type, a.sum, a.x, a.residual, count);
    const reference::Norm norm = reference::layer_norm(a.rows, a.width, a.epsilon, read(a.type, a.residual != nullptr ? a.sum : a.x, count),
                                                       read(a.type, a.gain, a.width), read(a.type, a.bias, a.width));
    write(a.type, a.y, norm.y);
    write(DType::F32, a.mean, norm.mean);
    write(DType::F32, a.rstd, norm.rstd);
  }
  void layer_norm_backward(const backend::LayerNormBackward& a) override {
    const std::int64_t count = a.rows * a.width;
    reference::NormGradients g = reference::layer_norm_backward(a.rows, a.width, read(a.type, a.x, count), read(a.type, a.gain, a.width), read(DType::F32, a.mean, a.rows),
                                                                read(DType::F32, a.rstd, a.rows), read(a.type, a.dy, count));
    if (a.accumulate_dx)
      for (std::int64_t i = 0; i < count; ++i) g.dx[reference::size(i)] += memory_.get(a.type, a.dx, i);
    write(a.type, a.dx, g.dx);
    if (a.dgain != nullptr) add_to(a.dgain, g.dgain);
    if (a.dbias != nullptr) add_to(a.dbias, g.dbias);
  }
  void rms_norm_forward(const backend::RmsNormForward& a) override {
    const std::int64_t columns = a.groups * a.width, pitch = a.pitch != 0 ? a.pitch : columns;
    Vector x = read(a.type, a.x, a.rows, columns, pitch);
    if (a.residual != nullptr) {
      const Vector residual = read(a.type, a.residual, a.rows, columns, pitch);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += residual[i];
      write(a.type, a.sum, a.rows, columns, pitch, x);
      x = read(a.type, a.sum, a.rows, columns, pitch);
    }
    const reference::RmsNorm norm = reference::rms_norm(a.width, a.epsilon, x, read(a.type, a.gain, a.width));
    write(a.type, a.y, a.rows, columns, pitch, norm.y);
    write(DType::F32, a.rstd, norm.rstd);
  }
  void rms_norm_backward(const backend::RmsNormBackward& a) override {
    const std::int64_t columns = a.groups * a.width, pitch = a.pitch != 0 ? a.pitch : columns;
    reference::RmsNormGradients g = reference::rms_norm_backward(a.width, read(a.type, a.x, a.rows, columns, pitch), read(a.type, a.gain, a.width),
                                                                 read(DType::F32, a.rstd, a.rows * a.groups), read(a.type, a.dy, a.rows, columns, pitch));
    if (a.accumulate_dx) {
      const Vector old = read(a.type, a.dx, a.rows, columns, pitch);
      for (std::size_t i = 0; i < old.size(); ++i) g.dx[i] += old[i];
    }
    write(a.type, a.dx, a.rows, columns, pitch, g.dx);
    if (a.dgain != nullptr) add_to(a.dgain, g.dgain);
  }
  void rope(const backend::Rope& a) override {
    write(a.type, a.y, reference::rope({a.heads, a.columns, a.head_size, a.inverse}, read(a.type, a.x, a.rows * a.columns), read(DType::F32, a.table, a.context * a.head_size),
                                       {a.positions, a.positions + a.rows}));
  }
  void swiglu_forward(const backend::SwiGluForward& a) override { write(a.type, a.y, reference::swiglu(a.width, read(a.type, a.gate_up, a.rows * 2 * a.width))); }
  void swiglu_backward(const backend::SwiGluBackward& a) override {
    write(a.type, a.dgate_up, reference::swiglu_backward(a.width, read(a.type, a.gate_up, a.rows * 2 * a.width), read(a.type, a.dy, a.rows * a.width)));
  }
  void dropout(const backend::Dropout& given) override {
    const backend::Dropout a = backend::with_numbers(given);
    Vector y = reference::dropout_factors(a.count, a.rate, a.seed, a.stream);
    for (std::int64_t i = 0; i < a.count; ++i) y[reference::size(i)] = y[reference::size(i)] * memory_.get(a.type, a.x, i) + (a.accumulate ? memory_.get(a.type, a.y, i) : 0.0);
    write(a.type, a.y, y);
  }
  void nf4_dequantize(const backend::Nf4Dequantize& a) override {
    for (std::int64_t i = 0; i < a.count; ++i) {
      const std::int64_t block = i / 64;
      const float scale = a.absmax != nullptr ? a.absmax[block] : reference::nf4_nested_scale(a.code_book[a.absmax8[block]], a.nested_absmax[block / 256], a.nested_offset);
      memory_.put(a.type, a.out, i, reference::nf4(a.codes, scale, i));
    }
  }
  // To the gradient the length is a constant: with `holds_norms` it stays what it was first, whatever is done to the weights.
  bool holds_norms = false;
  void decomposed_gain(const backend::DecomposedGain& a) override {
    const auto element = [&](std::int64_t o, std::int64_t i) { return memory_.get(a.type, a.weight, a.is_in_out ? i * a.pitch + o : o * a.pitch + i); };
    for (std::int64_t o = 0; o < a.out; ++o) {
      double square = 0;
      for (std::int64_t i = 0; i < a.in; ++i) square += element(o, i) * element(o, i);
      for (std::int64_t k = 0; k < a.rank; ++k) {
        const double up = memory_.get(a.type, a.up, o * a.rank + k);
        square += 2.0 * a.scale * up * memory_.get(DType::F32, a.overlap, o * a.rank + k);
        for (std::int64_t j = 0; j < a.rank; ++j) square += static_cast<double>(a.scale) * a.scale * up * memory_.get(DType::F32, a.gram, k * a.rank + j) * memory_.get(a.type, a.up, o * a.rank + j);
      }
      const double norm = std::sqrt(std::max<double>(square, backend::kLeastSquare));
      const double held = holds_norms ? held_norms_.emplace(a.norm + o, norm).first->second : norm;
      memory_.put(DType::F32, a.norm, o, held);
      memory_.put(DType::F32, a.gain, o, memory_.get(DType::F32, a.magnitude, o) / held);
    }
  }
  void scale_columns(const backend::ScaleColumns& a) override {
    for (std::int64_t i = 0; i < a.rows * a.width; ++i) {
      const std::int64_t c = i % a.width, place = i / a.width * (a.pitch != 0 ? a.pitch : a.width) + c;
      memory_.put(a.type, a.y, place, a.factor * memory_.get(a.type, a.x, place) * (a.gain != nullptr ? memory_.get(DType::F32, a.gain, c) : 1.0) +
                                      (a.bias != nullptr ? memory_.get(a.type, a.bias, c) : 0.0) + (a.accumulate ? memory_.get(a.type, a.y, place) : 0.0));
    }
  }
  void column_dot(const backend::ColumnDot& a) override {
    for (std::int64_t c = 0; c < a.width; ++c) {
      double total = 0;
      for (std::int64_t r = 0; r < a.rows; ++r) total += memory_.get(a.type, a.a, r * a.pitch + c) * memory_.get(a.type, a.b, r * a.pitch + c);
      memory_.put(DType::F32, a.out, c, memory_.get(DType::F32, a.out, c) + total / memory_.get(DType::F32, a.divisor, c));
    }
  }
  void attention_forward(const backend::AttentionForward& a) override {
    const reference::AttentionShape shape = shape_of(a);
    const reference::Attention result = reference::attention(shape, read(a.type, a.qkv, a.batch * a.length * shape.columns()), segments_of(a));
    write(a.type, a.out, result.out);
    write(DType::F32, a.log_sum, result.log_sum);
  }
  void attention_backward(const backend::AttentionBackward& a) override {
    const reference::AttentionShape shape = shape_of(a);
    const std::int64_t rows = a.batch * a.length;
    write(a.type, a.dqkv, reference::attention_backward(shape, read(a.type, a.qkv, rows * shape.columns()), segments_of(a), read(a.type, a.dout, rows * shape.width())));
  }
  void attention_decode(const backend::AttentionDecode& a) override {
    const std::int64_t kv_heads = a.kv_heads == 0 ? a.heads : a.kv_heads, width = a.heads * a.head_size, kv_width = kv_heads * a.head_size;
    for (std::int64_t s = 0; s < a.sequences; ++s) {
      const std::int64_t cache = (a.slots != nullptr ? a.slots[s] : s) * a.context * kv_width;
      const void* row = at(a.type, a.qkv, s * (width + 2 * kv_width));
      write(a.type, at(a.type, a.keys, cache + a.positions[s] * kv_width), read(a.type, at(a.type, row, width), kv_width));
      write(a.type, at(a.type, a.values, cache + a.positions[s] * kv_width), read(a.type, at(a.type, row, width + kv_width), kv_width));
      // The cache as packed rows; only the last one asks.
      const reference::AttentionShape shape{1, a.positions[s] + 1, a.heads, a.head_size, a.scale, a.kv_heads, a.window};
      Vector qkv;
      for (std::int64_t token = 0; token <= a.positions[s]; ++token)
        for (const Vector& part : {read(a.type, row, width), read(a.type, at(a.type, a.keys, cache + token * kv_width), kv_width),
                                   read(a.type, at(a.type, a.values, cache + token * kv_width), kv_width)})
          qkv.insert(qkv.end(), part.begin(), part.end());
      const Vector out = reference::attention(shape, qkv, {}).out;
      write(a.type, at(a.type, a.out, s * width), Vector(out.end() - width, out.end()));
    }
  }
  void cross_entropy(const backend::CrossEntropy& given) override {
    const backend::CrossEntropy a = backend::with_numbers(given);
    const std::int64_t pitch = a.pitch != 0 ? a.pitch : a.vocabulary;
    const reference::Loss result = reference::cross_entropy(a.vocabulary, read(a.type, a.logits, a.rows, a.vocabulary, pitch), {a.targets, a.targets + a.rows}, a.scale,
                                                            a.weights != nullptr ? read(DType::F32, a.weights, a.rows) : Vector{});
    write(DType::F32, a.losses, result.losses);
    if (a.hits != nullptr) write(DType::F32, a.hits, result.hits);
    if (a.gradient) write(a.type, a.logits, a.rows, a.vocabulary, pitch, result.gradient);
  }
  void gelu_forward(DType type, void* y, const void* x, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) memory_.put(type, y, i, reference::gelu(memory_.get(type, x, i)));
  }
  void gelu_backward(DType type, void* dx, const void* dy, const void* x, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) memory_.put(type, dx, i, memory_.get(type, dy, i) * reference::gelu_slope(memory_.get(type, x, i)));
  }
  void add(DType type, void* y, const void* a, const void* b, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) memory_.put(type, y, i, memory_.get(type, a, i) + memory_.get(type, b, i));
  }
  void scale(DType type, void* x, float factor, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) memory_.put(type, x, i, memory_.get(type, x, i) * factor);
  }
  void cast(DType to_type, void* to, DType from_type, const void* from, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) memory_.put(to_type, to, i, memory_.get(from_type, from, i));
  }
  void column_sum(DType type, float* out, const void* x, std::int64_t rows, std::int64_t width) override {
    add_to(out, reference::column_sums(rows, width, read(type, x, rows * width)));
  }
  void sum(float* out, const float* x, std::int64_t count, bool accumulate) override {
    double total = accumulate ? memory_.get(DType::F32, out, 0) : 0.0;
    for (const double value : read(DType::F32, x, count)) total += value;
    memory_.put(DType::F32, out, 0, total);
  }
  void sum_of_squares(float* out, const float* x, std::int64_t count, bool accumulate) override {
    double total = accumulate ? memory_.get(DType::F32, out, 0) : 0.0;
    for (const double value : read(DType::F32, x, count)) total += value * value;
    memory_.put(DType::F32, out, 0, total);
  }
  void split(const backend::Halves& to, const float* from, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) put_halves(to, i, static_cast<float>(memory_.get(DType::F32, from, i)));
  }
  void join(float* to, const backend::Halves& from, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) memory_.put(DType::F32, to, i, core::join({from.high[i], from.low[i]}));
  }
  void adamw(const backend::AdamW& a) override {
    double factor = a.gradient_scale;
    if (a.squared_norm != nullptr && a.clip > 0) {
      const double norm = std::sqrt(memory_.get(DType::F32, a.squared_norm, 0)) * a.gradient_scale;
      if (norm > a.clip) factor *= a.clip / norm;
    }
    for (std::int64_t i = 0; i < a.count; ++i) {
      const double g = memory_.get(DType::F32, a.gradient, i) * factor, p = weight_of(a, i);
      const double m = a.beta1 * memory_.get(a.moments_type, a.m, i) + (1.0 - a.beta1) * g, v = a.beta2 * memory_.get(a.moments_type, a.v, i) + (1.0 - a.beta2) * g * g;
      memory_.put(a.moments_type, a.m, i, m);
      memory_.put(a.moments_type, a.v, i, v);
      const double decayed = p * (1.0 - static_cast<double>(a.learning_rate) * a.weight_decay);
      keep_weight(a, i, decayed - a.learning_rate * (m * a.correction1) / (std::sqrt(v * a.correction2) + a.epsilon));
    }
  }
  void adamw_8bit(const backend::AdamW8bit& a) override {
    double factor = a.gradient_scale;
    if (a.squared_norm != nullptr && a.clip > 0) factor = std::min(factor, a.clip / std::sqrt(memory_.get(DType::F32, a.squared_norm, 0)));
    reference::Moments8 m{{a.m, a.m + a.count}, read(DType::F32, a.m_scale, (a.count + 255) / 256), read(DType::F32, a.m_book, 256)};
    reference::Moments8 v{{a.v, a.v + a.count}, read(DType::F32, a.v_scale, (a.count + 255) / 256), read(DType::F32, a.v_book, 256)};
    Vector new_m = m.values(), new_v = v.values();
    for (std::int64_t i = 0; i < a.count; ++i) {
      const double g = memory_.get(DType::F32, a.gradient, i) * factor, p = weight_of(a, i);
      double &first = new_m[reference::size(i)], &second = new_v[reference::size(i)];
      first = a.beta1 * first + (1.0 - a.beta1) * g, second = a.beta2 * second + (1.0 - a.beta2) * g * g;
      keep_weight(a, i, p * (1.0 - static_cast<double>(a.learning_rate) * a.weight_decay) - a.learning_rate * (first * a.correction1) / (std::sqrt(second * a.correction2) + a.epsilon));
    }
    m.assign(new_m), v.assign(new_v);
    std::copy(m.codes.begin(), m.codes.end(), a.m), std::copy(v.codes.begin(), v.codes.end(), a.v);
    write(DType::F32, a.m_scale, m.scales), write(DType::F32, a.v_scale, v.scales);
  }

 private:
  static const void* at(DType type, const void* x, std::int64_t i) { return static_cast<const char*>(x) + i * static_cast<std::int64_t>(core::size_of(type)); }
  static void* at(DType type, void* x, std::int64_t i) { return static_cast<char*>(x) + i * static_cast<std::int64_t>(core::size_of(type)); }
  template <typename Call>
  static reference::AttentionShape shape_of(const Call& a) { return {a.batch, a.length, a.heads, a.head_size, a.scale, a.kv_heads, a.window}; }
  template <typename Call>
  static reference::Numbers segments_of(const Call& a) {
    return a.segments == nullptr ? reference::Numbers{} : reference::Numbers(a.segments, a.segments + a.batch * a.length);
  }
  static void put_halves(const backend::Halves& to, std::int64_t i, float value) {
    const core::Halves halves = core::split(value);
    to.high[i] = halves.high, to.low[i] = halves.low;
  }
  template <typename Call>
  double weight_of(const Call& a, std::int64_t i) const {
    return a.parameter != nullptr ? memory_.get(DType::F32, a.parameter, i) : core::join({a.halves.high[i], a.halves.low[i]});
  }
  template <typename Call>
  void keep_weight(const Call& a, std::int64_t i, double value) {
    if (a.parameter != nullptr) memory_.put(DType::F32, a.parameter, i, value);
    else put_halves(a.halves, i, static_cast<float>(value));
  }
  void add_to(float* out, const Vector& values) {
    for (std::size_t i = 0; i < values.size(); ++i) memory_.put(DType::F32, out, static_cast<std::int64_t>(i), memory_.get(DType::F32, out, static_cast<std::int64_t>(i)) + values[i]);
  }

  Memory memory_;
  std::unordered_map<const float*, double> held_norms_;
  backend::DeviceInfo info_;
};

using NaiveBackend = ReferenceBackend<RoundedMemory>;
using ExactBackend = ReferenceBackend<ExactMemory>;

}  // namespace pgtrain::engine
