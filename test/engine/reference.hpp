// Every operation of the engine in the plainest way, in double: the references that all backends are held against.
//
// Used by the operation cases (test/engine/ops), by NaiveBackend, and held itself against central differences by
// test/engine/graph/differences_test.cpp. Matrices are row-major and contiguous. Slow on purpose; for tests only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace pgtrain::reference {

using Vector = std::vector<double>;
using Numbers = std::vector<std::int32_t>;
inline std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

inline constexpr double kGelu = 0.79788456080286535588;  // sqrt(2 / pi)
inline double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(kGelu * (x + 0.044715 * x * x * x))); }
inline double gelu_slope(double x) {
  const double t = std::tanh(kGelu * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * kGelu * (1.0 + 3.0 * 0.044715 * x * x);
}

// alpha op(A) op(B) + beta old + bias; A is stored [k,m] when transposed, B [n,k]. `old` and `bias` may be empty.
struct Product {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  double alpha = 1, beta = 0;
};
inline Vector multiply(const Product& p, const Vector& a, const Vector& b, const Vector& old = {}, const Vector& bias = {}) {
  Vector out(size(p.m * p.n));
  for (std::int64_t i = 0; i < p.m; ++i)
    for (std::int64_t j = 0; j < p.n; ++j) {
      double total = 0;
      for (std::int64_t k = 0; k < p.k; ++k) total += a[size(p.transpose_a ? k * p.m + i : i * p.k + k)] * b[size(p.transpose_b ? j * p.k + k : k * p.n + j)];
      total *= p.alpha;
      if (p.beta != 0) total += p.beta * old[size(i * p.n + j)];
      if (!bias.empty()) total += bias[size(j)];
      out[size(i * p.n + j)] = total;
    }
  return out;
}

inline Vector column_sums(std::int64_t rows, std::int64_t width, const Vector& x) {
  Vector sums(size(width));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < width; ++c) sums[size(c)] += x[size(r * width + c)];
  return sums;
}

inline Vector embedding(std::int64_t width, const Vector& table, const Numbers& ids) {
  Vector out;
  for (const std::int32_t id : ids) out.insert(out.end(), table.begin() + id * width, table.begin() + (id + 1) * width);
  return out;
}
inline Vector embedding_backward(std::int64_t vocabulary, std::int64_t width, const Numbers& ids, const Vector& dout) {
  Vector dtable(size(vocabulary * width));
  for (std::size_t r = 0; r < ids.size(); ++r)
    for (std::size_t c = 0; c < size(width); ++c) dtable[size(ids[r]) * size(width) + c] += dout[r * size(width) + c];
  return dtable;
}

struct Norm {
  Vector y, mean, rstd;
};
inline Norm layer_norm(std::int64_t rows, std::int64_t width, double epsilon, const Vector& x, const Vector& gain, const Vector& bias) {
  Norm n{Vector(x.size()), Vector(size(rows)), Vector(size(rows))};
  for (std::int64_t r = 0; r < rows; ++r) {
    const double* row = x.data() + r * width;
    double mean = 0, variance = 0;
    for (std::int64_t c = 0; c < width; ++c) mean += row[c] / static_cast<double>(width);
    for (std::int64_t c = 0; c < width; ++c) variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(width);
    const double rstd = 1.0 / std::sqrt(variance + epsilon);
    n.mean[size(r)] = mean, n.rstd[size(r)] = rstd;
    for (std::int64_t c = 0; c < width; ++c) n.y[size(r * width + c)] = (row[c] - mean) * rstd * gain[size(c)] + bias[size(c)];
  }
  return n;
}
struct NormGradients {
  Vector dx, dgain, dbias;
};
inline NormGradients layer_norm_backward(std::int64_t rows, std::int64_t width, const Vector& x, const Vector& gain, const Vector& mean, const Vector& rstd, const Vector& dy) {
  NormGradients g{Vector(x.size()), Vector(size(width)), Vector(size(width))};
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto normed = [&](std::int64_t c) { return (x[size(r * width + c)] - mean[size(r)]) * rstd[size(r)]; };
    double mean_d = 0, mean_dx = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const double d = dy[size(r * width + c)], scaled = d * gain[size(c)];
      mean_d += scaled / static_cast<double>(width), mean_dx += scaled * normed(c) / static_cast<double>(width);
      g.dgain[size(c)] += d * normed(c), g.dbias[size(c)] += d;
    }
    for (std::int64_t c = 0; c < width; ++c) g.dx[size(r * width + c)] = (dy[size(r * width + c)] * gain[size(c)] - mean_d - normed(c) * mean_dx) * rstd[size(r)];
  }
  return g;
}

