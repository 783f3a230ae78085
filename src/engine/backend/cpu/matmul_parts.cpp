// How a product is shared out among the workers, see matmul.hpp.
#include <algorithm>

#include "engine/backend/cpu/matmul.hpp"

namespace pgtrain::engine::backend::cpu {
namespace {

constexpr std::int64_t kGrain = 32;              // rows or columns: whole register tiles of the libraries
constexpr std::int64_t kSmallProduct = 1 << 18;  // multiplications that are not worth a second thread

const void* moved(const void* memory, std::int64_t elements, DType type) {
  return memory == nullptr ? nullptr : static_cast<const char*>(memory) + elements * static_cast<std::int64_t>(core::size_of(type));
}

}  // namespace

Matmul part_of(const Matmul& a, int number, int parts) {
  const bool is_small = a.m * a.n * a.k <= kSmallProduct;
  const bool by_rows = a.m >= a.n || a.m >= 2 * kGrain * parts;
  const std::int64_t extent = by_rows ? a.m : a.n, grains = is_small ? 1 : (extent + kGrain - 1) / kGrain;
  const auto edge = [&](std::int64_t n) { return n >= parts ? extent : std::min(extent, grains * n / parts * kGrain); };
  const std::int64_t begin = edge(number), end = edge(number + 1);
  Matmul part = a;
  if (by_rows) {
    part.m = end - begin;
    part.a = moved(a.a, a.transpose_a ? begin : begin * a.a_pitch, a.in);
    part.c = const_cast<void*>(moved(a.c, begin * a.c_pitch, a.out));
  } else {
    part.n = end - begin;
    part.b = moved(a.b, a.transpose_b ? begin * a.b_pitch : begin, a.in);
    part.c = const_cast<void*>(moved(a.c, begin, a.out));
    part.bias = moved(a.bias, begin, a.in);
  }
  return part;
}

void matmul_float(const Matmul& a, Workers& workers) {
  workers.run([&](int number) {
    const Matmul part = part_of(a, number, workers.count());
    if (part.m > 0 && part.n > 0 && !float_product_by_dnnl(part)) float_product(part);
  });
}

}  // namespace pgtrain::engine::backend::cpu
