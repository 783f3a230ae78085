// The CPU's own kernels as one table; kernels/isa_*.cpp fill it once for each instruction set from the same sources, and
// backend.cpp picks the best that the processor has. Arguments are those of backend.hpp. All loops are split statically over
// the workers, so results depend on the thread count only. `scratch` gives each thread its own memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/backend/cpu/workers.hpp"

namespace pgtrain::engine::backend::cpu {

// Grow-only float memory of one thread; after the first step nothing is allocated any more.
class Scratch {
 public:
  explicit Scratch(Workers& workers) : workers_(workers), memory_(static_cast<std::size_t>(workers.count())) {}
  Workers& workers() { return workers_; }
  float* floats(int thread, std::size_t count);  // 64-byte aligned, contents undefined

 private:
  struct Block {
    std::vector<float> memory;
  };
  Workers& workers_;
  std::vector<Block> memory_;
};

struct Kernels {
  const char* isa;
  void (*layer_norm_forward)(const LayerNormForward&, Workers& workers);
  void (*layer_norm_backward)(const LayerNormBackward&, Scratch&);
  void (*attention_forward)(const AttentionForward&, Scratch&);
  void (*attention_backward)(const AttentionBackward&, Scratch&);
  void (*attention_decode)(const AttentionDecode&, Scratch&);
  std::size_t (*attention_floats)(std::int64_t length, std::int64_t head_size);  // scratch of a thread
  void (*cross_entropy)(const CrossEntropy&, Workers& workers);
  void (*embedding_backward)(const EmbeddingBackward&, Workers& workers);
  void (*gelu_forward)(DType, void*, const void*, std::int64_t, Workers& workers);
  void (*gelu_backward)(DType, void*, const void*, const void*, std::int64_t, Workers& workers);
  void (*add)(DType, void*, const void*, const void*, std::int64_t, Workers& workers);
  void (*scale)(DType, void*, float, std::int64_t, Workers& workers);
  void (*cast)(DType, void*, DType, const void*, std::int64_t, Workers& workers);
  void (*column_sum)(DType, float*, const void*, std::int64_t rows, std::int64_t width, Workers& workers);
  void (*add_bias)(DType, void* c, std::int64_t pitch, DType bias_type, const void* bias, std::int64_t rows, std::int64_t width, Workers& workers);
  double (*sum)(const float*, std::int64_t, Workers&);
  double (*sum_of_squares)(const float*, std::int64_t, Workers&);
  void (*adamw)(const AdamW&, float gradient_factor, Workers& workers);
  void (*rms_norm_forward)(const RmsNormForward&, Workers& workers);
  void (*rms_norm_backward)(const RmsNormBackward&, Scratch&);
  void (*rope)(const Rope&, Workers& workers);
  void (*swiglu_forward)(const SwiGluForward&, Workers& workers);
  void (*swiglu_backward)(const SwiGluBackward&, Workers& workers);
  void (*dropout)(const Dropout&, Workers& workers);
  void (*nf4_dequantize)(const Nf4Dequantize&, Workers& workers);
  void (*adamw_8bit)(const AdamW8bit&, float gradient_factor, Workers& workers);
  void (*decomposed_gain)(const DecomposedGain&, Workers& workers);
  void (*scale_columns)(const ScaleColumns&, Workers& workers);
  void (*column_dot)(const ColumnDot&, Workers& workers);
  void (*split_halves)(const Halves& to, const float*, std::int64_t, Workers& workers);
  void (*join_halves)(float*, const Halves& from, std::int64_t, Workers& workers);
  void (*few_rows)(const Matmul&, Scratch&);  // products that takes_few_rows(), with bias, without gelu; pitches are filled in
};

// Products that are as fast as their weights can be read, which is how text is written: a library would copy the weights first.
inline bool takes_few_rows(const Matmul& a) { return !a.transpose_a && a.m <= 8; }

// x86-64-v2 (SSE4.2), v3 (AVX2, FMA), v4 (AVX-512).
const Kernels& kernels_v2();
const Kernels& kernels_v3();
const Kernels& kernels_v4();
// By name, or the best that the processor has; config_invalid when it has not what is asked for.
const Kernels& find_kernels(const std::string& instruction_set);

}  // namespace pgtrain::engine::backend::cpu
