// Makes the tables of code_table.hpp, and looks that no two midpoints share a place in them.
#include "engine/backend/cpu/code_table.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>

#include "engine/backend/dynamic_map.hpp"
#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::cpu {
namespace {

std::unique_ptr<const CodeTable> make(bool is_signed) {
  auto table = std::make_unique<CodeTable>();
  const auto book = dynamic_map(is_signed);
  for (std::size_t i = 0; i < 255; ++i) table->midpoints[i] = (book[i] + book[i + 1]) / 2.0f;
  table->midpoints[255] = INFINITY;
  const auto below = [&](float x) { return std::lower_bound(table->midpoints, table->midpoints + 255, x) - table->midpoints; };
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float near_zero = std::bit_cast<float>(bits << 16), far = std::bit_cast<float>(bits << 16 | 0xffffu);
    if (!(std::abs(near_zero) <= 1.0f) || !std::isfinite(far)) continue;  // no share of anything
    const auto least = below(std::min(near_zero, far)), most = below(std::max(near_zero, far));
    if (most - least > 1) throw core::Error("device_fault", "two midpoints of a code book are too near for a table of its codes");
    table->codes[bits] = static_cast<std::uint8_t>(least);
  }
  return table;
}

}  // namespace

const CodeTable& code_table(bool is_signed) {
  static const std::unique_ptr<const CodeTable> with_sign = make(true), without = make(false);
  return is_signed ? *with_sign : *without;
}

}  // namespace pgtrain::engine::backend::cpu
