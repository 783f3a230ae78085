// Weight-decomposed adapters (DoRA): the gain of each output, products scaled by columns, and the gradient of a length.

// Squares of `n` <= W outputs that lie side by side.
template <class T>
inline void add_squares(const DecomposedGain& a, std::int64_t first, std::int64_t n, float* squares) {
  const auto* weight = static_cast<const T*>(a.weight);
  if (a.is_in_out) {
    vf sum{};
    for (std::int64_t i = 0; i < a.in; ++i) {
      const T* row = weight + i * a.pitch + first;
      const vf v = n == W ? load(row) : load_tail(row, n);
      sum += v * v;
    }
    return store_tail(squares, sum, n);
  }
  for (std::int64_t o = 0; o < n; ++o) {
    const T* row = weight + (first + o) * a.pitch;
    vf sum{};
    for (std::int64_t i = 0; i < a.in; i += W) {
      const vf v = load_part(row, i, a.in);
      sum += v * v;
    }
    squares[o] = horizontal_sum(sum);
  }
}

// What the adapter adds to the square of an output's length.
template <class T>
inline float adapter_square(const DecomposedGain& a, std::int64_t output) {
  const T* up = static_cast<const T*>(a.up) + output * a.rank;
  const float* overlap = a.overlap + output * a.rank;
  float crossed = 0, squared = 0;
  for (std::int64_t j = 0; j < a.rank; j += W) {
    const vf mine = load_part(up, j, a.rank);
    vf inner{};
    for (std::int64_t k = 0; k < a.rank; ++k) inner += load_part(a.gram + k * a.rank, j, a.rank) * core::to_float(up[k]);
    crossed += horizontal_sum(mine * load_part(overlap, j, a.rank));
    squared += horizontal_sum(mine * inner);
  }
  return 2 * a.scale * crossed + a.scale * a.scale * squared;
}

void decomposed_gain(const DecomposedGain& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    using T = decltype(tag);
    split(a.out, W, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t first = begin; first < end; first += W) {
        const std::int64_t n = std::min(W, end - first);
        float squares[W];
        add_squares<T>(a, first, n, squares);
        for (std::int64_t o = 0; o < n; ++o) {
          a.norm[first + o] = std::sqrt(std::max(squares[o] + adapter_square<T>(a, first + o), kLeastSquare));
          a.gain[first + o] = a.magnitude[first + o] / a.norm[first + o];
        }
      }
    });
  });
}

template <class T>
inline void scale_row(const ScaleColumns& a, std::int64_t r) {
  const std::int64_t pitch = a.pitch == 0 ? a.width : a.pitch;
  T* y = static_cast<T*>(a.y) + r * pitch;
  const T *x = static_cast<const T*>(a.x) + r * pitch, *bias = static_cast<const T*>(a.bias);
  for (std::int64_t c = 0; c < a.width; c += W) {
    vf v = load_part(x, c, a.width) * a.factor;
    if (a.gain != nullptr) v *= load_part(a.gain, c, a.width);
    if (bias != nullptr) v += load_part(bias, c, a.width);
    if (a.accumulate) v += load_part(y, c, a.width);
    store_part(y, c, a.width, v);
  }
}

void scale_columns(const ScaleColumns& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    split(a.rows, 8, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) scale_row<decltype(tag)>(a, r);
    });
  });
}

// Each thread owns columns, so rows are added in their order whatever the thread count.
void column_dot(const ColumnDot& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    const auto *left = static_cast<const decltype(tag)*>(a.a), *right = static_cast<const decltype(tag)*>(a.b);
    split(a.width, W, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t c = begin; c < end; c += W) {
        const std::int64_t n = std::min(W, end - c);
        vf sum{};
        for (std::int64_t r = 0; r < a.rows; ++r) {
          const std::int64_t at = r * a.pitch + c;
          sum += n == W ? load(left + at) * load(right + at) : load_tail(left + at, n) * load_tail(right + at, n);
        }
        store_part(a.out, c, a.width, load_part(a.out, c, a.width) + sum / (n == W ? load(a.divisor + c) : load_tail(a.divisor + c, n, 1.0f)));
      }
    });
  });
}
