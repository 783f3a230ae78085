// Causal attention, a head of a sequence at a time: keys and values are unpacked to float once for the heads that share them,
// queries go in blocks of kBlock whose scores lie in the thread's scratch. All five products run through one register-tiled
// kernel. A document starts where its segment number starts, a window where its width says, so the keys a row may see are one
// stretch [start, row].
constexpr std::int64_t kBlock = 32;
// 64-byte vectors come with 32 registers, shorter ones with 16; a tile's sums must stay in them.
constexpr bool kHasManyRegisters = W == 16;

// C[R][V*W] (+)= sum over k of A[r*a_row + k*a_k] * B[k*b_k ...].
template <int R, int V>
inline void tile(std::int64_t k_count, const float* a, std::int64_t a_row, std::int64_t a_k, const float* b, std::int64_t b_k, float* c, std::int64_t c_row, bool accumulate) {
  vf sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = accumulate ? load(c + r * c_row + v * W) : vf{};
  for (std::int64_t k = 0; k < k_count; ++k) {
    vf columns[V];
    for (int v = 0; v < V; ++v) columns[v] = load(b + k * b_k + v * W);
    for (int r = 0; r < R; ++r) {
      const vf factor = splat(a[r * a_row + k * a_k]);
      for (int v = 0; v < V; ++v) sums[r][v] += factor * columns[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(c + r * c_row + v * W, sums[r][v]);
}

struct Operand {
  const float* data;
  std::int64_t row, k;
};

template <int R>
inline void row_of_tiles(std::int64_t width, std::int64_t k_count, const float* a, const Operand& layout, const float* b, std::int64_t b_k, float* c, std::int64_t c_row, bool accumulate) {
  std::int64_t n = 0;
  if constexpr (kHasManyRegisters && R <= 4)
    for (; n + 4 * W <= width; n += 4 * W) tile<R, 4>(k_count, a, layout.row, layout.k, b + n, b_k, c + n, c_row, accumulate);
  for (; n + 2 * W <= width; n += 2 * W) tile<R, 2>(k_count, a, layout.row, layout.k, b + n, b_k, c + n, c_row, accumulate);
  for (; n < width; n += W) tile<R, 1>(k_count, a, layout.row, layout.k, b + n, b_k, c + n, c_row, accumulate);
}

// C[rows][width] (+)= A B; width is a multiple of W.
inline void product(std::int64_t rows, std::int64_t width, std::int64_t k_count, const Operand& a, const float* b, std::int64_t b_k, float* c, std::int64_t c_row, bool accumulate) {
  std::int64_t r = 0;
  if constexpr (kHasManyRegisters)  // narrow results need more rows for as many sums under way
    if (width <= 2 * W)
      for (; r + 8 <= rows; r += 8) row_of_tiles<8>(width, k_count, a.data + r * a.row, a, b, b_k, c + r * c_row, c_row, accumulate);
  for (; r + 4 <= rows; r += 4) row_of_tiles<4>(width, k_count, a.data + r * a.row, a, b, b_k, c + r * c_row, c_row, accumulate);
  for (; r < rows; ++r) row_of_tiles<1>(width, k_count, a.data + r * a.row, a, b, b_k, c + r * c_row, c_row, accumulate);
}

inline std::int64_t padded(std::int64_t n) { return (n + W - 1) / W * W; }

template <class Call>
inline std::int64_t kv_heads_of(const Call& a) { return a.kv_heads == 0 ? a.heads : a.kv_heads; }

// One head of one sequence as the kernels see it.
template <class T>
struct Head {
  std::int64_t length, size, stride, window, wide, tall;  // wide = size padded, tall = length padded
  const T *q, *k, *v;
  const std::int32_t* segments;

  template <class Call>
  Head(const Call& a, std::int64_t sequence, std::int64_t head)
      : length(a.length), size(a.head_size), stride((a.heads + 2 * kv_heads_of(a)) * a.head_size), window(a.window), wide(padded(size)), tall(padded(length)) {
    const std::int64_t kv_heads = kv_heads_of(a);
    const T* row = static_cast<const T*>(a.qkv) + sequence * length * stride;
    q = row + head * size;
    k = row + (a.heads + head / (a.heads / kv_heads)) * size;
    v = k + kv_heads * size;
    segments = a.segments == nullptr ? nullptr : a.segments + sequence * length;
  }
  // First key that each row of [begin, end) may see.
  void starts(std::int64_t begin, std::int64_t end, std::int64_t* out) const {
    for (std::int64_t r = begin; r < end; ++r) {
      std::int64_t s = r > begin ? out[r - begin - 1] : r;
      if (segments == nullptr) {
        s = 0;
      } else if (r == begin) {
        while (s > 0 && segments[s - 1] == segments[r]) --s;
      } else if (segments[r] != segments[r - 1]) {
        s = r;
      }
      out[r - begin] = window > 0 ? std::max(s, r - window + 1) : s;
    }
  }
};

// Rows [count, size] of stride apart -> float rows `wide` apart, the padding zero.
template <class T>
void unpack(const T* from, std::int64_t stride, std::int64_t count, std::int64_t size, float* to, std::int64_t wide, float factor = 1.0f) {
  for (std::int64_t r = 0; r < count; ++r)
    for (std::int64_t d = 0; d < wide; d += W) {
      const vf value = d + W <= size ? load(from + r * stride + d) : load_tail(from + r * stride + d, std::max<std::int64_t>(size - d, 0));
      store(to + r * wide + d, value * factor);
    }
}
// The same, transposed: to[d][r], rows `tall` apart, the padding zero.
inline void transpose(const float* from, std::int64_t count, std::int64_t size, std::int64_t wide, float* to, std::int64_t tall) {
  for (std::int64_t d = 0; d < size; ++d) {
    for (std::int64_t r = 0; r < count; ++r) to[d * tall + r] = from[r * wide + d];
    for (std::int64_t r = count; r < tall; ++r) to[d * tall + r] = 0.0f;
  }
}
template <class T>
void pack(const float* from, std::int64_t wide, std::int64_t count, std::int64_t size, T* to, std::int64_t stride) {
  for (std::int64_t r = 0; r < count; ++r)
    for (std::int64_t d = 0; d < size; d += W) {
      if (d + W <= size)
        store(to + r * stride + d, load(from + r * wide + d));
      else
        store_tail(to + r * stride + d, load(from + r * wide + d), size - d);
    }
}

// Hands out consecutive pieces of a thread's scratch.
struct Pieces {
  float* next;
  float* take(std::int64_t count) {
    float* piece = next;
    next += (count + 15) / 16 * 16;
    return piece;
  }
};

// Scores beyond what a row may see become minus infinity.
inline void mask_row(float* row, std::int64_t first, std::int64_t start, std::int64_t last, std::int64_t end) {
  for (std::int64_t j = first; j < start; ++j) row[j] = -INFINITY;
  for (std::int64_t j = last + 1; j < end; ++j) row[j] = -INFINITY;
}

// With `shares` the scratch still holds the keys and values of the task before, which are this one's too.
template <class T>
void attention_forward_head(const AttentionForward& a, std::int64_t task, bool shares, float* memory) {
  const std::int64_t sequence = task / a.heads, head = task % a.heads, out_stride = a.heads * a.head_size;
  const Head<T> h(a, sequence, head);
  Pieces pieces{memory};
  float *keys = pieces.take(h.length * h.wide), *keys_t = pieces.take(h.size * h.tall), *values = pieces.take(h.tall * h.wide);
  float *queries = pieces.take(kBlock * h.wide), *scores = pieces.take(kBlock * h.tall), *result = pieces.take(kBlock * h.wide);
  if (!shares) {
    unpack(h.k, h.stride, h.length, h.size, keys, h.wide);
    transpose(keys, h.length, h.size, h.wide, keys_t, h.tall);
    unpack(h.v, h.stride, h.length, h.size, values, h.wide);
    std::memset(values + h.length * h.wide, 0, static_cast<std::size_t>((h.tall - h.length) * h.wide) * sizeof(float));
  }
  T* out = static_cast<T*>(a.out) + sequence * a.length * out_stride + head * a.head_size;
  float* log_sum = a.log_sum + task * a.length;
  for (std::int64_t begin = 0; begin < h.length; begin += kBlock) {
    const std::int64_t rows = std::min(kBlock, h.length - begin), end = padded(begin + rows);
    float factors[kBlock];
    std::int64_t start[kBlock];
    h.starts(begin, begin + rows, start);
    const std::int64_t first = start[0] / W * W;
    unpack(h.q + begin * h.stride, h.stride, rows, h.size, queries, h.wide, a.scale);
    product(rows, end - first, h.size, {queries, h.wide, 1}, keys_t + first, h.tall, scores + first, h.tall, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * h.tall;
      mask_row(row, first, start[r], begin + r, end);
      vf best = splat(-INFINITY);
      for (std::int64_t j = first; j < end; j += W) best = maximum(load(row + j), best);
      const float top = horizontal_max(best);
      vf total{};
      for (std::int64_t j = first; j < end; j += W) {
        const vf p = exponential(load(row + j) - top);
        total += p;
        store(row + j, p);
      }
      const float denominator = horizontal_sum(total);
      log_sum[begin + r] = top + std::log(denominator);
      factors[r] = 1.0f / denominator;
    }
    product(rows, h.wide, end - first, {scores + first, h.tall, 1}, values + first * h.wide, h.wide, result, h.wide, false);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t d = 0; d < h.wide; d += W) store(result + r * h.wide + d, load(result + r * h.wide + d) * factors[r]);
    pack(result, h.wide, rows, h.size, out + begin * out_stride, out_stride);
  }
}

std::size_t forward_floats(std::int64_t length, std::int64_t size) {
  const std::int64_t wide = padded(size), tall = padded(length);
  return static_cast<std::size_t>(2 * tall * wide + size * tall + 2 * kBlock * wide + kBlock * tall + 16 * 16);
}

void attention_forward(const AttentionForward& a, Scratch& scratch) {
  by_type(a.type, [&](auto tag) {
    split(a.batch * a.heads, 1, scratch.workers(), [&](std::int64_t begin, std::int64_t end, int thread) {
      float* memory = scratch.floats(thread, forward_floats(a.length, a.head_size));
      const std::int64_t group = a.heads / kv_heads_of(a);  // heads is a multiple of it, so tasks count groups as heads do
      for (std::int64_t task = begin; task < end; ++task) attention_forward_head<decltype(tag)>(a, task, task > begin && task % group != 0, memory);
    });
  });
}

// The float copies that all heads of a group share, and what they add to.
struct GroupMemory {
  float *keys, *keys_t, *values_t, *dkeys, *dvalues;
};

template <class T>
void attention_backward_head(const AttentionBackward& a, std::int64_t sequence, std::int64_t head, const GroupMemory& g, Pieces pieces) {
  const Head<T> h(a, sequence, head);
  const std::int64_t out_stride = a.heads * a.head_size, task = sequence * a.heads + head;
  const T* out = static_cast<const T*>(a.out) + sequence * a.length * out_stride + head * a.head_size;
  const T* dout = static_cast<const T*>(a.dout) + sequence * a.length * out_stride + head * a.head_size;
  float *queries = pieces.take(kBlock * h.wide), *douts = pieces.take(kBlock * h.wide), *block = pieces.take(kBlock * h.wide);
  float *scores = pieces.take(kBlock * h.tall), *dscores = pieces.take(kBlock * h.tall);
  T* dq = static_cast<T*>(a.dqkv) + (h.q - static_cast<const T*>(a.qkv));
  float* delta = a.delta + task * a.length;
  const float* log_sum = a.log_sum + task * a.length;
  for (std::int64_t begin = 0; begin < h.length; begin += kBlock) {
    const std::int64_t rows = std::min(kBlock, h.length - begin), end = padded(begin + rows);
    std::int64_t start[kBlock];
    h.starts(begin, begin + rows, start);
    const std::int64_t first = start[0] / W * W, width = end - first;
    unpack(out + begin * out_stride, out_stride, rows, h.size, block, h.wide);
    unpack(dout + begin * out_stride, out_stride, rows, h.size, douts, h.wide);
    unpack(h.q + begin * h.stride, h.stride, rows, h.size, queries, h.wide, a.scale);
    product(rows, width, h.size, {queries, h.wide, 1}, g.keys_t + first, h.tall, scores + first, h.tall, false);
    product(rows, width, h.size, {douts, h.wide, 1}, g.values_t + first, h.tall, dscores + first, h.tall, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      vf dot{};
      for (std::int64_t d = 0; d < h.wide; d += W) dot += load(block + r * h.wide + d) * load(douts + r * h.wide + d);
      delta[begin + r] = horizontal_sum(dot);
      float *row = scores + r * h.tall, *drow = dscores + r * h.tall;
      mask_row(row, first, start[r], begin + r, end);
      for (std::int64_t j = first; j < end; j += W) {
        const vf p = exponential(load(row + j) - log_sum[begin + r]);
        store(row + j, p);
        store(drow + j, p * (load(drow + j) - delta[begin + r]));
      }
    }
    // queries carry the scale already, so dkeys come out right; dqueries get it here.
    product(width, h.wide, rows, {scores + first, 1, h.tall}, douts, h.wide, g.dvalues + first * h.wide, h.wide, true);
    product(width, h.wide, rows, {dscores + first, 1, h.tall}, queries, h.wide, g.dkeys + first * h.wide, h.wide, true);
    product(rows, h.wide, width, {dscores + first, h.tall, 1}, g.keys + first * h.wide, h.wide, block, h.wide, false);
    for (std::int64_t i = 0; i < rows * h.wide; i += W) store(block + i, load(block + i) * a.scale);
    pack(block, h.wide, rows, h.size, dq + begin * h.stride, h.stride);
  }
}

// The heads of a group add to the same keys and values, so that a group is one thread's.
template <class T>
void attention_backward_group(const AttentionBackward& a, std::int64_t task, float* memory) {
  const std::int64_t kv_heads = kv_heads_of(a), sequence = task / kv_heads, group = a.heads / kv_heads, first_head = task % kv_heads * group;
  const Head<T> h(a, sequence, first_head);
  Pieces pieces{memory};
  GroupMemory g{};
  g.keys = pieces.take(h.tall * h.wide), g.keys_t = pieces.take(h.size * h.tall), g.values_t = pieces.take(h.size * h.tall);
  g.dkeys = pieces.take(h.tall * h.wide), g.dvalues = pieces.take(h.tall * h.wide);
  unpack(h.v, h.stride, h.length, h.size, g.keys, h.wide);
  transpose(g.keys, h.length, h.size, h.wide, g.values_t, h.tall);
  unpack(h.k, h.stride, h.length, h.size, g.keys, h.wide);
  std::memset(g.keys + h.length * h.wide, 0, static_cast<std::size_t>((h.tall - h.length) * h.wide) * sizeof(float));
  transpose(g.keys, h.length, h.size, h.wide, g.keys_t, h.tall);
  std::memset(g.dkeys, 0, static_cast<std::size_t>(h.tall * h.wide) * sizeof(float));
  std::memset(g.dvalues, 0, static_cast<std::size_t>(h.tall * h.wide) * sizeof(float));
  for (std::int64_t head = first_head; head < first_head + group; ++head) attention_backward_head<T>(a, sequence, head, g, pieces);
  T* dk = static_cast<T*>(a.dqkv) + (h.k - static_cast<const T*>(a.qkv));
  pack(g.dkeys, h.wide, h.length, h.size, dk, h.stride);
  pack(g.dvalues, h.wide, h.length, h.size, dk + (h.v - h.k), h.stride);
}

// What a thread needs for an attention of this shape, the backward being the larger.
std::size_t attention_floats(std::int64_t length, std::int64_t size) {
  const std::int64_t wide = padded(size), tall = padded(length);
  return static_cast<std::size_t>(3 * tall * wide + 2 * size * tall + 3 * kBlock * wide + 2 * kBlock * tall + 16 * 16);
}

void attention_backward(const AttentionBackward& a, Scratch& scratch) {
  const std::size_t floats = attention_floats(a.length, a.head_size);
  by_type(a.type, [&](auto tag) {
    split(a.batch * kv_heads_of(a), 1, scratch.workers(), [&](std::int64_t begin, std::int64_t end, int thread) {
      float* memory = scratch.floats(thread, floats);
      for (std::int64_t task = begin; task < end; ++task) attention_backward_group<decltype(tag)>(a, task, memory);
    });
  });
}

template <class T>
void attention_decode_head(const AttentionDecode& a, std::int64_t sequence, std::int64_t head, float* memory) {
  const std::int64_t kv_heads = kv_heads_of(a), pitch = kv_heads * a.head_size, position = a.positions[sequence];
  const std::int64_t first = a.window > 0 ? std::max<std::int64_t>(0, position - a.window + 1) : 0, count = position + 1 - first;
  const std::int64_t slot = a.slots != nullptr ? a.slots[sequence] : sequence;
  const std::int64_t cached = (slot * a.context + first) * pitch + head / (a.heads / kv_heads) * a.head_size;
  const T* q = static_cast<const T*>(a.qkv) + sequence * (a.heads + 2 * kv_heads) * a.head_size + head * a.head_size;
  const T *keys = static_cast<const T*>(a.keys) + cached, *values = static_cast<const T*>(a.values) + cached;
  float top = -INFINITY;
  for (std::int64_t j = 0; j < count; ++j) {
    vf dot{};
    for (std::int64_t d = 0; d < a.head_size; d += W) dot += load_part(q, d, a.head_size) * load_part(keys + j * pitch, d, a.head_size);
    memory[j] = horizontal_sum(dot) * a.scale;
    top = std::max(top, memory[j]);
  }
  float denominator = 0;
  for (std::int64_t j = 0; j < count; ++j) denominator += memory[j] = std::exp(memory[j] - top);
  T* out = static_cast<T*>(a.out) + (sequence * a.heads + head) * a.head_size;
  for (std::int64_t d = 0; d < a.head_size; d += W) {
    vf s{};
    for (std::int64_t j = 0; j < count; ++j) s += memory[j] / denominator * load_part(values + j * pitch, d, a.head_size);
    store_part(out, d, a.head_size, s);
  }
}

// Multiplications that are worth waking a thread.
constexpr std::int64_t kWorthAThread = 1 << 16;

void attention_decode(const AttentionDecode& a, Scratch& scratch) {
  by_type(a.type, [&](auto tag) {
    using T = decltype(tag);
    const std::int64_t pitch = kv_heads_of(a) * a.head_size;
    std::int64_t work = 0;
    for (std::int64_t s = 0; s < a.sequences; ++s) {
      const T* k = static_cast<const T*>(a.qkv) + s * (a.heads * a.head_size + 2 * pitch) + a.heads * a.head_size;
      const std::int64_t row = ((a.slots != nullptr ? a.slots[s] : s) * a.context + a.positions[s]) * pitch;
      std::memcpy(static_cast<void*>(static_cast<T*>(a.keys) + row), k, static_cast<std::size_t>(pitch) * sizeof(T));
      std::memcpy(static_cast<void*>(static_cast<T*>(a.values) + row), k + pitch, static_cast<std::size_t>(pitch) * sizeof(T));
      work += (a.positions[s] + 1) * a.heads * a.head_size;
    }
    const std::int64_t tasks = a.sequences * a.heads;
    split(tasks, work < kWorthAThread ? tasks : 1, scratch.workers(), [&](std::int64_t begin, std::int64_t end, int thread) {
      float* memory = scratch.floats(thread, static_cast<std::size_t>(a.context));
      for (std::int64_t task = begin; task < end; ++task) attention_decode_head<T>(a, task / a.heads, task % a.heads, memory);
    });
  });
}
