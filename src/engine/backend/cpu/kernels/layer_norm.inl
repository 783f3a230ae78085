// Layer norm over rows, two passes for the variance; the backward sums gain and bias per thread and adds the threads' sums
// in their order.
template <class T>
void layer_norm_row(const LayerNormForward& a, std::int64_t r) {
  const T* x = static_cast<const T*>(a.x) + r * a.width;
  if (a.residual != nullptr) {
    const T* residual = static_cast<const T*>(a.residual) + r * a.width;
    T* sum_row = static_cast<T*>(a.sum) + r * a.width;
    for (std::int64_t i = 0; i < a.width; i += W) store_part(sum_row, i, a.width, load_part(x, i, a.width) + load_part(residual, i, a.width));
    x = sum_row;  // what is stored is what is normalised, so that the backward sees the same
  }
  vf s{};
  for (std::int64_t i = 0; i < a.width; i += W) s += load_part(x, i, a.width);
  const float mean = horizontal_sum(s) / static_cast<float>(a.width);
  vf q{};
  for (std::int64_t i = 0; i < a.width; i += W) {
    const vf d = (i + W <= a.width ? load(x + i) : load_tail(x + i, a.width - i, mean)) - mean;
    q += d * d;
  }
  const float rstd = 1.0f / std::sqrt(horizontal_sum(q) / static_cast<float>(a.width) + a.epsilon);
  T* y = static_cast<T*>(a.y) + r * a.width;
  const T *gain = static_cast<const T*>(a.gain), *bias = static_cast<const T*>(a.bias);
  for (std::int64_t i = 0; i < a.width; i += W)
    store_part(y, i, a.width, (load_part(x, i, a.width) - mean) * rstd * load_part(gain, i, a.width) + load_part(bias, i, a.width));
  a.mean[r] = mean;
  a.rstd[r] = rstd;
}

void layer_norm_forward(const LayerNormForward& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    split(a.rows, 8, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) layer_norm_row<decltype(tag)>(a, r);
    });
  });
}

template <class T>
void layer_norm_backward_row(const LayerNormBackward& a, std::int64_t r, float* dgain, float* dbias) {
  const T *dy = static_cast<const T*>(a.dy) + r * a.width, *x = static_cast<const T*>(a.x) + r * a.width, *gain = static_cast<const T*>(a.gain);
  T* dx = static_cast<T*>(a.dx) + r * a.width;
  const float mean = a.mean[r], rstd = a.rstd[r];
  vf sum_g{}, sum_gx{};
  for (std::int64_t i = 0; i < a.width; i += W) {
    const vf d = load_part(dy, i, a.width), n = (load_part(x, i, a.width) - mean) * rstd, g = d * load_part(gain, i, a.width);
    sum_g += g;  // beyond the width d is 0
    sum_gx += g * n;
    store(dgain + i, load(dgain + i) + d * n);
    store(dbias + i, load(dbias + i) + d);
  }
  const float mean_g = horizontal_sum(sum_g) / static_cast<float>(a.width), mean_gx = horizontal_sum(sum_gx) / static_cast<float>(a.width);
  for (std::int64_t i = 0; i < a.width; i += W) {
    const vf n = (load_part(x, i, a.width) - mean) * rstd, g = load_part(dy, i, a.width) * load_part(gain, i, a.width);
    vf d = (g - mean_g - n * mean_gx) * rstd;
    if (a.accumulate_dx) d += load_part(dx, i, a.width);
    store_part(dx, i, a.width, d);
  }
}

void layer_norm_backward(const LayerNormBackward& a, Scratch& scratch) {
  const std::int64_t padded = (a.width + W - 1) / W * W;
  const int threads = scratch.workers().count();
  for (int t = 0; t < threads; ++t) std::memset(scratch.floats(t, static_cast<std::size_t>(2 * padded)), 0, static_cast<std::size_t>(2 * padded) * sizeof(float));
  by_type(a.type, [&](auto tag) {
    split(a.rows, 8, scratch.workers(), [&](std::int64_t begin, std::int64_t end, int thread) {
      float* sums = scratch.floats(thread, static_cast<std::size_t>(2 * padded));
      for (std::int64_t r = begin; r < end; ++r) layer_norm_backward_row<decltype(tag)>(a, r, sums, sums + padded);
    });
  });
  for (int t = 0; t < threads; ++t) {
    const float* sums = scratch.floats(t, static_cast<std::size_t>(2 * padded));
    for (std::int64_t i = 0; i < a.width; ++i) {
      if (a.dgain != nullptr) a.dgain[i] += sums[i];
      if (a.dbias != nullptr) a.dbias[i] += sums[padded + i];
    }
  }
}
