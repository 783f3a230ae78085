// Matrix products of the CPU backend. CMake picks the sources: matmul_dnnl.cpp where oneDNN is, else matmul_no_dnnl.cpp; for what that
// does not take, matmul_blas.cpp where OpenBLAS is, else matmul_plain.cpp. Epilogues (gelu, float bias) are
// backend.cpp's. The libraries run on one thread each, over parts that the workers take: they bring no threads of their own.
#pragma once

#include <memory>

#include "engine/backend/backend.hpp"
#include "engine/backend/cpu/workers.hpp"

namespace pgtrain::engine::backend::cpu {

// Part `number` of `parts` of a product: a stretch of its rows or, when there are few, of its columns; empty is m or n of 0.
// The split depends on the shape and `parts` only, so the bits do too.
Matmul part_of(const Matmul& a, int number, int parts);

// Columns [begin, end) of a product whose pitches are filled in.
Matmul columns_of(const Matmul& a, std::int64_t begin, std::int64_t end);
// How many of `columns` are computed at once: the libraries keep copies or floats of all that they are given, and those of a head of
// 50,000 tokens would be as much as many layers.
std::int64_t columns_at_once(std::int64_t columns);

// Pitches are filled in. Float in, float out.
void matmul_float(const Matmul& a, Workers& workers);
// One thread's part of it. By oneDNN: false where it has no kernels for this processor's widest vectors, or the product is a vector's;
// OpenBLAS of Debian 12 knows no processor younger than itself and runs those at half their speed.
bool float_product_by_dnnl(const Matmul& a);
void float_product(const Matmul& a);

// bf16 in, bf16 or float out, by oneDNN; keeps one primitive for each shape and part.
class Bf16Products {
 public:
  virtual ~Bf16Products() = default;
  // Adds `bias` as well when there is one.
  virtual void run(const Matmul& a) = 0;
  // What a product takes beside the backend's own scratch.
  virtual std::uint64_t workspace_bytes(const Matmul& a) const = 0;
};
// Null where the library is missing or the processor has neither AMX nor AVX512-bf16.
std::unique_ptr<Bf16Products> open_bf16_products(Workers& workers);

}  // namespace pgtrain::engine::backend::cpu
