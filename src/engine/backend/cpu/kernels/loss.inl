// Softmax cross-entropy in place on a chunk of logits, and the embedding's gradient.
template <class T>
bool is_first_highest(const T* row, std::int32_t target, float top) {
  if (core::to_float(row[target]) != top) return false;
  return std::none_of(row, row + target, [&](T logit) { return core::to_float(logit) == top; });
}

template <class T>
void cross_entropy_row(const CrossEntropy& a, std::int64_t pitch, std::int64_t r) {
  T* row = static_cast<T*>(a.logits) + r * pitch;
  const std::int64_t n = a.vocabulary;
  const std::int32_t target = a.targets[r];
  if (target < 0) {
    a.losses[r] = 0.0f;
    if (a.hits != nullptr) a.hits[r] = 0.0f;
    if (a.gradient) std::memset(static_cast<void*>(row), 0, static_cast<std::size_t>(n) * sizeof(T));
    return;
  }
  vf best = splat(-INFINITY);
  for (std::int64_t i = 0; i < n; i += W) best = maximum(i + W <= n ? load(row + i) : load_tail(row + i, n - i, -INFINITY), best);
  const float top = horizontal_max(best);  // a NaN is passed over here and shows in the sum below
  vf total{};
  for (std::int64_t i = 0; i < n; i += W) total += exponential((i + W <= n ? load(row + i) : load_tail(row + i, n - i, -INFINITY)) - top);
  const float denominator = horizontal_sum(total);
  a.losses[r] = std::log(denominator) + top - core::to_float(row[target]);
  if (a.hits != nullptr) a.hits[r] = is_first_highest(row, target, top) ? 1.0f : 0.0f;
  if (!a.gradient) return;
  const float scale = a.weights != nullptr ? a.scale * a.weights[r] : a.scale;
  const float factor = scale / denominator, at_target = core::to_float(row[target]);
  for (std::int64_t i = 0; i < n; i += W) {
    const vf v = i + W <= n ? load(row + i) : load_tail(row + i, n - i, -INFINITY);
    store_part(row, i, n, exponential(v - top) * factor);
  }
  put(row + target, std::exp(at_target - top) * factor - scale);
}

void cross_entropy(const CrossEntropy& a, Workers& workers) {
  const std::int64_t pitch = a.pitch == 0 ? a.vocabulary : a.pitch;
  by_type(a.type, [&](auto tag) {
    split(a.rows, 8, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) cross_entropy_row<decltype(tag)>(a, pitch, r);
    });
  });
}

// Each thread owns columns and walks all rows in order: no two threads meet, and the order of addition is fixed.
void embedding_backward(const EmbeddingBackward& a, Workers& workers) {
  by_type(a.type, [&](auto tag) {
    const auto* dout = static_cast<const decltype(tag)*>(a.dout);
    split(a.width, 4 * W, workers, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = 0; r < a.rows; ++r) {
        float* row = a.dtable + static_cast<std::int64_t>(a.ids[r]) * a.width;
        const auto* d = dout + r * a.width;
        std::int64_t c = begin;
        for (; c + W <= end; c += W) store(row + c, load(row + c) + load(d + c));
        for (; c < end; ++c) row[c] += core::to_float(d[c]);
      }
    });
  });
}
