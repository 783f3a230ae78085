// Weights in 4 bits (NF4 with double quantised scales; Dettmers and others 2023), bit for bit as bitsandbytes makes them with
// quant_type "nf4", blocks of 64 and compress_statistics. Called when frozen weights are put in place; the way back on a device is
// Backend::nf4_dequantize, on the host nf4_values().
//
// By its portable implementation, whose bounds its CUDA kernels have too; its own CPU kernel finds the scales' codes by a table of
// 65,536 steps and takes a neighbour for one in seven hundred. One number differs from all of them: the offset of the scales is
// their mean, which each adds up in an order of its own; here it is the true mean, rounded once.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/nf4_format.hpp"

namespace pgtrain::engine::backend {

struct Nf4Tensor {
  std::vector<std::uint8_t> codes;   // [(count + 1) / 2], the earlier element in the upper half of a byte
  std::vector<std::uint8_t> scales;  // [blocks], codes into dynamic_map(true)
  std::vector<float> nested;         // [blocks of 256 blocks]
  float offset = 0;
};

Nf4Tensor nf4_room(std::int64_t count);  // as large as it has to be, empty
// model_invalid when a value is not finite.
Nf4Tensor nf4_quantize(const float* values, std::int64_t count);
// What a device makes of it, in float.
std::vector<float> nf4_values(const Nf4Tensor& tensor, std::int64_t count);

}  // namespace pgtrain::engine::backend
