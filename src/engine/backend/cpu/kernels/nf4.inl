// NF4 codes to numbers. A block's sixteen possible results are computed once, so that an element costs a look-up: the product
// of level and scale is the same whether it is made once or for each element.

// The published levels: quantiles of a normal distribution, exact as floats (Dettmers and others 2023, appendix E).
constexpr float kNf4Levels[16] = {-1.0f,
                                  -0.6961928009986877f,
                                  -0.5250730514526367f,
                                  -0.39491748809814453f,
                                  -0.28444138169288635f,
                                  -0.18477343022823334f,
                                  -0.09105003625154495f,
                                  0.0f,
                                  0.07958029955625534f,
                                  0.16093020141124725f,
                                  0.24611230194568634f,
                                  0.33791524171829224f,
                                  0.44070982933044434f,
                                  0.5626170039176941f,
                                  0.7229568362236023f,
                                  1.0f};
constexpr std::int64_t kNf4Block = 64, kNf4Nested = 256;

inline float nf4_scale(const Nf4Dequantize& a, std::int64_t block) {
  if (a.absmax != nullptr) return a.absmax[block];
  volatile float scale = a.code_book[a.absmax8[block]] * a.nested_absmax[block / kNf4Nested];  // two roundings, as bitsandbytes has them
  return scale + a.nested_offset;
}

#if PGTRAIN_VECTOR_BYTES == 64
typedef std::uint8_t vb16 __attribute__((vector_size(16)));
// 64 elements of 32 bytes, 16 at a time.
template <class T>
inline void nf4_whole_block(T* out, const std::uint8_t* codes, const float* results) {
  const vf table = load(results);
  const vb16 pairs = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
  const vu shifts = {4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0};
  for (std::int64_t i = 0; i < kNf4Block; i += W) {
    vb16 bytes{};
    std::memcpy(&bytes, codes + i / 2, 8);
    const vu wide = __builtin_convertvector(__builtin_shuffle(bytes, pairs), vu);
    store(out + i, __builtin_shuffle(table, (vi)((wide >> shifts) & 15u)));
  }
}
#else
template <class T>
inline void nf4_whole_block(T* out, const std::uint8_t* codes, const float* results) {
  T narrow[16];
  for (int i = 0; i < 16; ++i) put(narrow + i, results[i]);
  for (std::int64_t i = 0; i < kNf4Block / 2; ++i) out[2 * i] = narrow[codes[i] >> 4], out[2 * i + 1] = narrow[codes[i] & 15];
}
#endif

void nf4_dequantize(const Nf4Dequantize& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    split(a.count, kGrain, workers, [&](std::int64_t begin, std::int64_t end, int) {
      float results[16];
      for (std::int64_t i = begin; i < end; i += kNf4Block) {
        const float scale = nf4_scale(a, i / kNf4Block);
        for (int level = 0; level < 16; ++level) results[level] = kNf4Levels[level] * scale;
        auto* out = static_cast<decltype(tag)*>(a.out) + i;
        const std::uint8_t* codes = a.codes + i / 2;
        if (i + kNf4Block <= end) {
          nf4_whole_block(out, codes, results);
        } else {
          for (std::int64_t j = 0; j < end - i; ++j) put(out + j, results[j % 2 == 0 ? codes[j / 2] >> 4 : codes[j / 2] & 15]);
        }
      }
    });
  });
}
