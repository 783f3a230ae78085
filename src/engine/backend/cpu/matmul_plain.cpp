// Float products without a library, for machines that have none: correct, in loops the compiler can vectorise, not fast.
#include <algorithm>
#include <vector>

#include "engine/backend/cpu/matmul.hpp"

namespace pgtrain::engine::backend::cpu {

void float_product(const Matmul& a) {
  const auto *A = static_cast<const float*>(a.a), *B = static_cast<const float*>(a.b);
  auto* C = static_cast<float*>(a.c);
  std::vector<float> row(static_cast<std::size_t>(a.n));
  for (std::int64_t i = 0; i < a.m; ++i) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (std::int64_t k = 0; k < a.k; ++k) {
      const float factor = a.transpose_a ? A[k * a.a_pitch + i] : A[i * a.a_pitch + k];
      if (a.transpose_b) {
        for (std::int64_t j = 0; j < a.n; ++j) row[static_cast<std::size_t>(j)] += factor * B[j * a.b_pitch + k];
      } else {
        const float* b_row = B + k * a.b_pitch;
        for (std::int64_t j = 0; j < a.n; ++j) row[static_cast<std::size_t>(j)] += factor * b_row[j];
      }
    }
    float* c_row = C + i * a.c_pitch;
    for (std::int64_t j = 0; j < a.n; ++j) c_row[j] = a.alpha * row[static_cast<std::size_t>(j)] + (a.beta == 0.0f ? 0.0f : a.beta * c_row[j]);
  }
}

}  // namespace pgtrain::engine::backend::cpu
