// A backend that does every operation in the plainest way, in double, on host memory: the reference that others are held against.
//
// Each result is rounded once, when it is stored. Slow on purpose; for tests only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine/backend/backend.hpp"

namespace pgtrain::engine {

class NaiveBackend : public backend::Backend {
 public:
  using DType = core::DType;

  NaiveBackend() {
    info_.name = "cpu";
    info_.description = "naive reference";
    info_.uuid = "naive";
    info_.isa = "none";
    info_.memory_bytes = std::uint64_t{1} << 40;
    info_.units = 1;
  }

  static double get(DType type, const void* x, std::int64_t i) {
    return type == DType::Bf16 ? core::to_float(static_cast<const core::Bf16*>(x)[i]) : static_cast<const float*>(x)[i];
  }
  static void put(DType type, void* x, std::int64_t i, double value) {
    if (type == DType::Bf16) static_cast<core::Bf16*>(x)[i] = core::to_bf16(static_cast<float>(value));
    else static_cast<float*>(x)[i] = static_cast<float>(value);
  }
  static double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(kGelu * (x + 0.044715 * x * x * x))); }
  static double gelu_slope(double x) {
    const double t = std::tanh(kGelu * (x + 0.044715 * x * x * x));
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * kGelu * (1.0 + 3.0 * 0.044715 * x * x);
  }

  const backend::DeviceInfo& info() const override { return info_; }
  std::uint64_t workspace_bytes() const override { return 0; }
  void* allocate(std::size_t bytes) override {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    // NaN everywhere: whatever is read before it is written shows.
    std::memset(memory, 0xFF, bytes);
    return memory;
  }
  void release(void* memory) noexcept override { std::free(memory); }
  void upload(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void zero(void* memory, std::size_t bytes) override { std::memset(memory, 0, bytes); }
  void synchronize() override {}

  void matmul(const backend::Matmul& a) override {
    const std::int64_t a_pitch = a.a_pitch != 0 ? a.a_pitch : a.transpose_a ? a.m : a.k, b_pitch = a.b_pitch != 0 ? a.b_pitch : a.transpose_b ? a.k : a.n;
    const std::int64_t c_pitch = a.c_pitch != 0 ? a.c_pitch : a.n;
    for (std::int64_t i = 0; i < a.m; ++i)
      for (std::int64_t j = 0; j < a.n; ++j) {
        double total = 0;
        for (std::int64_t k = 0; k < a.k; ++k)
          total += get(a.in, a.a, a.transpose_a ? k * a_pitch + i : i * a_pitch + k) * get(a.in, a.b, a.transpose_b ? j * b_pitch + k : k * b_pitch + j);
        total *= a.alpha;
        if (a.beta != 0) total += a.beta * get(a.out, a.c, i * c_pitch + j);
        if (a.bias != nullptr) total += get(a.in, a.bias, j);
        if (a.gelu_input != nullptr) put(a.out, a.gelu_input, i * a.n + j, total);
        put(a.out, a.c, i * c_pitch + j, a.gelu ? gelu(total) : total);
      }
  }
  void embedding_forward(const backend::EmbeddingForward& a) override {
    for (std::int64_t r = 0; r < a.rows; ++r)
      for (std::int64_t c = 0; c < a.width; ++c) put(a.type, a.out, r * a.width + c, get(a.type, a.table, a.ids[r] * a.width + c));
  }
  void embedding_backward(const backend::EmbeddingBackward& a) override {
    std::vector<double> sums(static_cast<std::size_t>(a.vocabulary * a.width));
    for (std::int64_t r = 0; r < a.rows; ++r)
      for (std::int64_t c = 0; c < a.width; ++c) sums[static_cast<std::size_t>(a.ids[r] * a.width + c)] += get(a.type, a.dout, r * a.width + c);
    for (std::size_t i = 0; i < sums.size(); ++i) a.dtable[i] = static_cast<float>(a.dtable[i] + sums[i]);
  }
  void layer_norm_forward(const backend::LayerNormForward& a) override {
    std::vector<double> row(static_cast<std::size_t>(a.width));
    for (std::int64_t r = 0; r < a.rows; ++r) {
      double mean = 0, variance = 0;
      for (std::int64_t c = 0; c < a.width; ++c) {
        double& x = row[static_cast<std::size_t>(c)];
        x = get(a.type, a.x, r * a.width + c);
        if (a.residual != nullptr) {
          put(a.type, a.sum, r * a.width + c, x + get(a.type, a.residual, r * a.width + c));
          x = get(a.type, a.sum, r * a.width + c);
        }
        mean += x / static_cast<double>(a.width);
      }
      for (const double x : row) variance += (x - mean) * (x - mean) / static_cast<double>(a.width);
      const double rstd = 1.0 / std::sqrt(variance + a.epsilon);
      a.mean[r] = static_cast<float>(mean), a.rstd[r] = static_cast<float>(rstd);
      for (std::int64_t c = 0; c < a.width; ++c)
        put(a.type, a.y, r * a.width + c, (row[static_cast<std::size_t>(c)] - mean) * rstd * get(a.type, a.gain, c) + get(a.type, a.bias, c));
    }
  }
  void layer_norm_backward(const backend::LayerNormBackward& a) override {
    std::vector<double> dgain(static_cast<std::size_t>(a.width)), dbias(dgain.size());
    for (std::int64_t r = 0; r < a.rows; ++r) {
      double mean_d = 0, mean_dx = 0;
      const auto normed = [&](std::int64_t c) { return (get(a.type, a.x, r * a.width + c) - a.mean[r]) * a.rstd[r]; };
      for (std::int64_t c = 0; c < a.width; ++c) {
        const double dy = get(a.type, a.dy, r * a.width + c), scaled = dy * get(a.type, a.gain, c);
        mean_d += scaled / static_cast<double>(a.width), mean_dx += scaled * normed(c) / static_cast<double>(a.width);
        dgain[static_cast<std::size_t>(c)] += dy * normed(c), dbias[static_cast<std::size_t>(c)] += dy;
      }
      for (std::int64_t c = 0; c < a.width; ++c) {
        const double dx = (get(a.type, a.dy, r * a.width + c) * get(a.type, a.gain, c) - mean_d - normed(c) * mean_dx) * a.rstd[r];
        put(a.type, a.dx, r * a.width + c, a.accumulate_dx ? get(a.type, a.dx, r * a.width + c) + dx : dx);
      }
    }
    for (std::size_t c = 0; c < dgain.size(); ++c) {
      a.dgain[c] = static_cast<float>(a.dgain[c] + dgain[c]);
      a.dbias[c] = static_cast<float>(a.dbias[c] + dbias[c]);
    }
  }

  // Softmax weights of one query, over positions 0..query of the same document.
  struct Row {
    std::vector<double> weights;
    double log_sum = 0;
  };
  template <typename Shape>
  static Row attend(const Shape& a, std::int64_t b, std::int64_t h, std::int64_t query) {
    const std::int64_t width = a.heads * a.head_size;
    Row row;
    double most = -INFINITY;
    for (std::int64_t key = 0; key <= query; ++key) {
      double score = 0;
      for (std::int64_t i = 0; i < a.head_size; ++i)
        score += get(a.type, a.qkv, (b * a.length + query) * 3 * width + h * a.head_size + i) * get(a.type, a.qkv, (b * a.length + key) * 3 * width + width + h * a.head_size + i);
      const bool is_seen = a.segments == nullptr || a.segments[b * a.length + key] == a.segments[b * a.length + query];
      row.weights.push_back(is_seen ? score * a.scale : -INFINITY);
      most = std::max(most, row.weights.back());
    }
    double total = 0;
    for (double& weight : row.weights) total += weight = std::exp(weight - most);
    for (double& weight : row.weights) weight /= total;
    row.log_sum = most + std::log(total);
    return row;
  }
  void attention_forward(const backend::AttentionForward& a) override {
    const std::int64_t width = a.heads * a.head_size;
    for (std::int64_t b = 0; b < a.batch; ++b)
      for (std::int64_t h = 0; h < a.heads; ++h)
        for (std::int64_t query = 0; query < a.length; ++query) {
          const Row row = attend(a, b, h, query);
          a.log_sum[(b * a.heads + h) * a.length + query] = static_cast<float>(row.log_sum);
          for (std::int64_t i = 0; i < a.head_size; ++i) {
            double total = 0;
            for (std::int64_t key = 0; key <= query; ++key)
              total += row.weights[static_cast<std::size_t>(key)] * get(a.type, a.qkv, (b * a.length + key) * 3 * width + 2 * width + h * a.head_size + i);
            put(a.type, a.out, (b * a.length + query) * width + h * a.head_size + i, total);
          }
        }
  }
  void attention_backward(const backend::AttentionBackward& a) override {
    const std::int64_t width = a.heads * a.head_size;
    std::vector<double> gradient(static_cast<std::size_t>(a.batch * a.length * 3 * width));
    for (std::int64_t b = 0; b < a.batch; ++b)
      for (std::int64_t h = 0; h < a.heads; ++h)
        for (std::int64_t query = 0; query < a.length; ++query) {
          const Row row = attend(a, b, h, query);
          const std::int64_t q_at = (b * a.length + query) * 3 * width + h * a.head_size, out_at = (b * a.length + query) * width + h * a.head_size;
          std::vector<double> dweights(row.weights.size());
          double delta = 0;
          for (std::int64_t key = 0; key <= query; ++key) {
            const std::int64_t v_at = (b * a.length + key) * 3 * width + 2 * width + h * a.head_size;
            for (std::int64_t i = 0; i < a.head_size; ++i) {
              const double dout = get(a.type, a.dout, out_at + i);
              dweights[static_cast<std::size_t>(key)] += dout * get(a.type, a.qkv, v_at + i);
              gradient[static_cast<std::size_t>(v_at + i)] += dout * row.weights[static_cast<std::size_t>(key)];
            }
            delta += dweights[static_cast<std::size_t>(key)] * row.weights[static_cast<std::size_t>(key)];
          }
          for (std::int64_t key = 0; key <= query; ++key) {
            const std::int64_t k_at = (b * a.length + key) * 3 * width + width + h * a.head_size;
            const double dscore = row.weights[static_cast<std::size_t>(key)] * (dweights[static_cast<std::size_t>(key)] - delta) * a.scale;
            for (std::int64_t i = 0; i < a.head_size; ++i) {
              gradient[static_cast<std::size_t>(q_at + i)] += dscore * get(a.type, a.qkv, k_at + i);
              gradient[static_cast<std::size_t>(k_at + i)] += dscore * get(a.type, a.qkv, q_at + i);
            }
          }
        }
    for (std::size_t i = 0; i < gradient.size(); ++i) put(a.type, a.dqkv, static_cast<std::int64_t>(i), gradient[i]);
  }
  void attention_decode(const backend::AttentionDecode& a) override {
    const std::int64_t width = a.heads * a.head_size;
    for (std::int64_t i = 0; i < width; ++i) {
      put(a.type, a.keys, a.position * width + i, get(a.type, a.qkv, width + i));
      put(a.type, a.values, a.position * width + i, get(a.type, a.qkv, 2 * width + i));
    }
    for (std::int64_t h = 0; h < a.heads; ++h) {
      std::vector<double> weights;
      double most = -INFINITY, total = 0;
      for (std::int64_t key = 0; key <= a.position; ++key) {
        double score = 0;
        for (std::int64_t i = 0; i < a.head_size; ++i) score += get(a.type, a.qkv, h * a.head_size + i) * get(a.type, a.keys, key * width + h * a.head_size + i);
        weights.push_back(score * a.scale);
        most = std::max(most, weights.back());
      }
      for (double& weight : weights) total += weight = std::exp(weight - most);
      for (std::int64_t i = 0; i < a.head_size; ++i) {
        double out = 0;
        for (std::int64_t key = 0; key <= a.position; ++key) out += weights[static_cast<std::size_t>(key)] / total * get(a.type, a.values, key * width + h * a.head_size + i);
        put(a.type, a.out, h * a.head_size + i, out);
      }
    }
  }
  void cross_entropy(const backend::CrossEntropy& a) override {
    const std::int64_t pitch = a.pitch != 0 ? a.pitch : a.vocabulary;
    for (std::int64_t r = 0; r < a.rows; ++r) {
      double most = -INFINITY, total = 0;
      for (std::int64_t c = 0; c < a.vocabulary; ++c) most = std::max(most, get(a.type, a.logits, r * pitch + c));
      for (std::int64_t c = 0; c < a.vocabulary; ++c) total += std::exp(get(a.type, a.logits, r * pitch + c) - most);
      const std::int32_t target = a.targets[r];
      a.losses[r] = target < 0 ? 0.0f : static_cast<float>(most + std::log(total) - get(a.type, a.logits, r * pitch + target));
      if (!a.gradient) continue;
      for (std::int64_t c = 0; c < a.vocabulary; ++c) {
        const double probability = std::exp(get(a.type, a.logits, r * pitch + c) - most) / total;
        put(a.type, a.logits, r * pitch + c, target < 0 ? 0.0 : a.scale * (probability - (c == target ? 1.0 : 0.0)));
      }
    }
  }
  void gelu_forward(DType type, void* y, const void* x, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) put(type, y, i, gelu(get(type, x, i)));
  }
  void gelu_backward(DType type, void* dx, const void* dy, const void* x, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) put(type, dx, i, get(type, dy, i) * gelu_slope(get(type, x, i)));
  }
  void add(DType type, void* y, const void* a, const void* b, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) put(type, y, i, get(type, a, i) + get(type, b, i));
  }
  void scale(DType type, void* x, float factor, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) put(type, x, i, get(type, x, i) * factor);
  }
  void cast(DType to_type, void* to, DType from_type, const void* from, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) put(to_type, to, i, get(from_type, from, i));
  }
  void column_sum(DType type, float* out, const void* x, std::int64_t rows, std::int64_t width) override {
    for (std::int64_t c = 0; c < width; ++c) {
      double total = out[c];
      for (std::int64_t r = 0; r < rows; ++r) total += get(type, x, r * width + c);
      out[c] = static_cast<float>(total);
    }
  }
  void sum(float* out, const float* x, std::int64_t count, bool accumulate) override {
    double total = accumulate ? *out : 0.0;
    for (std::int64_t i = 0; i < count; ++i) total += x[i];
    *out = static_cast<float>(total);
  }
  void sum_of_squares(float* out, const float* x, std::int64_t count, bool accumulate) override {
    double total = accumulate ? *out : 0.0;
    for (std::int64_t i = 0; i < count; ++i) total += static_cast<double>(x[i]) * x[i];
    *out = static_cast<float>(total);
  }
  void adamw(const backend::AdamW& a) override {
    double factor = a.gradient_scale;
    if (a.squared_norm != nullptr && a.clip > 0) {
      const double norm = std::sqrt(static_cast<double>(*a.squared_norm)) * a.gradient_scale;
      if (norm > a.clip) factor *= a.clip / norm;
    }
    for (std::int64_t i = 0; i < a.count; ++i) {
      const double g = a.gradient[i] * factor;
      const double m = a.beta1 * a.m[i] + (1.0 - a.beta1) * g, v = a.beta2 * a.v[i] + (1.0 - a.beta2) * g * g;
      a.m[i] = static_cast<float>(m), a.v[i] = static_cast<float>(v);
      const double decayed = a.parameter[i] * (1.0 - static_cast<double>(a.learning_rate) * a.weight_decay);
      a.parameter[i] = static_cast<float>(decayed - a.learning_rate * (m * a.correction1) / (std::sqrt(v * a.correction2) + a.epsilon));
      if (a.shadow != nullptr) static_cast<core::Bf16*>(a.shadow)[i] = core::to_bf16(a.parameter[i]);
    }
  }

 private:
  static constexpr double kGelu = 0.79788456080286535588;  // sqrt(2 / pi)
  backend::DeviceInfo info_;
};

}  // namespace pgtrain::engine
