// RMS norm over rows or over the heads of rows, and rotary positions. The backward sums the gain per thread and adds the
// threads' sums in their order.
template <class Call>
inline std::int64_t pitch_of(const Call& a) { return a.pitch == 0 ? a.groups * a.width : a.pitch; }

template <class T>
void rms_norm_run(const RmsNormForward& a, std::int64_t r, std::int64_t group) {
  const std::int64_t at = r * pitch_of(a) + group * a.width;
  const T* x = static_cast<const T*>(a.x) + at;
  if (a.residual != nullptr) {
    const T* residual = static_cast<const T*>(a.residual) + at;
    T* sum_row = static_cast<T*>(a.sum) + at;
    for (std::int64_t i = 0; i < a.width; i += W) store_part(sum_row, i, a.width, load_part(x, i, a.width) + load_part(residual, i, a.width));
    x = sum_row;  // what is stored is what is normalised, so that the backward sees the same
  }
  vf squares{};
  for (std::int64_t i = 0; i < a.width; i += W) {
    const vf v = load_part(x, i, a.width);
    squares += v * v;
  }
  const float rstd = 1.0f / std::sqrt(horizontal_sum(squares) / static_cast<float>(a.width) + a.epsilon);
  T* y = static_cast<T*>(a.y) + at;
  const T* gain = static_cast<const T*>(a.gain);
  for (std::int64_t i = 0; i < a.width; i += W) store_part(y, i, a.width, load_part(x, i, a.width) * rstd * load_part(gain, i, a.width));
  a.rstd[r * a.groups + group] = rstd;
}

void rms_norm_forward(const RmsNormForward& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    split(a.rows, 8, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r)
        for (std::int64_t group = 0; group < a.groups; ++group) rms_norm_run<decltype(tag)>(a, r, group);
    });
  });
}

// dgain null: frozen.
template <class T, bool kFrozen>
void rms_norm_backward_run(const RmsNormBackward& a, std::int64_t r, std::int64_t group, float* dgain) {
  const std::int64_t at = r * pitch_of(a) + group * a.width;
  const T *dy = static_cast<const T*>(a.dy) + at, *x = static_cast<const T*>(a.x) + at, *gain = static_cast<const T*>(a.gain);
  T* dx = static_cast<T*>(a.dx) + at;
  const float rstd = a.rstd[r * a.groups + group];
  vf sum_gx{};
  for (std::int64_t i = 0; i < a.width; i += W) {
    const vf dn = load_part(dy, i, a.width) * (load_part(x, i, a.width) * rstd);  // 0 beyond the width
    sum_gx += dn * load_part(gain, i, a.width);
    if constexpr (!kFrozen) store(dgain + i, load(dgain + i) + dn);
  }
  const float mean_gx = horizontal_sum(sum_gx) / static_cast<float>(a.width);
  for (std::int64_t i = 0; i < a.width; i += W) {
    const vf n = load_part(x, i, a.width) * rstd, g = load_part(dy, i, a.width) * load_part(gain, i, a.width);
    vf d = (g - n * mean_gx) * rstd;
    if (a.accumulate_dx) d += load_part(dx, i, a.width);
    store_part(dx, i, a.width, d);
  }
}

template <class T, bool kFrozen>
void rms_norm_backward_rows(const RmsNormBackward& a, Scratch& scratch, std::size_t floats) {
  split(a.rows, 8, scratch.workers(), [&](std::int64_t begin, std::int64_t end, int thread) {
    float* sums = kFrozen ? nullptr : scratch.floats(thread, floats);
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t group = 0; group < a.groups; ++group) rms_norm_backward_run<T, kFrozen>(a, r, group, sums);
  });
}

void rms_norm_backward(const RmsNormBackward& a, Scratch& scratch) {
  const auto floats = static_cast<std::size_t>((a.width + W - 1) / W * W);
  if (a.dgain == nullptr) return by_type(a.type, [&](auto tag) { rms_norm_backward_rows<decltype(tag), true>(a, scratch, floats); });
  const int threads = scratch.workers().count();
  for (int t = 0; t < threads; ++t) std::memset(scratch.floats(t, floats), 0, floats * sizeof(float));
  by_type(a.type, [&](auto tag) { rms_norm_backward_rows<decltype(tag), false>(a, scratch, floats); });
  for (int t = 0; t < threads; ++t) {
    const float* sums = scratch.floats(t, floats);
    for (std::int64_t i = 0; i < a.width; ++i) a.dgain[i] += sums[i];
  }
}

template <class T>
void rope_row(const Rope& a, std::int64_t r) {
  const std::int64_t half = a.head_size / 2, turned = a.heads * a.head_size;
  const T* x = static_cast<const T*>(a.x) + r * a.columns;
  T* y = static_cast<T*>(a.y) + r * a.columns;
  const float *cosine = a.table + a.positions[r] * a.head_size, *sine = cosine + half;
  const float sign = a.inverse ? -1.0f : 1.0f;
  for (std::int64_t begin = 0; begin < turned; begin += a.head_size)
    for (std::int64_t i = 0; i < half; i += W) {
      const vf low = load_part(x + begin, i, half), high = load_part(x + begin + half, i, half);
      const vf c = load_part(cosine, i, half), s = load_part(sine, i, half) * sign;
      store_part(y + begin, i, half, low * c - high * s);
      store_part(y + begin + half, i, half, high * c + low * s);
    }
  if (x != y) std::memcpy(static_cast<void*>(y + turned), x + turned, static_cast<std::size_t>(a.columns - turned) * sizeof(T));
}

void rope(const Rope& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    split(a.rows, 8, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) rope_row<decltype(tag)>(a, r);
    });
  });
}
