// AdamW with moments of float or bf16, and with moments of 8 bits in blocks of 256.
template <class T>
void adamw_moments(const AdamW& a, float gradient_factor, Workers& workers) {
  auto* shadow = static_cast<Bf16*>(a.shadow);
  T *first = static_cast<T*>(a.m), *second = static_cast<T*>(a.v);
  split(a.count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; i += W) {
      const vf g = load_part(a.gradient, i, end) * gradient_factor;
      const vf m = load_part(first, i, end) * a.beta1 + g * (1.0f - a.beta1);
      const vf v = load_part(second, i, end) * a.beta2 + g * g * (1.0f - a.beta2);
      vf p = load_part(a.parameter, i, end);
      vf root = v * a.correction2;
      for (std::int64_t lane = 0; lane < W; ++lane) root[lane] = std::sqrt(root[lane]);
      p = p - a.learning_rate * a.weight_decay * p - a.learning_rate * (m * a.correction1) / (root + a.epsilon);
      store_part(first, i, end, m), store_part(second, i, end, v), store_part(a.parameter, i, end, p);
      if (shadow != nullptr) store_part(shadow, i, end, p);
    }
  });
}
void adamw(const AdamW& a, float gradient_factor, Workers& workers) {
  by_type(a.moments_type, [&](auto tag) { adamw_moments<decltype(tag)>(a, gradient_factor, workers); });
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

void adamw_8bit(const AdamW8bit& a, float gradient_factor, Workers& workers) {
  auto* shadow = static_cast<Bf16*>(a.shadow);
  const CodeTable &m_codes = code_table(true), &v_codes = code_table(false);
  split(a.count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
    float m[kMomentBlock], v[kMomentBlock];
    for (std::int64_t first = begin; first < end; first += kMomentBlock) {
      const std::int64_t block = first / kMomentBlock, count = std::min(kMomentBlock, end - first);
      for (std::int64_t i = 0; i < count; ++i) m[i] = a.m_book[a.m[first + i]] * a.m_scale[block], v[i] = a.v_book[a.v[first + i]] * a.v_scale[block];
      for (std::int64_t i = 0; i < count; i += W) {
        const vf g = load_part(a.gradient + first, i, count) * gradient_factor;
        const vf new_m = load_part(m, i, count) * a.beta1 + g * (1.0f - a.beta1), new_v = load_part(v, i, count) * a.beta2 + g * g * (1.0f - a.beta2);
        vf p = load_part(a.parameter + first, i, count), root = new_v * a.correction2;
        for (std::int64_t lane = 0; lane < W; ++lane) root[lane] = std::sqrt(root[lane]);
        p = p - a.learning_rate * a.weight_decay * p - a.learning_rate * (new_m * a.correction1) / (root + a.epsilon);
        store_part(m, i, count, new_m), store_part(v, i, count, new_v), store_part(a.parameter + first, i, count, p);
        if (shadow != nullptr) store_part(shadow + first, i, count, p);
      }
      quantize_block(m, count, m_codes, a.m + first, a.m_scale + block);
      quantize_block(v, count, v_codes, a.v + first, a.v_scale + block);
    }
  });
}
