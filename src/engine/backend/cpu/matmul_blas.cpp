// Float products by OpenBLAS.
#include <cblas.h>

#include "engine/backend/cpu/matmul.hpp"

namespace pgtrain::engine::backend::cpu {

void float_product(const Matmul& a) {
  openblas_set_num_threads(1);  // the workers are the threads
  cblas_sgemm(CblasRowMajor, a.transpose_a ? CblasTrans : CblasNoTrans, a.transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(a.m),
              static_cast<int>(a.n), static_cast<int>(a.k), a.alpha, static_cast<const float*>(a.a), static_cast<int>(a.a_pitch),
              static_cast<const float*>(a.b), static_cast<int>(a.b_pitch), a.beta, static_cast<float*>(a.c), static_cast<int>(a.c_pitch));
}

}  // namespace pgtrain::engine::backend::cpu
