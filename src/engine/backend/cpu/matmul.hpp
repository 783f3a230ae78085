// Matrix products of the CPU backend. CMake picks the sources: matmul_blas.cpp where OpenBLAS is, else matmul_plain.cpp;
// bf16_dnnl.cpp where oneDNN is, else bf16_none.cpp. Epilogues (bias, gelu) are backend.cpp's.
#pragma once

#include <memory>

#include "engine/backend/backend.hpp"

namespace pgtrain::engine::backend::cpu {

// Pitches are filled in. Float in, float out.
void matmul_float(const Matmul& a, int threads);
const char* float_library();

// bf16 in, bf16 or float out, by oneDNN; keeps one primitive for each shape.
class Bf16Products {
 public:
  virtual ~Bf16Products() = default;
  // Adds `bias` as well when there is one.
  virtual void run(const Matmul& a) = 0;
};
// Null where the library is missing or the processor has neither AMX nor AVX512-bf16.
std::unique_ptr<Bf16Products> open_bf16_products(int threads);

}  // namespace pgtrain::engine::backend::cpu
