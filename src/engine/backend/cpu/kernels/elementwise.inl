// One pass over memory each: gelu and its derivative, sums, casts, SwiGLU, dropout.
constexpr std::int64_t kGrain = 4096;

template <class Body, class T>
inline void map1(T* y, const T* x, std::int64_t count, Workers& workers, Body body) {
  split(count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    std::int64_t i = begin;
    for (; i + W <= end; i += W) store(y + i, body(load(x + i)));
    if (i < end) store_tail(y + i, body(load_tail(x + i, end - i)), end - i);
  });
}
template <class Body, class T>
inline void map2(T* y, const T* a, const T* b, std::int64_t count, Workers& workers, Body body) {
  split(count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    std::int64_t i = begin;
    for (; i + W <= end; i += W) store(y + i, body(load(a + i), load(b + i)));
    if (i < end) store_tail(y + i, body(load_tail(a + i, end - i), load_tail(b + i, end - i)), end - i);
  });
}

// gelu in its tanh form (Hendrycks, Gimpel 2016), as GPT-2 uses it. (1 + tanh u) / 2 is the logistic function of 2u, which
// needs one exponential and one division and loses nothing where tanh is close to -1.
constexpr float kGeluA = 0.7978845608028654f, kGeluB = 0.044715f;

inline vf gelu_gate(vf v) { return 1.0f / (1.0f + exponential(-2.0f * kGeluA * (v + kGeluB * v * v * v))); }

void gelu_forward(DType type, void* y, const void* x, std::int64_t count, Workers& workers) {
  by_type(type, [&](auto tag) {
    using T = decltype(tag);
    map1(static_cast<T*>(y), static_cast<const T*>(x), count, workers, [](vf v) { return v * gelu_gate(v); });
  });
}

void gelu_backward(DType type, void* dx, const void* dy, const void* x, std::int64_t count, Workers& workers) {
  by_type(type, [&](auto tag) {
    using T = decltype(tag);
    map2(static_cast<T*>(dx), static_cast<const T*>(dy), static_cast<const T*>(x), count, workers, [](vf g, vf v) {
      const vf s = gelu_gate(v);
      return g * (s + v * s * (1.0f - s) * (2.0f * kGeluA) * (1.0f + 3.0f * kGeluB * v * v));
    });
  });
}

void add(DType type, void* y, const void* a, const void* b, std::int64_t count, Workers& workers) {
  by_type(type, [&](auto tag) {
    using T = decltype(tag);
    map2(static_cast<T*>(y), static_cast<const T*>(a), static_cast<const T*>(b), count, workers, [](vf u, vf v) { return u + v; });
  });
}

void scale(DType type, void* x, float factor, std::int64_t count, Workers& workers) {
  by_type(type, [&](auto tag) {
    using T = decltype(tag);
    map1(static_cast<T*>(x), static_cast<const T*>(x), count, workers, [factor](vf v) { return v * factor; });
  });
}

void cast(DType to_type, void* to, DType from_type, const void* from, std::int64_t count, Workers& workers) {
  by_type(to_type, [&](auto to_tag) {
    by_type(from_type, [&](auto from_tag) {
      auto* y = static_cast<decltype(to_tag)*>(to);
      const auto* x = static_cast<const decltype(from_tag)*>(from);
      split(count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
        std::int64_t i = begin;
        for (; i + W <= end; i += W) store(y + i, load(x + i));
        for (; i < end; ++i) put(y + i, core::to_float(x[i]));
      });
    });
  });
}

// Each thread owns columns, so rows are added in their order whatever the thread count.
void column_sum(DType type, float* out, const void* x, std::int64_t rows, std::int64_t width, Workers& workers) {
  by_type(type, [&](auto tag) {
    const auto* values = static_cast<const decltype(tag)*>(x);
    split(width, 4 * W, workers, [&](std::int64_t begin, std::int64_t end, int) {
      std::int64_t c = begin;
      for (; c + 4 * W <= end; c += 4 * W) {
        vf s0{}, s1{}, s2{}, s3{};
        for (std::int64_t r = 0; r < rows; ++r) {
          const auto* row = values + r * width + c;
          s0 += load(row), s1 += load(row + W), s2 += load(row + 2 * W), s3 += load(row + 3 * W);
        }
        store(out + c, load(out + c) + s0), store(out + c + W, load(out + c + W) + s1);
        store(out + c + 2 * W, load(out + c + 2 * W) + s2), store(out + c + 3 * W, load(out + c + 3 * W) + s3);
      }
      for (; c < end; ++c) {
        float s = 0;
        for (std::int64_t r = 0; r < rows; ++r) s += core::to_float(values[r * width + c]);
        out[c] += s;
      }
    });
  });
}

void add_bias(DType type, void* c, std::int64_t pitch, DType bias_type, const void* bias, std::int64_t rows, std::int64_t width, Workers& workers) {
  by_type(type, [&](auto tag) {
    by_type(bias_type, [&](auto bias_tag) {
      auto* values = static_cast<decltype(tag)*>(c);
      const auto* b = static_cast<const decltype(bias_tag)*>(bias);
      split(rows, 16, workers, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t r = begin; r < end; ++r) {
          auto* row = values + r * pitch;
          std::int64_t i = 0;
          for (; i + W <= width; i += W) store(row + i, load(row + i) + load(b + i));
          for (; i < width; ++i) put(row + i, core::to_float(row[i]) + core::to_float(b[i]));
        }
      });
    });
  });
}

