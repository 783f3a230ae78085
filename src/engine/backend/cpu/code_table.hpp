// Codes of 8-bit moments by one look and one comparison. Called by the kernels of AdamW; the table is made where no instruction set is
// special, and holds numbers only.
#pragma once

#include <cstdint>

namespace pgtrain::engine::backend::cpu {

// The code of a share is how many midpoints between neighbours of the sorted book lie below it. Shares whose upper 16 bits are equal lie
// so near each other that at most one midpoint is among them: codes[] has the count below the least of them.
struct CodeTable {
  float midpoints[256];
  std::uint8_t codes[65536];
};
// Of dynamic_map(is_signed); made at the first call.
const CodeTable& code_table(bool is_signed);

}  // namespace pgtrain::engine::backend::cpu
