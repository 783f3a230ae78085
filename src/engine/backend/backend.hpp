// The one table of entry points that a device implements: memory, products and the fused operations of a decoder LM.
//
// Implemented by backend/cpu and by backend/cuda (a shared object opened at run time); called by the graph's operations,
// the optimiser and the decoder. Pointers are device memory, matrices row-major and contiguous unless a pitch is given.
// T is the compute type (F32 or Bf16) named by `type`; statistics, losses, weight gradients and reductions are float.
// Calls may be queued: only download() and synchronize() wait. One backend is driven by one thread. Failures are
// core::Error: out_of_memory with the numbers, device_fault naming the call. Same inputs give the same bits each time
// (on the CPU: for the same thread count).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/core/dtype.hpp"

namespace pgtrain::engine::backend {

using core::DType;

// Channels of a head that the attention of every device takes; runs with wider ones are refused before they wait for a device.
constexpr std::int64_t kWidestHead = 128;

struct DeviceInfo {
  std::string name;         // "cpu" or "cuda:0"
  std::string description;  // model name as the maker calls it
  std::string uuid;         // stable identity; "cpu" for the CPU
  std::string isa;          // "avx512_bf16", "sm_90", ...
  std::uint64_t memory_bytes = 0;
  int units = 0;            // threads used, or multiprocessors
  DType best_dtype = DType::F32;  // what precision auto becomes
};

// C[m,n] = alpha op(A)[m,k] op(B)[k,n] + beta C, then + bias, then gelu; accumulated in float.
struct Matmul {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;  // A is stored [k,m], B is stored [n,k]
  const void *a = nullptr, *b = nullptr;
  void *c = nullptr;
  std::int64_t a_pitch = 0, b_pitch = 0, c_pitch = 0;  // elements between stored rows; 0 = contiguous
  DType in = DType::F32, out = DType::F32;             // (F32,F32), (Bf16,Bf16) or (Bf16,F32)
  float alpha = 1.0f, beta = 0.0f;
  const void* bias = nullptr;   // [n] of type `in`, or null
  bool gelu = false;            // apply gelu (tanh form) last; only with beta 0
  void* gelu_input = nullptr;   // [m,n] of type `out`: where the values before gelu are kept for the backward, or null
};

// out[r,:] = table[ids[r],:]; an id outside [0, vocabulary) is the caller's fault (checked when data is packed).
struct EmbeddingForward {
  DType type = DType::F32;
  void* out = nullptr;              // [rows, width]
  const void* table = nullptr;      // [vocabulary, width]
  const std::int32_t* ids = nullptr;
  std::int64_t rows = 0, width = 0, vocabulary = 0;
};
struct EmbeddingBackward {
  DType type = DType::F32;
  float* dtable = nullptr;          // [vocabulary, width], added to, in a fixed order of rows
  const void* dout = nullptr;       // [rows, width]
  const std::int32_t* ids = nullptr;
  std::int64_t rows = 0, width = 0, vocabulary = 0;
};

// y = (x - mean) rstd gain + bias per row. With `residual`: first sum = x + residual (written to `sum`), then y of sum.
struct LayerNormForward {
  DType type = DType::F32;
  void* y = nullptr;                // [rows, width]
  float *mean = nullptr, *rstd = nullptr;  // [rows]
  const void *x = nullptr, *gain = nullptr, *bias = nullptr;
  const void* residual = nullptr;   // [rows, width] or null
  void* sum = nullptr;              // [rows, width] with residual; may be x's or residual's own memory
  std::int64_t rows = 0, width = 0;
  float epsilon = 1e-5f;
};
struct LayerNormBackward {
  DType type = DType::F32;
  void* dx = nullptr;               // overwritten, or added to; may be dy's own memory when overwritten
  bool accumulate_dx = false;
  float *dgain = nullptr, *dbias = nullptr;  // [width], added to; null = frozen
  const void *dy = nullptr, *x = nullptr, *gain = nullptr;
  const float *mean = nullptr, *rstd = nullptr;
  std::int64_t rows = 0, width = 0;
};

// y = x rstd gain for each run of `width` values, rstd = 1 / sqrt(mean of squares + epsilon). A row is one run, or with `groups` the
// heads of a projection: that many runs beside each other in rows of `pitch` elements, all under one gain. With `residual` (one
// group, rows without gaps): first sum = x + residual, then y of sum. y may be x's memory.
struct RmsNormForward {
  DType type = DType::F32;
  void* y = nullptr;                // laid out as x
  float* rstd = nullptr;            // [rows * groups]
  const void *x = nullptr, *gain = nullptr;  // gain [width]
  const void* residual = nullptr;   // [rows, width] or null
  void* sum = nullptr;              // [rows, width] with residual; may be x's or residual's own memory
  std::int64_t rows = 0, width = 0, groups = 1;
  std::int64_t pitch = 0;           // elements between rows; 0 = groups * width. What lies beyond the groups is left alone
  float epsilon = 1e-5f;
};
struct RmsNormBackward {
  DType type = DType::F32;
  void* dx = nullptr;               // overwritten, or added to; may be dy's own memory when overwritten
  bool accumulate_dx = false;
  float* dgain = nullptr;           // [width], added to; null = frozen
  const void *dy = nullptr, *x = nullptr, *gain = nullptr;  // dx, dy and x are laid out alike
  const float* rstd = nullptr;
  std::int64_t rows = 0, width = 0, groups = 1;
  std::int64_t pitch = 0;           // as in the forward
};

// Rotary positions in halves, as Llama's checkpoints have them: of the first `heads` heads of each row, elements i and
// i + head_size/2 turn by the angle of row positions[r] of the table. `inverse` turns back, which is the backward.
struct Rope {
  DType type = DType::F32;
  void* y = nullptr;                // [rows, columns]; may be x, else the columns beyond the heads are copied
  const void* x = nullptr;
  const std::int32_t* positions = nullptr;  // [rows], each in [0, context)
  const float* table = nullptr;     // [context, head_size]: cosines of the half, then sines
  std::int64_t rows = 0, heads = 0, columns = 0, head_size = 0, context = 0;
  bool inverse = false;
};

// y = silu(gate) up; a row of gate_up holds `width` gates, then as many ups.
struct SwiGluForward {
  DType type = DType::F32;
  void* y = nullptr;                // [rows, width]
  const void* gate_up = nullptr;    // [rows, 2*width]
  std::int64_t rows = 0, width = 0;
};
struct SwiGluBackward {
  DType type = DType::F32;
  void* dgate_up = nullptr;         // [rows, 2*width], overwritten; may be gate_up's own memory
  const void *dy = nullptr, *gate_up = nullptr;
  std::int64_t rows = 0, width = 0;
};

// What differs between runs of the same calls. It lies on the device, so that the calls can be recorded once.
struct RunNumbers {
  std::uint64_t seed = 0, stream = 0;  // of what is dropped; a call's own are added
  float scale = 1.0f;                  // of the gradient of losses; a call's own is another factor
  bool operator==(const RunNumbers&) const = default;
};
// A call with the numbers of its run, where device memory is the host's.
template <class Call>
Call with_numbers(Call call) {
  if (call.run == nullptr) return call;
  if constexpr (requires { call.seed; }) call.seed += call.run->seed, call.stream += call.run->stream;
  else call.scale *= call.run->scale;
  return call;
}

// y (+)= x / (1 - rate) where element i of (seed, stream) is kept, 0 elsewhere; the same call on dy is the backward. Which are
// kept is philox's say alone: the same on every device. Word w of counter c decides element 64 (c / 16) + 16 w + c % 16.
struct Dropout {
  DType type = DType::F32;
  void* y = nullptr;                // may be x
  const void* x = nullptr;
  std::int64_t count = 0;
  float rate = 0;                   // in [0, 1)
  std::uint64_t seed = 0, stream = 0;
  bool accumulate = false;
  const RunNumbers* run = nullptr;  // on the device, or null
};

// Words below this are dropped; the kept ones are multiplied by dropout_factor.
inline std::uint32_t dropout_threshold(float rate) {
  const double words = static_cast<double>(rate) * 4294967296.0 + 0.5;
  return words < 4294967295.0 ? static_cast<std::uint32_t>(words) : 4294967295u;
}
inline float dropout_factor(float rate) { return 1.0f / (1.0f - rate); }

// Softmax attention over packed q,k,v; causal; documents (equal numbers in runs of `segments`) do not see each other. Each of
// the kv_heads serves heads / kv_heads consecutive query heads.
struct AttentionForward {
  DType type = DType::F32;
  const void* qkv = nullptr;        // [batch*length, (heads + 2*kv_heads)*head_size]: q, then k, then v
  void* out = nullptr;              // [batch*length, heads*head_size]
  float* log_sum = nullptr;         // [batch, heads, length]: log of the softmax denominator, for the backward
  const std::int32_t* segments = nullptr;  // [batch*length] or null
  std::int64_t batch = 0, length = 0, heads = 0, head_size = 0;
  float scale = 1.0f;
  std::int64_t kv_heads = 0;        // 0 = heads; a divisor of them
  std::int64_t window = 0;          // a query sees the keys in (query - window, query]; 0 = all up to itself
};
struct AttentionBackward {
  DType type = DType::F32;
  const void *qkv = nullptr, *out = nullptr, *dout = nullptr;
  const float* log_sum = nullptr;
  float* delta = nullptr;           // [batch, heads, length] scratch
  const std::int32_t* segments = nullptr;
  void* dqkv = nullptr;             // overwritten
  std::int64_t batch = 0, length = 0, heads = 0, head_size = 0;
  float scale = 1.0f;
  std::int64_t kv_heads = 0, window = 0;  // as in the forward
};
// One new token of each sequence: writes k,v of its row of `qkv` into row positions[s] of its caches, then attends the rows up
// to that one.
struct AttentionDecode {
  DType type = DType::F32;
  const void* qkv = nullptr;        // [sequences, (heads + 2*kv_heads)*head_size]
  void *keys = nullptr, *values = nullptr;  // [sequences, context, kv_heads*head_size]
  void* out = nullptr;              // [sequences, heads*head_size]
  const std::int32_t* positions = nullptr;  // [sequences] on the device, each in [0, context)
  // [sequences] on the device: whose caches each row of `qkv` belongs to; null: those of its own number. Rows of one sequence stand in
  // the order of their positions and see each other: so a prompt is taken in many at once.
  const std::int32_t* slots = nullptr;
  std::int64_t sequences = 1, context = 0, heads = 0, head_size = 0;
  float scale = 1.0f;
  std::int64_t kv_heads = 0, window = 0;  // as in the forward
};

// losses[r] = -log softmax(logits[r])[targets[r]], 0 where the target is -1; with `gradient` the logits become
// scale * run's scale * weights[r] * d loss / d logits (rows of target -1 become 0). hits[r] is 1 where the target's logit is the highest (of
// equals the first), else 0.
struct CrossEntropy {
  DType type = DType::F32;
  void* logits = nullptr;           // [rows, vocabulary]
  std::int64_t pitch = 0;           // elements between rows; 0 = vocabulary
  float* losses = nullptr;          // [rows]
  float* hits = nullptr;            // [rows] or null
  const float* weights = nullptr;   // [rows] or null: all 1
  const std::int32_t* targets = nullptr;
  std::int64_t rows = 0, vocabulary = 0;
  float scale = 1.0f;
  bool gradient = true;
  const RunNumbers* run = nullptr;  // on the device, or null
};

// Weights that are computed with in bf16, each as core::split() has it: what products read, and what makes it a float again.
struct Halves {
  core::Bf16* high = nullptr;
  std::uint16_t* low = nullptr;
};

// AdamW (Loshchilov, Hutter 2019). g = gradient * gradient_scale, times clip / norm when the norm of that is over clip.
struct AdamW {
  float* parameter = nullptr;       // or null: they lie in halves
  Halves halves;
  // Of moments_type: F32, or Bf16, which is rounded up or down by chance, as often as the value lies near either: an average that moves by
  // less than half of bf16's step would stand still if rounded to nearest.
  void *m = nullptr, *v = nullptr;
  const float* gradient = nullptr;
  const float* squared_norm = nullptr;  // on the device: sum of squares of the unscaled gradient; null = no clipping
  std::int64_t count = 0;
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0;
  float correction1 = 1, correction2 = 1;  // 1 / (1 - beta^step)
  float gradient_scale = 1, clip = 0;      // clip 0 = none
  DType moments_type = DType::F32;
  std::uint32_t chance = 0;  // Bf16: another one for each step and run of parameters; equal ones round alike, on every device
};

// The same with moments of 8 bits, as bitsandbytes stores them: of each block of 256, codes into a sorted book of 256 numbers and
// the float that they are shares of, the largest there is. Both books are of dynamic_map.hpp: m's signed, v's not.
struct AdamW8bit {
  float* parameter = nullptr;                      // or null, as in AdamW
  Halves halves;
  std::uint8_t *m = nullptr, *v = nullptr;         // whole blocks, 4-byte aligned; what lies past `count` means nothing
  float *m_scale = nullptr, *v_scale = nullptr;    // [(count + 255) / 256]
  const float *m_book = nullptr, *v_book = nullptr;  // [256]
  const float* gradient = nullptr;
  const float* squared_norm = nullptr;             // this and what follows as in AdamW
  std::int64_t count = 0;
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0;
  float correction1 = 1, correction2 = 1;
  float gradient_scale = 1, clip = 0;
};

// NF4 (Dettmers and others 2023) to numbers, bit for bit as bitsandbytes does it: out[i] = level(code i) * absmax(i / 64). The scale of
// a block is absmax[i / 64], or where that is null code_book[absmax8[i / 64]] * nested_absmax[i / 64 / 256] + nested_offset.
struct Nf4Dequantize {
  DType type = DType::F32;
  void* out = nullptr;              // [count]
  const std::uint8_t* codes = nullptr;  // [(count + 1) / 2], the earlier element in the upper half of a byte
  const float* absmax = nullptr;    // [blocks of 64] or null
  const std::uint8_t* absmax8 = nullptr;  // [blocks]
  const float* nested_absmax = nullptr;   // [blocks of 256 blocks]
  const float* code_book = nullptr; // [256]: the dynamic map of absmax8
  float nested_offset = 0;
  std::int64_t count = 0;
};

// DoRA (Liu and others 2024): gain = magnitude / norm, norm the length of an output's row of W + scale up down, whose square is
// |w|^2 + 2 scale up.overlap + scale^2 up.gram.up with overlap = W down^T and gram = down down^T; no less than kLeastSquare.
struct DecomposedGain {
  DType type = DType::F32;
  float *gain = nullptr, *norm = nullptr;        // [out]
  const float* magnitude = nullptr;              // [out]
  const void* weight = nullptr;                  // [out, in], or [in, out]
  const void* up = nullptr;                      // [out, rank]
  const float *overlap = nullptr, *gram = nullptr;  // [out, rank], [rank, rank]
  std::int64_t out = 0, in = 0, rank = 0;
  std::int64_t pitch = 0;                        // elements between stored rows of the weight
  float scale = 1.0f;
  bool is_in_out = false;
};
constexpr float kLeastSquare = 1e-30f;

// y (+)= factor x gain + bias, gain and bias by column.
struct ScaleColumns {
  DType type = DType::F32;
  void* y = nullptr;                // [rows, width]; may be x
  const void* x = nullptr;
  const float* gain = nullptr;      // [width] or null: all 1
  const void* bias = nullptr;       // [width] of the type, or null
  std::int64_t rows = 0, width = 0;
  std::int64_t pitch = 0;           // elements between rows of y and of x; 0 = width
  float factor = 1.0f;
  bool accumulate = false;
};

// out[c] += (sum over rows of a[r,c] b[r,c]) / divisor[c], fixed order.
struct ColumnDot {
  DType type = DType::F32;
  float* out = nullptr;             // [width]
  const void *a = nullptr, *b = nullptr;  // [rows, width]
  const float* divisor = nullptr;   // [width]
  std::int64_t rows = 0, width = 0;
  std::int64_t pitch = 0;           // elements between rows of a and of b
};

// An attention but for its data.
struct AttentionShape {
  DType type = DType::F32;
  std::int64_t batch = 0, length = 0, heads = 0, head_size = 0;
  std::int64_t kv_heads = 0, window = 0;  // as in the forward
  bool has_segments = false;
};
template <class Call> AttentionShape shape_of(const Call& a) {
  return {a.type, a.batch, a.length, a.heads, a.head_size, a.kv_heads, a.window, a.segments != nullptr};
}

// Calls that were kept instead of done.
struct Recording {
  virtual ~Recording() = default;
  // Queues them once more; false, and nothing is done, when the backend has since put elsewhere what they use of its own.
  virtual bool replay() = 0;
};

struct Backend {
  virtual ~Backend() = default;

