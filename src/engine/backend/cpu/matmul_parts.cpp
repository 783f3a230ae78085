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
    part = columns_of(a, begin, end);
  }
  return part;
}

Matmul columns_of(const Matmul& a, std::int64_t begin, std::int64_t end) {
  Matmul part = a;
  part.n = end - begin;
  part.b = moved(a.b, a.transpose_b ? begin * a.b_pitch : begin, a.in);
  part.c = const_cast<void*>(moved(a.c, begin, a.out));
  part.bias = moved(a.bias, begin, a.in);
  return part;
}

std::int64_t columns_at_once(std::int64_t columns) {
  constexpr std::int64_t kWidest = 8192;
  if (columns <= 2 * kWidest) return columns;
  const std::int64_t panels = (columns + kWidest - 1) / kWidest;
  return ((columns + panels - 1) / panels + kGrain - 1) / kGrain * kGrain;
}

void matmul_float(const Matmul& a, Workers& workers) {
  workers.run([&](int number) {
    const Matmul part = part_of(a, number, workers.count());
    const std::int64_t width = columns_at_once(part.n);
    for (std::int64_t begin = 0; part.m > 0 && begin < part.n; begin += width) {
      const Matmul panel = columns_of(part, begin, std::min(part.n, begin + width));
      if (!float_product_by_dnnl(panel)) float_product(panel);
    }
  });
}

}  // namespace pgtrain::engine::backend::cpu
