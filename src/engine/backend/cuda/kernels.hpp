// The backend's own kernels, as its host code calls them: one function an operation, T is float or bf16. Pointers are device
// memory, row-major; statistics, weight gradients and reductions are float. Every function only queues work on the stream.
// Reductions over blocks are two launches with partial sums in `scratch`, hence the same bits every time.
#pragma once
#include "engine/backend/cuda/gpu.h"

namespace pgtrain::engine::backend::gpu {
// Partial sums of any reduction here fit into this many floats, for rows up to kScratchFloats / 2 wide.
constexpr int64_t kScratchFloats = int64_t(4) << 20;

constexpr int kNoWindow = 0x7fffffff;

template <class T> struct AttentionForward {
    const T *qkv;             // [batch * length, (heads + 2 * kv_heads) * head_size]
    T *out;                   // [batch * length, heads * head_size]
    float *log_sum;           // [batch, heads, length]
    const int32_t *segments;  // [batch * length] document numbers in runs, or null
    int batch, length, heads, kv_heads, head_size;
    int reach;  // a query sees keys at distances below this; kNoWindow: all up to itself
    float scale;
};
template <class T> void attention_forward(const AttentionForward<T> &a, cudaStream_t stream);

template <class T> struct AttentionBackward {
    const T *qkv, *out, *dout;
    const float *log_sum;
    float *delta;  // [batch, heads, length], written and used here
    const int32_t *segments;
    T *dqkv;  // overwritten
    int batch, length, heads, kv_heads, head_size;
    int reach;  // a query sees keys at distances below this; kNoWindow: all up to itself
    float scale;
};
template <class T> void attention_backward(const AttentionBackward<T> &a, cudaStream_t stream);
// first[row] = the first key of its row that the query there sees; segments may be null.
void first_keys(int32_t *first, const int32_t *segments, int batch, int length, int reach, cudaStream_t stream);

template <class T> struct AttentionDecode {
    const T *qkv;                // [sequences, (heads + 2 * kv_heads) * head_size], new positions
    T *key_cache, *value_cache;  // [slots, context, kv_heads * head_size]; the new positions are stored
    T *out;                      // [sequences, heads * head_size]
    const int32_t *positions;    // [sequences]
    const int32_t *slots;        // [sequences] whose caches; null: of their own number
    int sequences, context, heads, kv_heads, head_size, window;
    float scale;
};
template <class T> void attention_decode(const AttentionDecode<T> &a, cudaStream_t stream);

template <class T>
void embedding_forward(T *out, const T *table, const int32_t *ids, int64_t rows, int width, int vocabulary, cudaStream_t stream);
template <class T>
void embedding_backward(float *dtable, const T *dout, const int32_t *ids, int64_t rows, int width, int vocabulary, cudaStream_t stream);

// With a residual: total = x + residual first, then y of total; total may be x or residual.
template <class T>
void layer_norm_forward(T *y, float *mean, float *rstd, const T *x, const T *residual, T *total, const T *gain, const T *bias, int64_t rows, int width,
                        float epsilon, cudaStream_t stream);
// dgain and dbias are added to; dx is added to or overwritten and may be dy's own memory.
template <class T>
void layer_norm_backward(T *dx, bool accumulate_dx, float *dgain, float *dbias, const T *dy, const T *x, const T *gain, const float *mean, const float *rstd,
                         int64_t rows, int width, float *scratch, cudaStream_t stream);

// Runs of `width` values that are normed each by itself: `groups` beside each other in rows of `pitch` elements.
struct Runs {
    int64_t count, pitch;
    int groups, width;
};
// With a residual: total = x + residual first, then y of total; total may be x or residual. rstd [runs].
template <class T>
void rms_norm_forward(T *y, float *rstd, const T *x, const T *residual, T *total, const T *gain, const Runs &runs, float epsilon, cudaStream_t stream);
// dgain is added to, or null; dx is added to or overwritten and may be dy's own memory.
template <class T>
void rms_norm_backward(T *dx, bool accumulate_dx, float *dgain, const T *dy, const T *x, const T *gain, const float *rstd, const Runs &runs, float *scratch,
                       cudaStream_t stream);

template <class T> struct Rope {
    T *y;  // may be x
    const T *x;
    const int32_t *positions;  // [rows]
    const float *table;        // [context, head_size]
    int64_t rows;
    int heads, columns, head_size;
    bool inverse;
};
template <class T> void rope(const Rope<T> &a, cudaStream_t stream);

template <class T> void swiglu_forward(T *y, const T *gate_up, int64_t rows, int width, cudaStream_t stream);
// dgate_up may be gate_up.
template <class T> void swiglu_backward(T *dgate_up, const T *dy, const T *gate_up, int64_t rows, int width, cudaStream_t stream);

template <class T> struct Dropout {
    T *y;  // may be x
    const T *x;
    int64_t count;
    uint64_t seed, stream;
    const uint64_t *added;  // to both, or null
    bool accumulate;
};
// Keeps what draws at least `threshold`, times `factor`.
template <class T> void dropout(const Dropout<T> &a, unsigned threshold, float factor, cudaStream_t stream);

template <class T> struct Nf4Dequantize {
    T *out;
    const uint8_t *codes;
    const float *absmax;  // or null: then the three below
    const uint8_t *absmax8;
    const float *nested_absmax, *code_book;
    float nested_offset;
    int64_t count;
};
template <class T> void nf4_dequantize(const Nf4Dequantize<T> &a, cudaStream_t stream);

template <class T> struct DecomposedGain {
    float *gain, *norm;  // [out]
    const float *magnitude;
    const T *weight, *up;
    const float *overlap, *gram;  // [out, rank], [rank, rank]
    int64_t out, in, pitch;
    int rank;
    float scale, least_square;
    bool is_in_out;
};
template <class T> void decomposed_gain(const DecomposedGain<T> &a, cudaStream_t stream);
template <class T> struct ScaleColumns {
    T *y;  // may be x
    const T *x;
    const float *gain;  // or null
    const T *bias;      // or null
    int64_t rows, width, pitch;
    float factor;
    bool accumulate;
};
template <class T> void scale_columns(const ScaleColumns<T> &a, cudaStream_t stream);
template <class T> struct ColumnDot {
    float *out;  // added to
    const T *a, *b;
    const float *divisor;
    int64_t rows, width, pitch;
};
template <class T> void column_dot(const ColumnDot<T> &a, float *scratch, cudaStream_t stream);

template <class T> void gelu_forward(T *y, const T *x, int64_t n, cudaStream_t stream);
template <class T> void gelu_backward(T *dx, const T *dy, const T *x, int64_t n, cudaStream_t stream);
// What a product's epilogue does not do: value = pre + bias; c = gelu(value) or value; keep (may be pre) receives value.
template <class T, class B> struct Finish {
    T *c;
    const T *pre;
    T *keep;        // or null
    const B *bias;  // [n] or null
    int64_t m, n, c_pitch, pre_pitch;
    bool gelu;
};
template <class T, class B> void finish_product(const Finish<T, B> &a, cudaStream_t stream);
// c = alpha a b + beta c + bias; element (i, j) of a lies at i a_row + j a_column, b likewise.
template <class In, class Out> struct PlainProduct {
    const In *a, *b;
    Out *c;
    const Out *bias;  // [n] or null
    int64_t m, n, k, a_row, a_column, b_row, b_column, c_pitch;
    int64_t batch, a_step, b_step, c_step;
    float alpha, beta;
};
template <class In, class Out> void plain_product(const PlainProduct<In, Out> &p, cudaStream_t stream);
template <class T> void add(T *y, const T *a, const T *b, int64_t n, cudaStream_t stream);
template <class T> void scale(T *x, float factor, int64_t n, cudaStream_t stream);
template <class To, class From> void cast(To *to, const From *from, int64_t n, cudaStream_t stream);
void fill(float *x, float value, int64_t n, cudaStream_t stream);

template <class T> void column_sum(float *out, bool accumulate, const T *x, int64_t rows, int64_t width, float *scratch, cudaStream_t stream);
void sum(float *out, bool accumulate, const float *x, int64_t n, float *scratch, cudaStream_t stream);
void sum_of_squares(float *out, bool accumulate, const float *x, int64_t n, float *scratch, cudaStream_t stream);

template <class T> struct CrossEntropy {
    T *logits;
    int64_t pitch;
    float *losses, *hits;   // hits may be null
    const float *weights;   // or null
    const int32_t *targets;
    int64_t rows;
    int vocabulary;
    float scale;
    const float *factor;    // of the scale, or null
    bool gradient;
};
template <class T> void cross_entropy(const CrossEntropy<T> &a, cudaStream_t stream);

// core::split of floats, and back.
struct Halves {
    bf16 *high;
    uint16_t *low;
};
void split(const Halves &to, const float *from, int64_t n, cudaStream_t stream);
void join(float *to, const Halves &from, int64_t n, cudaStream_t stream);

template <class M> struct AdamW {
    float *parameter;  // or null: halves
    Halves halves;
    M *m, *v;
    const float *gradient;
    const float *squared_norm;  // of the unscaled gradient, on the device; or null: no clipping
    int64_t count;
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    float correction1, correction2;  // 1 / (1 - beta^step)
    float gradient_scale, clip;      // clip 0: none
    uint32_t chance;                 // of rounding moments of bf16
};
template <class M> void adamw(const AdamW<M> &a, cudaStream_t stream);
struct AdamW8bit {
    float *parameter;  // or null: halves
    Halves halves;
    uint8_t *m, *v;
    float *m_scale, *v_scale;      // a block of 256 each
    const float *m_book, *v_book;  // [256]
    const float *gradient;  // this and the rest as in AdamW
    const float *squared_norm;
    int64_t count;
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    float correction1, correction2;
    float gradient_scale, clip;
};
void adamw_8bit(const AdamW8bit &a, cudaStream_t stream);
}  // namespace pgtrain::engine::backend::gpu
