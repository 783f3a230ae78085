// AdamW with moments of float or bf16, and with moments of 8 bits in blocks of 256; of weights that are floats or lie in halves.
inline void split_halves(const Halves& to, const float* from, std::int64_t count, Workers& workers) {
  split(count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; i += W) store_part(to, i, end, load_part(from, i, end));
  });
}
inline void join_halves(float* to, const Halves& from, std::int64_t count, Workers& workers) {
  split(count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; i += W) store_part(to, i, end, load_part(from, i, end));
  });
}

// Picks the instance for how the weights of a call lie.
template <class Call, class Body>
inline void by_weights(const Call& a, Body&& body) {
  if (a.parameter != nullptr)
    body(a.parameter);
  else
    body(a.halves);
}

// Bits by chance for elements first, first + 1, ... (the mixing steps of lowbias32): the lower half of each rounds a first moment, the upper
// half a second one. In step with the CUDA kernel.
inline vu chances(std::uint32_t chance, std::int64_t first) {
  vu x;
  for (std::int64_t lane = 0; lane < W; ++lane) x[lane] = static_cast<std::uint32_t>(first + lane);
  x = x * 0x9E3779B9u + chance;
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}
inline void store_moment(float* to, std::int64_t i, std::int64_t end, vf v, vu) { store_part(to, i, end, v); }
inline void store_moment(Bf16* to, std::int64_t i, std::int64_t end, vf v, vu chance) {
  const vu is_nan = (vu)(v != v);
  const vu bits = ((vu)v + (~is_nan & chance & 0xFFFFu)) & 0xFFFF0000u;
  store_part(to, i, end, (vf)bits);
}

template <class T, class P>
void adamw_moments(const AdamW& a, P weights, float gradient_factor, Workers& workers) {
  T *first = static_cast<T*>(a.m), *second = static_cast<T*>(a.v);
  split(a.count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; i += W) {
      const vf g = load_part(a.gradient, i, end) * gradient_factor;
      const vf m = load_part(first, i, end) * a.beta1 + g * (1.0f - a.beta1);
      const vf v = load_part(second, i, end) * a.beta2 + g * g * (1.0f - a.beta2);
      vf p = load_part(weights, i, end);
      vf root = v * a.correction2;
      for (std::int64_t lane = 0; lane < W; ++lane) root[lane] = std::sqrt(root[lane]);
      p = p - a.learning_rate * a.weight_decay * p - a.learning_rate * (m * a.correction1) / (root + a.epsilon);
      const vu chance = std::is_same_v<T, float> ? vu{} : chances(a.chance, i);
      store_moment(first, i, end, m, chance), store_moment(second, i, end, v, chance >> 16), store_part(weights, i, end, p);
    }
  });
}
void adamw(const AdamW& a, float gradient_factor, Workers& workers) {
  by_type(a.moments_type, [&](auto tag) { by_weights(a, [&](auto weights) { adamw_moments<decltype(tag)>(a, weights, gradient_factor, workers); }); });
}

constexpr std::int64_t kMomentBlock = 256;

inline std::uint8_t code_of(float share, const CodeTable& table) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &share, sizeof bits);
  const std::uint8_t code = table.codes[bits >> 16];
  return static_cast<std::uint8_t>(code + (table.midpoints[code] < share));
}

inline void quantize_block(const float* values, std::int64_t count, const CodeTable& table, std::uint8_t* codes, float* scale) {
  float most = 0;
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::abs(values[i]));
  const float inverse = 1.0f / std::max(most, 1e-38f);
  *scale = most;
  for (std::int64_t i = 0; i < count; ++i) codes[i] = code_of(std::min(std::max(values[i] * inverse, -1.0f), 1.0f), table);
}

template <class P>
void adamw_codes(const AdamW8bit& a, P weights, float gradient_factor, Workers& workers) {
  const CodeTable &m_codes = code_table(true), &v_codes = code_table(false);
  split(a.count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    float m[kMomentBlock], v[kMomentBlock];
    for (std::int64_t first = begin; first < end; first += kMomentBlock) {
      const std::int64_t block = first / kMomentBlock, count = std::min(kMomentBlock, end - first);
      for (std::int64_t i = 0; i < count; ++i) m[i] = a.m_book[a.m[first + i]] * a.m_scale[block], v[i] = a.v_book[a.v[first + i]] * a.v_scale[block];
      for (std::int64_t i = 0; i < count; i += W) {
        const vf g = load_part(a.gradient + first, i, count) * gradient_factor;
        const vf new_m = load_part(m, i, count) * a.beta1 + g * (1.0f - a.beta1), new_v = load_part(v, i, count) * a.beta2 + g * g * (1.0f - a.beta2);
        vf p = load_part(weights, first + i, first + count), root = new_v * a.correction2;
        for (std::int64_t lane = 0; lane < W; ++lane) root[lane] = std::sqrt(root[lane]);
        p = p - a.learning_rate * a.weight_decay * p - a.learning_rate * (new_m * a.correction1) / (root + a.epsilon);
        store_part(m, i, count, new_m), store_part(v, i, count, new_v), store_part(weights, first + i, first + count, p);
      }
      quantize_block(m, count, m_codes, a.m + first, a.m_scale + block);
      quantize_block(v, count, v_codes, a.v + first, a.v_scale + block);
    }
  });
}
void adamw_8bit(const AdamW8bit& a, float gradient_factor, Workers& workers) {
  by_weights(a, [&](auto weights) { adamw_codes(a, weights, gradient_factor, workers); });
}
