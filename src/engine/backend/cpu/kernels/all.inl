// Everything that is compiled once for each instruction set, in a namespace of its own so that the linker can never merge
// a function of one set with the same function of another.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/backend/cpu/code_table.hpp"
#include "engine/backend/cpu/kernels.hpp"
#include "engine/backend/nf4_format.hpp"

namespace pgtrain::engine::backend::cpu {
namespace PGTRAIN_ISA {
namespace {
#include "engine/backend/cpu/kernels/vector.inl"

#include "engine/backend/cpu/kernels/elementwise.inl"

#include "engine/backend/cpu/kernels/optimizer.inl"

#include "engine/backend/cpu/kernels/layer_norm.inl"

#include "engine/backend/cpu/kernels/rms_norm.inl"

#include "engine/backend/cpu/kernels/nf4.inl"

#include "engine/backend/cpu/kernels/dora.inl"

#include "engine/backend/cpu/kernels/loss.inl"

#include "engine/backend/cpu/kernels/attention.inl"

#include "engine/backend/cpu/kernels/few_rows.inl"
}  // namespace
}  // namespace PGTRAIN_ISA

const Kernels& PGTRAIN_ISA_TABLE() {
  using namespace PGTRAIN_ISA;
  static const Kernels table = {
      PGTRAIN_ISA_NAME,   layer_norm_forward, layer_norm_backward, attention_forward, attention_backward, attention_decode, attention_floats, cross_entropy, embedding_backward,
      gelu_forward,       gelu_backward,      add,                 scale,             cast,               column_sum,       add_bias,      sum,
      sum_of_squares,     adamw,              rms_norm_forward,    rms_norm_backward, rope,              swiglu_forward,   swiglu_backward,  dropout,       nf4_dequantize,
      adamw_8bit,         decomposed_gain,    scale_columns,       column_dot,        split_halves,     join_halves,   few_rows};
  return table;
}

}  // namespace pgtrain::engine::backend::cpu
