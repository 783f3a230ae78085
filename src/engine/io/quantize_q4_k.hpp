// One block of Q4_K from 256 floats. Called by quants.cpp alone.
#pragma once

namespace pgtrain::engine::io {

// out holds 144 bytes. False when a value is not finite or too large for the half-precision scales; the block is then all zeros.
bool quantize_q4_k(const float* values, unsigned char* out);

}  // namespace pgtrain::engine::io
