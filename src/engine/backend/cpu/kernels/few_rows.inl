// Products of a few rows, as text is written: they are as fast as the weights can be read. Each element of B is read once for all
// rows; sums are of floats, in a fixed order.
constexpr std::int64_t kWorthSplitting = 1 << 16;

template <class T>
inline void put_result(const Matmul& a, std::int64_t row, std::int64_t column, float sum) {
  float value = a.alpha * sum;
  const std::int64_t place = row * a.c_pitch + column;
  if (a.bias != nullptr) value += core::to_float(static_cast<const T*>(a.bias)[column]);
  if (a.out == DType::F32) {
    float* c = static_cast<float*>(a.c) + place;
    put(c, a.beta != 0.0f ? value + a.beta * *c : value);
  } else {
    Bf16* c = static_cast<Bf16*>(a.c) + place;
    put(c, a.beta != 0.0f ? value + a.beta * core::to_float(*c) : value);
  }
}

// B is stored [n, k]: a dot product a column. x holds M rows of k floats.
template <class T, int M>
void few_rows_of_dots(const Matmul& a, const float* x, std::int64_t begin, std::int64_t end) {
  constexpr int U = M == 1 ? 4 : M == 2 ? 2 : 1;
  for (std::int64_t column = begin; column < end; ++column) {
    const T* b = static_cast<const T*>(a.b) + column * a.b_pitch;
    vf sums[M][U] = {};
    std::int64_t i = 0;
    for (; i + U * W <= a.k; i += U * W)
      for (int u = 0; u < U; ++u) {
        const vf weight = load(b + i + u * W);
        for (int m = 0; m < M; ++m) sums[m][u] += weight * load(x + m * a.k + i + u * W);
      }
    for (; i < a.k; i += W) {
      const vf weight = load_part(b, i, a.k);
      for (int m = 0; m < M; ++m) sums[m][0] += weight * load_part(x + m * a.k, i, a.k);
    }
    for (std::int64_t m = 0; m < a.m; ++m) {
      vf sum = sums[m][0];
      for (int u = 1; u < U; ++u) sum += sums[m][u];
      put_result<T>(a, m, column, horizontal_sum(sum));
    }
  }
}

// B is stored [k, n]: columns side by side, row by row.
template <class T, int M>
void few_rows_of_sums(const Matmul& a, const float* x, std::int64_t begin, std::int64_t end) {
  constexpr int U = M <= 2 ? 4 : M == 4 ? 2 : 1;
  const T* b = static_cast<const T*>(a.b);
  for (std::int64_t column = begin; column < end; column += U * W) {
    vf sums[M][U] = {};
    const bool is_whole = column + U * W <= end;
    for (std::int64_t i = 0; i < a.k; ++i)
      for (int u = 0; u < U; ++u) {
        if (!is_whole && column + u * W >= end) break;
        const vf weight = load_part(b + i * a.b_pitch, column + u * W, is_whole ? a.n : end);
        for (int m = 0; m < M; ++m) sums[m][u] += weight * x[m * a.k + i];
      }
    for (std::int64_t m = 0; m < a.m; ++m)
      for (std::int64_t c = column; c < std::min(end, column + U * W); ++c) put_result<T>(a, m, c, sums[m][(c - column) / W][(c - column) % W]);
  }
}

template <class T, int M>
void few_rows_of(const Matmul& a, Scratch& scratch) {
  float* x = scratch.floats(0, static_cast<std::size_t>(M * a.k));
  for (std::int64_t m = 0; m < M; ++m)
    for (std::int64_t i = 0; i < a.k; ++i) x[m * a.k + i] = m < a.m ? core::to_float(static_cast<const T*>(a.a)[m * a.a_pitch + i]) : 0.0f;
  const std::int64_t grain = a.n * a.k < kWorthSplitting ? a.n : 64;
  split(a.n, grain, scratch.workers(), [&](std::int64_t begin, std::int64_t end, int) {
    if (a.transpose_b)
      few_rows_of_dots<T, M>(a, x, begin, end);
    else
      few_rows_of_sums<T, M>(a, x, begin, end);
  });
}

// Adds the bias as well. Only for products that takes_few_rows() names.
void few_rows(const Matmul& a, Scratch& scratch) {
  by_type(a.in, [&](auto tag) {
    using T = decltype(tag);
    if (a.m == 1) return few_rows_of<T, 1>(a, scratch);
    if (a.m == 2) return few_rows_of<T, 2>(a, scratch);
    if (a.m <= 4) return few_rows_of<T, 4>(a, scratch);
    few_rows_of<T, 8>(a, scratch);
  });
}