// Blocks of floats, their sums in double, and at most kRuns stretches of them: the same bits for any thread count.
template <class Body>
inline double block_sum(const float* x, std::int64_t count, Workers& workers, Body body) {
  constexpr std::int64_t kRuns = 256;
  const std::int64_t blocks = (count + kGrain - 1) / kGrain, run = std::max<std::int64_t>(1, (blocks + kRuns - 1) / kRuns) * kGrain;
  double sums[kRuns] = {};
  split(count, run, workers, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t begin = first; begin < last; begin += kGrain) {
      const std::int64_t end = std::min(last, begin + kGrain);
      vf s{};
      std::int64_t i = begin;
      for (; i + W <= end; i += W) s += body(load(x + i));
      if (i < end) s += body(load_tail(x + i, end - i));
      sums[begin / run] += static_cast<double>(horizontal_sum(s));
    }
  });
  double total = 0;
  for (std::int64_t r = 0; r * run < count; ++r) total += sums[r];
  return total;
}
double sum(const float* x, std::int64_t count, Workers& workers) {
  return block_sum(x, count, workers, [](vf v) { return v; });
}
double sum_of_squares(const float* x, std::int64_t count, Workers& workers) {
  return block_sum(x, count, workers, [](vf v) { return v * v; });
}

void swiglu_forward(const SwiGluForward& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    using T = decltype(tag);
    split(a.rows, 4, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* gate = static_cast<const T*>(a.gate_up) + 2 * r * a.width;
        T* y = static_cast<T*>(a.y) + r * a.width;
        for (std::int64_t i = 0; i < a.width; i += W) {
          const vf g = load_part(gate, i, a.width);
          store_part(y, i, a.width, g / (1.0f + exponential(-g)) * load_part(gate + a.width, i, a.width));
        }
      }
    });
  });
}

void swiglu_backward(const SwiGluBackward& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    using T = decltype(tag);
    split(a.rows, 4, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T *gate = static_cast<const T*>(a.gate_up) + 2 * r * a.width, *dy = static_cast<const T*>(a.dy) + r * a.width;
        T* dgate = static_cast<T*>(a.dgate_up) + 2 * r * a.width;
        for (std::int64_t i = 0; i < a.width; i += W) {
          const vf g = load_part(gate, i, a.width), up = load_part(gate + a.width, i, a.width), d = load_part(dy, i, a.width), s = 1.0f / (1.0f + exponential(-g));
          store_part(dgate, i, a.width, d * up * s * (1.0f + g * (1.0f - s)));
          store_part(dgate + a.width, i, a.width, d * g * s);
        }
      }
    });
  });
}

// Dropout's numbers for 16 counters from `first`, a multiple of 16: words[16 w + i] is word w of counter first + i. Plain
// loops over the 16, which the compiler turns into vectors of any width.
inline void philox16(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::uint32_t* words) {
  std::uint32_t a[16], b[16], c[16], d[16];
  for (int i = 0; i < 16; ++i) {
    a[i] = static_cast<std::uint32_t>(first) + static_cast<std::uint32_t>(i), b[i] = static_cast<std::uint32_t>(first >> 32);
    c[i] = static_cast<std::uint32_t>(stream), d[i] = static_cast<std::uint32_t>(stream >> 32);
  }
  auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 16; ++i) {
      const std::uint64_t p = std::uint64_t{0xD2511F53} * a[i], q = std::uint64_t{0xCD9E8D57} * c[i];
      a[i] = static_cast<std::uint32_t>(q >> 32) ^ b[i] ^ key0, b[i] = static_cast<std::uint32_t>(q);
      c[i] = static_cast<std::uint32_t>(p >> 32) ^ d[i] ^ key1, d[i] = static_cast<std::uint32_t>(p);
    }
    key0 += 0x9E3779B9, key1 += 0xBB67AE85;
  }
  std::memcpy(words, a, sizeof a), std::memcpy(words + 16, b, sizeof b), std::memcpy(words + 32, c, sizeof c), std::memcpy(words + 48, d, sizeof d);
}

void dropout(const Dropout& a, Workers& workers) {
  constexpr std::int64_t kRun = 64;  // elements of 16 counters
  const std::uint32_t threshold = dropout_threshold(a.rate);
  const float factor = dropout_factor(a.rate);
  by_type(a.type, [&](auto tag) {
    using T = decltype(tag);
    split(a.count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
      std::uint32_t words[kRun];
      float factors[kRun];
      for (std::int64_t i = begin; i < end; i += kRun) {
        philox16(a.seed, a.stream, static_cast<std::uint64_t>(i / 4), words);
        for (std::int64_t j = 0; j < kRun; ++j) factors[j] = words[j] >= threshold ? factor : 0.0f;
        const T* x = static_cast<const T*>(a.x) + i;
        T* y = static_cast<T*>(a.y) + i;
        const std::int64_t n = std::min(kRun, end - i);
        for (std::int64_t j = 0; j < n; j += W) {
          vf v = load_part(x, j, n) * load(factors + j);
          if (a.accumulate) v = separate(v) + load_part(y, j, n);
          store_part(y, j, n, v);
        }
      }
    });
  });
}
