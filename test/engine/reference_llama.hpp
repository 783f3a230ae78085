// The operations that Llama-shaped models have beyond GPT-2's, and those of fine-tuning, in double: see reference.hpp.
#pragma once

#include "engine/core/philox.hpp"
#include "reference.hpp"

namespace pgtrain::reference {

// Runs of `width` values, each normed by itself under one gain.
struct RmsNorm {
  Vector y, rstd;
};
inline RmsNorm rms_norm(std::int64_t width, double epsilon, const Vector& x, const Vector& gain) {
  RmsNorm n{Vector(x.size()), {}};
  for (std::size_t begin = 0; begin < x.size(); begin += size(width)) {
    double squares = 0;
    for (std::size_t c = 0; c < size(width); ++c) squares += x[begin + c] * x[begin + c];
    n.rstd.push_back(1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon));
    for (std::size_t c = 0; c < size(width); ++c) n.y[begin + c] = x[begin + c] * n.rstd.back() * gain[c];
  }
  return n;
}
struct RmsNormGradients {
  Vector dx, dgain;
};
inline RmsNormGradients rms_norm_backward(std::int64_t width, const Vector& x, const Vector& gain, const Vector& rstd, const Vector& dy) {
  RmsNormGradients g{Vector(x.size()), Vector(size(width))};
  for (std::size_t run = 0; run < rstd.size(); ++run) {
    const std::size_t begin = run * size(width);
    double mean = 0;
    for (std::size_t c = 0; c < size(width); ++c) {
      mean += dy[begin + c] * gain[c] * x[begin + c] * rstd[run] / static_cast<double>(width);
      g.dgain[c] += dy[begin + c] * x[begin + c] * rstd[run];
    }
    for (std::size_t c = 0; c < size(width); ++c) g.dx[begin + c] = (dy[begin + c] * gain[c] - x[begin + c] * rstd[run] * mean) * rstd[run];
  }
  return g;
}

// Rotary table of Llama: row p holds cos(p f_i), then sin(p f_i), f_i = base^(-2 i / head_size).
inline Vector rotary_table(std::int64_t context, std::int64_t head_size, double base) {
  Vector table;
  const std::int64_t half = head_size / 2;
  const auto angle = [&](std::int64_t p, std::int64_t i) { return static_cast<double>(p) * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_size)); };
  for (std::int64_t p = 0; p < context; ++p) {
    for (std::int64_t i = 0; i < half; ++i) table.push_back(std::cos(angle(p, i)));
    for (std::int64_t i = 0; i < half; ++i) table.push_back(std::sin(angle(p, i)));
  }
  return table;
}
struct RopeShape {
  std::int64_t heads = 0, columns = 0, head_size = 0;
  bool inverse = false;
};
// The pair (i, i + half) of each of the leading heads as a complex number, times e^(i angle).
inline Vector rope(const RopeShape& s, const Vector& x, const Vector& table, const Numbers& positions) {
  Vector y = x;
  const std::int64_t half = s.head_size / 2;
  for (std::size_t r = 0; r < positions.size(); ++r)
    for (std::int64_t pair = 0; pair < s.heads * half; ++pair) {
      const std::size_t low = r * size(s.columns) + size(pair / half * s.head_size + pair % half), high = low + size(half);
      const double c = table[size(positions[r] * s.head_size + pair % half)], turn = table[size(positions[r] * s.head_size + half + pair % half)] * (s.inverse ? -1 : 1);
      y[low] = x[low] * c - x[high] * turn;
      y[high] = x[high] * c + x[low] * turn;
    }
  return y;
}

inline Vector swiglu(std::int64_t width, const Vector& gate_up) {
  Vector y(gate_up.size() / 2);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const std::size_t at = i / size(width) * 2 * size(width) + i % size(width);
    y[i] = gate_up[at] / (1.0 + std::exp(-gate_up[at])) * gate_up[at + size(width)];
  }
  return y;
}
inline Vector swiglu_backward(std::int64_t width, const Vector& gate_up, const Vector& dy) {
  Vector d(gate_up.size());
  for (std::size_t i = 0; i < dy.size(); ++i) {
    const std::size_t at = i / size(width) * 2 * size(width) + i % size(width);
    const double gate = gate_up[at], s = 1.0 / (1.0 + std::exp(-gate));
    d[at] = dy[i] * gate_up[at + size(width)] * s * (1.0 + gate * (1.0 - s));
    d[at + size(width)] = dy[i] * gate * s;
  }
  return d;
}

// 1 / (1 - rate) where element i is kept, else 0.
inline Vector dropout_factors(std::int64_t count, double rate, std::uint64_t seed, std::uint64_t stream) {
  Vector factors;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) {
    const std::uint64_t counter = i / 64 * 16 + i % 16, word = i / 16 % 4;
    const auto words = engine::core::philox({static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
                                            {static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)});
    factors.push_back(static_cast<double>(words[word]) >= std::round(rate * 4294967296.0) ? 1.0 / (1.0 - rate) : 0.0);
  }
  return factors;
}

// The levels of NF4 and one element by the formulas of bitsandbytes, in its float arithmetic: these are the results, bit for bit.
inline constexpr float kNf4[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                                   0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
inline float nf4(const std::uint8_t* codes, float absmax, std::int64_t i) {
  const int code = i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15;
  return kNf4[code] * absmax;
}
// Two roundings to float: x86-64 has no fused ones unless asked for, and tests are not asked for.
inline float nf4_nested_scale(float code, float nested_absmax, float offset) {
  volatile float product = code * nested_absmax;
  return product + offset;
}

// Moments of 8 bits: codes into a book, a scale for each block of 256.
struct Moments8 {
  std::vector<std::uint8_t> codes;
  Vector scales, book;

  Vector values() const {
    Vector out;
    for (std::size_t i = 0; i < codes.size(); ++i) out.push_back(book[codes[i]] * scales[i / 256]);
    return out;
  }
  // The nearest entry of the book, the lower one of two as near.
  void assign(const Vector& values) {
    std::fill(scales.begin(), scales.end(), 0.0);
    for (std::size_t i = 0; i < values.size(); ++i) scales[i / 256] = std::max(scales[i / 256], std::abs(values[i]));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double share = scales[i / 256] > 0 ? values[i] / scales[i / 256] : 0.0;
      const auto nearest = std::min_element(book.begin(), book.end(), [&](double a, double b) { return std::abs(a - share) < std::abs(b - share); });
      codes[i] = static_cast<std::uint8_t>(nearest - book.begin());
    }
  }
};

}  // namespace pgtrain::reference
