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
  float *dgain = nullptr, *dbias = nullptr;  // [width], added to
  const void *dy = nullptr, *x = nullptr, *gain = nullptr;
  const float *mean = nullptr, *rstd = nullptr;
  std::int64_t rows = 0, width = 0;
};

// Softmax attention over packed q,k,v; causal; documents (equal numbers in runs of `segments`) do not see each other.
struct AttentionForward {
  DType type = DType::F32;
  const void* qkv = nullptr;        // [batch*length, 3*heads*head_size]
  void* out = nullptr;              // [batch*length, heads*head_size]
  float* log_sum = nullptr;         // [batch, heads, length]: log of the softmax denominator, for the backward
  const std::int32_t* segments = nullptr;  // [batch*length] or null
  std::int64_t batch = 0, length = 0, heads = 0, head_size = 0;
  float scale = 1.0f;
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
};
// One new token of one sequence: writes k,v of `qkv` into row `position` of the caches, then attends rows 0..position.
struct AttentionDecode {
  DType type = DType::F32;
  const void* qkv = nullptr;        // [3*heads*head_size]
  void *keys = nullptr, *values = nullptr;  // [context, heads*head_size]
  void* out = nullptr;              // [heads*head_size]
  std::int64_t position = 0, heads = 0, head_size = 0;
  float scale = 1.0f;
};

// losses[r] = -log softmax(logits[r])[targets[r]], 0 where the target is -1; with `gradient` the logits become
// scale * d loss / d logits (rows of target -1 become 0).
struct CrossEntropy {
  DType type = DType::F32;
  void* logits = nullptr;           // [rows, vocabulary]
  std::int64_t pitch = 0;           // elements between rows; 0 = vocabulary
  float* losses = nullptr;          // [rows]
  const std::int32_t* targets = nullptr;
  std::int64_t rows = 0, vocabulary = 0;
  float scale = 1.0f;
  bool gradient = true;
};

// AdamW (Loshchilov, Hutter 2019). g = gradient * gradient_scale, times clip / norm when the norm of that is over clip.
struct AdamW {
  float *parameter = nullptr, *m = nullptr, *v = nullptr;
  const float* gradient = nullptr;
  void* shadow = nullptr;           // bf16 copy to refresh, or null
  const float* squared_norm = nullptr;  // on the device: sum of squares of the unscaled gradient; null = no clipping
  std::int64_t count = 0;
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0;
  float correction1 = 1, correction2 = 1;  // 1 / (1 - beta^step)
  float gradient_scale = 1, clip = 0;      // clip 0 = none
};

struct Backend {
  virtual ~Backend() = default;

  virtual const DeviceInfo& info() const = 0;
  // Scratch that the backend itself holds for its calls; a part of every memory plan.
  virtual std::uint64_t workspace_bytes() const = 0;
  // What an attention of this shape takes beyond that; 0 where it needs nothing of its own.
  virtual std::uint64_t attention_workspace_bytes(std::int64_t length, std::int64_t head_size) const { return (void)length, (void)head_size, 0; }

  // What a product of these sizes and types takes beyond that: a device without bf16 products widens the operands first.
  virtual std::uint64_t matmul_workspace_bytes(const Matmul& a) const { return (void)a, 0; }

  virtual void* allocate(std::size_t bytes) = 0;  // 256-byte aligned, contents undefined
  virtual void release(void* memory) noexcept = 0;
  virtual void upload(void* to, const void* from_host, std::size_t bytes) = 0;  // the host memory may be reused at once
  virtual void download(void* to_host, const void* from, std::size_t bytes) = 0;
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void zero(void* memory, std::size_t bytes) = 0;
  virtual void synchronize() = 0;

  virtual void matmul(const Matmul& a) = 0;
  virtual void embedding_forward(const EmbeddingForward& a) = 0;
  virtual void embedding_backward(const EmbeddingBackward& a) = 0;
  virtual void layer_norm_forward(const LayerNormForward& a) = 0;
  virtual void layer_norm_backward(const LayerNormBackward& a) = 0;
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
  // out[c] += sum over rows of x[r,c], fixed order; out is float [width].
  virtual void column_sum(DType type, float* out, const void* x, std::int64_t rows, std::int64_t width) = 0;
  // *out = sum of x, of x squared (+ *out with accumulate), in a fixed order; out is device memory.
  virtual void sum(float* out, const float* x, std::int64_t count, bool accumulate) = 0;
  virtual void sum_of_squares(float* out, const float* x, std::int64_t count, bool accumulate) = 0;
  virtual void adamw(const AdamW& a) = 0;
};

}  // namespace pgtrain::engine::backend

// What libpgtrain_cuda.so exports. Returns a new backend for the caller to delete, or null with the reason in `error`; limit 0 is
// what the device has. A change of these gets a new name, so that a library of another version is noticed and not called.
extern "C" pgtrain::engine::backend::Backend* pgtrain_cuda_open(int device, std::uint64_t memory_limit_bytes, char* error, std::size_t error_bytes);
// Number of devices that the driver shows; 0 with the plain reason in `error`.
extern "C" int pgtrain_cuda_count(char* error, std::size_t error_bytes);
// What a device is, without opening it (it may be busy just now); false with the reason where it cannot be used at all.
extern "C" bool pgtrain_cuda_describe(int device, pgtrain::engine::backend::DeviceInfo* info, char* error, std::size_t error_bytes);