  virtual const DeviceInfo& info() const = 0;
  // Scratch that the backend itself holds for its calls; a part of every memory plan.
  virtual std::uint64_t workspace_bytes() const = 0;
  // A device that has more than one way of doing attentions of a shape chooses here, once: asked when a run is planned, before its memory is
  // taken. May take seconds, and memory meanwhile. Shapes that were not asked about are done the plain way.
  virtual void choose_attention(const AttentionShape& a) const { (void)a; }
  // What attentions of this shape, forward and backward, take beyond the workspace as chosen; 0 where they need nothing of their own.
  virtual std::uint64_t attention_workspace_bytes(const AttentionShape& a) const { return (void)a, 0; }

  // What a product of these sizes and types takes beyond that: a device without bf16 products widens the operands first.
  virtual std::uint64_t matmul_workspace_bytes(const Matmul& a) const { return (void)a, 0; }

  virtual void* allocate(std::size_t bytes) = 0;  // 256-byte aligned, contents undefined
  virtual void release(void* memory) noexcept = 0;
  virtual void upload(void* to, const void* from_host, std::size_t bytes) = 0;  // the host memory may be reused at once
  virtual void download(void* to_host, const void* from, std::size_t bytes) = 0;
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void zero(void* memory, std::size_t bytes) = 0;
  virtual void synchronize() = 0;
  // Keeps what `calls` would queue. Addresses, sizes and numbers of a replay are those of the calls; what lies on the device is read anew. They
  // may neither allocate nor wait nor move anything from or to the host. Null where it cannot be: call them each time.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& calls) { return (void)calls, nullptr; }
  // Told that nobody reads what lies there before it is written again.
  virtual void forget(void* memory, std::size_t bytes) { (void)memory, (void)bytes; }

