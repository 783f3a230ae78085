// The element types of GGUF files: blocks of small integers with shared scales, and plain floats.
//
// Dequantising gives the bits that the format's reference gives (the numpy code of the gguf package): every product and sum is
// rounded once, in the reference's order. Quantising to Q8_0, F16 and BF16 gives its bits too; the reference has none for Q4_K,
// whose scales are searched for here (quantize_q4_k.cpp). Called by gguf.cpp and models/checkpoint_source.cpp.
#pragma once

#include <cstdint>
#include <string>

namespace pgtrain::engine::io {

// Numbers as they stand in files.
enum class BlockType : std::uint32_t {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30
};

struct BlockFormat {
  BlockType type;
  const char* name;
  std::uint32_t elements, bytes;  // of one block
  bool is_written;                // quantize() makes it
};

const BlockFormat* find_block_format(std::uint32_t type);  // null when it is not read
const BlockFormat& block_format(BlockType type);
// Also of the types that are not read, for messages: "IQ2_XS", "type 99".
std::string block_type_name(std::uint32_t type);
std::string supported_block_types();  // "F32, F16, ..."

// count is a whole number of blocks in both directions; blocks need no alignment.
void dequantize(BlockType type, const void* blocks, std::uint64_t count, float* out);

// False when a value has no finite form in this type: too large for it, or, for Q8_0 and Q4_K, not finite to begin with. All
// blocks are written nevertheless.
bool quantize(BlockType type, const float* values, std::uint64_t count, void* blocks);

}  // namespace pgtrain::engine::io
