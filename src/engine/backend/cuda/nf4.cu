// NF4 codes to numbers, bit for bit as bitsandbytes has them: products and sums rounded apart. Four bytes, eight elements, a
// thread; they lie in one block of 64, which has one scale.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256, kElements = 8, kBlock = 64, kNested = 256, kLevels = 16;

// The published levels (Dettmers and others 2023, appendix E), exact as floats. By one thread with fixed places: a table with a
// computed index would lie in slow local memory.
__device__ __forceinline__ void store_levels(float *levels) {
    levels[0] = -1.0f;
    levels[1] = -0.6961928009986877f;
    levels[2] = -0.5250730514526367f;
    levels[3] = -0.39491748809814453f;
    levels[4] = -0.28444138169288635f;
    levels[5] = -0.18477343022823334f;
    levels[6] = -0.09105003625154495f;
    levels[7] = 0.0f;
    levels[8] = 0.07958029955625534f;
    levels[9] = 0.16093020141124725f;
    levels[10] = 0.24611230194568634f;
    levels[11] = 0.33791524171829224f;
    levels[12] = 0.44070982933044434f;
    levels[13] = 0.5626170039176941f;
    levels[14] = 0.7229568362236023f;
    levels[15] = 1.0f;
}

template <class T, bool Whole> __global__ void nf4_dequantize_kernel(Nf4Dequantize<T> a) {
    __shared__ float levels[kLevels];
    if (threadIdx.x == 0) store_levels(levels);
    __syncthreads();
    const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kElements, block = first / kBlock;
    if (first >= a.count) return;
    const float scale = a.absmax ? a.absmax[block] : __fadd_rn(__fmul_rn(a.code_book[a.absmax8[block]], a.nested_absmax[block / kNested]), a.nested_offset);
    const uint8_t *codes = a.codes + first / 2;
    if constexpr (Whole) {
        constexpr int kStore = 16 / int(sizeof(T));
#pragma unroll
        for (int part = 0; part < kElements; part += kStore) {
            Vector<T, kStore> out;
#pragma unroll
            for (int i = 0; i < kStore; i++) {
                const int byte = codes[(part + i) / 2];
                out.at[i] = from_float<T>(__fmul_rn(levels[i % 2 == 0 ? byte >> 4 : byte & 15], scale));
            }
            store_vector<T, kStore>(a.out + first + part, out);
        }
    } else {
        for (int i = 0; i < kElements && first + i < a.count; i++) {
            const int byte = codes[i / 2];
            a.out[first + i] = from_float<T>(__fmul_rn(levels[i % 2 == 0 ? byte >> 4 : byte & 15], scale));
        }
    }
}
}  // namespace

template <class T> void nf4_dequantize(const Nf4Dequantize<T> &a, cudaStream_t stream) {
    const bool whole = a.count % kElements == 0 && reinterpret_cast<uintptr_t>(a.out) % 16 == 0;
    launch("nf4_dequantize", whole ? nf4_dequantize_kernel<T, true> : nf4_dequantize_kernel<T, false>, blocks_for(a.count, int64_t(kThreads) * kElements),
           kThreads, 0, stream, a);
}
template void nf4_dequantize(const Nf4Dequantize<float> &, cudaStream_t);
template void nf4_dequantize(const Nf4Dequantize<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