  virtual void matmul(const Matmul& a) = 0;
  virtual void embedding_forward(const EmbeddingForward& a) = 0;
  virtual void embedding_backward(const EmbeddingBackward& a) = 0;
  virtual void layer_norm_forward(const LayerNormForward& a) = 0;
  virtual void layer_norm_backward(const LayerNormBackward& a) = 0;
  virtual void rms_norm_forward(const RmsNormForward& a) = 0;
  virtual void rms_norm_backward(const RmsNormBackward& a) = 0;
  virtual void rope(const Rope& a) = 0;
  virtual void swiglu_forward(const SwiGluForward& a) = 0;
  virtual void swiglu_backward(const SwiGluBackward& a) = 0;
  virtual void dropout(const Dropout& a) = 0;
  virtual void nf4_dequantize(const Nf4Dequantize& a) = 0;
  virtual void decomposed_gain(const DecomposedGain& a) = 0;
  virtual void scale_columns(const ScaleColumns& a) = 0;
  virtual void column_dot(const ColumnDot& a) = 0;
  virtual void attention_forward(const AttentionForward& a) = 0;
  virtual void attention_backward(const AttentionBackward& a) = 0;
  virtual void attention_decode(const AttentionDecode& a) = 0;
  virtual void cross_entropy(const CrossEntropy& a) = 0;
  virtual void gelu_forward(DType type, void* y, const void* x, std::int64_t count) = 0;
  // dx = dy * gelu'(x); dx may be dy's memory.
  virtual void gelu_backward(DType type, void* dx, const void* dy, const void* x, std::int64_t count) = 0;
  virtual void add(DType type, void* y, const void* a, const void* b, std::int64_t count) = 0;  // y may be a or b
  virtual void scale(DType type, void* x, float factor, std::int64_t count) = 0;
  virtual void cast(DType to_type, void* to, DType from_type, const void* from, std::int64_t count) = 0;
  virtual void split(const Halves& to, const float* from, std::int64_t count) = 0;
  virtual void join(float* to, const Halves& from, std::int64_t count) = 0;
  // out[c] += sum over rows of x[r,c], fixed order; out is float [width].
  virtual void column_sum(DType type, float* out, const void* x, std::int64_t rows, std::int64_t width) = 0;
  // *out = sum of x, of x squared (+ *out with accumulate), in a fixed order; out is device memory.
  virtual void sum(float* out, const float* x, std::int64_t count, bool accumulate) = 0;
  virtual void sum_of_squares(float* out, const float* x, std::int64_t count, bool accumulate) = 0;
  virtual void adamw(const AdamW& a) = 0;
  virtual void adamw_8bit(const AdamW8bit& a) = 0;
};

}  // namespace pgtrain::engine::backend

// What libpgtrain_cuda.so exports. Returns a new backend for the caller to delete, or null with the reason in `error`; limit 0 is
// what the device has. A change of these gets a new name, so that a library of another version is noticed and not called.
extern "C" pgtrain::engine::backend::Backend* pgtrain_cuda_open_6(int device, std::uint64_t memory_limit_bytes, char* error, std::size_t error_bytes);
// Number of devices that the driver shows; 0 with the plain reason in `error`.
extern "C" int pgtrain_cuda_count(char* error, std::size_t error_bytes);
// What a device is, without opening it (it may be busy just now); false with the reason where it cannot be used at all.
extern "C" bool pgtrain_cuda_describe(int device, pgtrain::engine::backend::DeviceInfo* info, char* error, std::size_t error_bytes);