// qkv [batch*length, (heads + 2*kv_heads)*head_size], causal; equal numbers in `segments` (or none at all) see each other, and with
// a window only keys after query - window.
struct AttentionShape {
  std::int64_t batch = 0, length = 0, heads = 0, head_size = 0;
  double scale = 1;
  std::int64_t kv_heads = 0, window = 0;
  std::int64_t width() const { return heads * head_size; }
  std::int64_t keys() const { return kv_heads == 0 ? heads : kv_heads; }
  std::int64_t columns() const { return (heads + 2 * keys()) * head_size; }
  // Where part 0, 1 or 2 (q, k, v) of a token's head begins in qkv, and where its output begins.
  std::int64_t at(std::int64_t b, std::int64_t token, std::int64_t part, std::int64_t head) const {
    const std::int64_t row = (b * length + token) * columns();
    return part == 0 ? row + head * head_size : row + (heads + (part - 1) * keys() + head * keys() / heads) * head_size;
  }
  std::int64_t out_at(std::int64_t b, std::int64_t token, std::int64_t head) const { return (b * length + token) * width() + head * head_size; }
};
// Softmax weights of one query over positions 0..query, and the logarithm of their denominator.
struct SoftmaxRow {
  Vector weights;
  double log_sum = 0;
};
inline SoftmaxRow attend(const AttentionShape& s, const Vector& qkv, const Numbers& segments, std::int64_t b, std::int64_t head, std::int64_t query) {
  SoftmaxRow row;
  double most = -INFINITY, total = 0;
  for (std::int64_t key = 0; key <= query; ++key) {
    double score = 0;
    for (std::int64_t i = 0; i < s.head_size; ++i) score += qkv[size(s.at(b, query, 0, head) + i)] * qkv[size(s.at(b, key, 1, head) + i)];
    const bool is_near = s.window == 0 || key > query - s.window;
    const bool is_seen = is_near && (segments.empty() || segments[size(b * s.length + key)] == segments[size(b * s.length + query)]);
    row.weights.push_back(is_seen ? score * s.scale : -INFINITY);
    most = std::max(most, row.weights.back());
  }
  for (double& weight : row.weights) total += weight = std::exp(weight - most);
  for (double& weight : row.weights) weight /= total;
  row.log_sum = most + std::log(total);
  return row;
}
struct Attention {
  Vector out, log_sum;  // log_sum [batch, heads, length]
};
inline Attention attention(const AttentionShape& s, const Vector& qkv, const Numbers& segments) {
  Attention r{Vector(size(s.batch * s.length * s.width())), Vector(size(s.batch * s.heads * s.length))};
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t query = 0; query < s.length; ++query) {
        const SoftmaxRow row = attend(s, qkv, segments, b, h, query);
        r.log_sum[size((b * s.heads + h) * s.length + query)] = row.log_sum;
        for (std::int64_t key = 0; key <= query; ++key)
          for (std::int64_t i = 0; i < s.head_size; ++i) r.out[size(s.out_at(b, query, h) + i)] += row.weights[size(key)] * qkv[size(s.at(b, key, 2, h) + i)];
      }
  return r;
}
inline Vector attention_backward(const AttentionShape& s, const Vector& qkv, const Numbers& segments, const Vector& dout) {
  Vector dqkv(qkv.size());
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t query = 0; query < s.length; ++query) {
        const SoftmaxRow row = attend(s, qkv, segments, b, h, query);
        const double* d = dout.data() + s.out_at(b, query, h);
        const std::size_t q_at = size(s.at(b, query, 0, h));
        Vector dweights(row.weights.size());
        double delta = 0;
        for (std::int64_t key = 0; key <= query; ++key) {
          const std::size_t v_at = size(s.at(b, key, 2, h));
          for (std::size_t i = 0; i < size(s.head_size); ++i) {
            dweights[size(key)] += d[i] * qkv[v_at + i];
            dqkv[v_at + i] += d[i] * row.weights[size(key)];
          }
          delta += dweights[size(key)] * row.weights[size(key)];
        }
        for (std::int64_t key = 0; key <= query; ++key) {
          const std::size_t k_at = size(s.at(b, key, 1, h));
          const double dscore = row.weights[size(key)] * (dweights[size(key)] - delta) * s.scale;
          for (std::size_t i = 0; i < size(s.head_size); ++i) {
            dqkv[q_at + i] += dscore * qkv[k_at + i];
            dqkv[k_at + i] += dscore * qkv[q_at + i];
          }
        }
      }
  return dqkv;
}

// Rows whose target is negative have loss, hit and gradient 0. A hit is a target that is the first of the highest logits.
struct Loss {
  Vector losses, gradient, hits;
};
inline Loss cross_entropy(std::int64_t vocabulary, const Vector& logits, const Numbers& targets, double scale, const Vector& weights = {}) {
  Loss r{Vector(targets.size()), Vector(logits.size()), Vector(targets.size())};
  for (std::size_t row = 0; row < targets.size(); ++row) {
    if (targets[row] < 0) continue;
    const double* at = logits.data() + row * size(vocabulary);
    const double most = *std::max_element(at, at + vocabulary), factor = weights.empty() ? scale : scale * weights[row];
    r.hits[row] = std::max_element(at, at + vocabulary) - at == targets[row];
    double total = 0;
    for (std::int64_t c = 0; c < vocabulary; ++c) total += std::exp(at[c] - most);
    r.losses[row] = most + std::log(total) - at[targets[row]];
    for (std::int64_t c = 0; c < vocabulary; ++c) r.gradient[row * size(vocabulary) + size(c)] = factor * (std::exp(at[c] - most) / total - (c == targets[row] ? 1.0 : 0.0));
  }
  return r;
}

}  // namespace pgtrain::reference
