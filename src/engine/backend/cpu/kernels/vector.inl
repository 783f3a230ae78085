// A vector of floats as wide as the instruction set, by GCC's vector types; loads and stores convert bf16. Loops run over
// whole vectors and end with a masked tail by copying, so that every element goes through the same arithmetic.
constexpr std::int64_t W = PGTRAIN_VECTOR_BYTES / 4;
typedef float vf __attribute__((vector_size(PGTRAIN_VECTOR_BYTES)));
typedef std::int32_t vi __attribute__((vector_size(PGTRAIN_VECTOR_BYTES)));
typedef std::uint32_t vu __attribute__((vector_size(PGTRAIN_VECTOR_BYTES)));
typedef std::uint16_t vh __attribute__((vector_size(PGTRAIN_VECTOR_BYTES / 2)));
using core::Bf16;

inline vf splat(float x) { return x - vf{}; }

inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline vf load(const Bf16* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}
inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
// The bits of the bf16 nearest to each.
inline vu rounded_bits(vf v) {
  const vu bits = (vu)v;
  const vu rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const vu is_nan = (vu)(v != v);
  return (is_nan & ((bits >> 16) | 0x40u)) | (~is_nan & rounded);
}
inline void store_bits(void* p, vu bits) {
  const vh h = __builtin_convertvector(bits, vh);
  std::memcpy(p, &h, sizeof h);
}
inline void store(Bf16* p, vf v) { store_bits(p, rounded_bits(v)); }
// core::split and core::join of whole vectors.
inline void store(const Halves& p, std::int64_t i, vf v) {
  const vu high = rounded_bits(v);
  vi rest = (vi)((vu)v - (high << 16));
  const vi is_below = rest < -core::kHalfRange, is_above = rest > core::kHalfRange + 1;
  rest = (is_below & -core::kHalfRange) | (is_above & (core::kHalfRange + 1)) | (~(is_below | is_above) & rest);
  store_bits(p.high + i, high);
  store_bits(p.low + i, (vu)(rest + core::kHalfRange));
}
inline vf load(const Halves& p, std::int64_t i) {
  vh low;
  std::memcpy(&low, p.low + i, sizeof low);
  return (vf)((vu)load(p.high + i) + __builtin_convertvector(low, vu) - static_cast<std::uint32_t>(core::kHalfRange));
}
// The first n < W elements; the others are `rest`.
template <class T>
inline vf load_tail(const T* p, std::int64_t n, float rest = 0.0f) {
  float buffer[W];
  for (std::int64_t i = 0; i < W; ++i) buffer[i] = i < n ? core::to_float(p[i]) : rest;
  return load(buffer);
}
inline void put(float* p, float v) { *p = v; }
inline void put(Bf16* p, float v) { *p = core::to_bf16(v); }
template <class T>
inline void store_tail(T* p, vf v, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) put(p + i, v[i]);
}

// Elements i to i + W of a run that ends at `width`.
template <class T>
inline vf load_part(const T* p, std::int64_t i, std::int64_t width) {
  return i + W <= width ? load(p + i) : load_tail(p + i, width - i);
}
template <class T>
inline void store_part(T* p, std::int64_t i, std::int64_t width, vf v) {
  if (i + W <= width)
    store(p + i, v);
  else
    store_tail(p + i, v, width - i);
}

inline vf load_part(const Halves& p, std::int64_t i, std::int64_t width) {
  if (i + W <= width) return load(p, i);
  vf v{};
  for (std::int64_t lane = 0; i + lane < width; ++lane) v[lane] = core::join({p.high[i + lane], p.low[i + lane]});
  return v;
}
inline void store_part(const Halves& p, std::int64_t i, std::int64_t width, vf v) {
  if (i + W <= width) return store(p, i, v);
  for (std::int64_t lane = 0; i + lane < width; ++lane) {
    const core::Halves halves = core::split(v[lane]);
    p.high[i + lane] = halves.high, p.low[i + lane] = halves.low;
  }
}

// The compiler may not fuse what made v with what uses it: for results that must have the bits of a device that does not.
inline vf separate(vf v) {
#if PGTRAIN_VECTOR_BYTES == 64
  asm("" : "+v"(v));
#else
  asm("" : "+x"(v));
#endif
  return v;
}

inline vf select(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
inline vf maximum(vf a, vf b) { return select(a > b, a, b); }
inline vf minimum(vf a, vf b) { return select(a < b, a, b); }
inline float horizontal_sum(vf v) {
  float s[W];
  store(s, v);
  for (std::int64_t half = W / 2; half > 0; half /= 2)
    for (std::int64_t i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
}
inline float horizontal_max(vf v) {
  float m = v[0];
  for (std::int64_t i = 1; i < W; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x to 2 units in the last place on [-87, 88]; below it is 0, NaN stays NaN (Cody-Waite reduction, Taylor to x^7).
inline vf exponential(vf x) {
  const vi is_small = x < splat(-87.0f);
  const vf clamped = minimum(maximum(x, splat(-87.0f)), splat(88.0f));
  const vf shifted = clamped * 1.44269504f + 12582912.0f;
  const vf n = shifted - 12582912.0f;
  const vf r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  vf p = splat(1.0f / 5040.0f);
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const vi power = ((vi)shifted - 0x4B400000 + 127) << 23;
  const vf value = select(is_small, vf{}, p * (vf)power);
  return select(x != x, x, value);
}
// Calls body(begin, end, thread) on equal parts of [0, count), each but the last a multiple of `grain`.
template <class Body>
inline void split(std::int64_t count, std::int64_t grain, Workers& workers, Body&& body) {
  const std::int64_t grains = (count + grain - 1) / grain, threads = workers.count();
  if (threads == 1 || grains <= 1) return body(std::int64_t{0}, count, 0);
  workers.run([&](int thread) {
    const std::int64_t begin = grains * thread / threads * grain, end = std::min(count, grains * (thread + 1) / threads * grain);
    if (begin < end) body(begin, end, thread);
  });
}

// Picks the instance for a runtime type.
template <class Body>
inline void by_type(DType type, Body&& body) {
  if (type == DType::Bf16)
    body(Bf16{});
  else
    body(float{});
}
