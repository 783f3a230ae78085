// NF4 codes to numbers. A block's sixteen possible results are computed once, so that an element costs a look-up: the product
// of level and scale is the same whether it is made once or for each element.

inline float nf4_scale(const Nf4Dequantize& a, std::int64_t block) {
  if (a.absmax != nullptr) return a.absmax[block];
  volatile float scale = a.code_book[a.absmax8[block]] * a.nested_absmax[block / kNf4NestedBlock];  // two roundings, as bitsandbytes has them
  return scale + a.nested_offset;
}

// clang, which builds the fuzz targets, has no shuffle by a variable.
#if PGTRAIN_VECTOR_BYTES == 64 && !defined(__clang__)
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
