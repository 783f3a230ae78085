// Dropout by Philox 4x32-10: a thread a counter, whose four words decide four elements 16 apart, so that a half warp touches
// neighbours. Products and sums are rounded apart, as on every other device.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256;

template <class T> __global__ void dropout_kernel(Dropout<T> a, unsigned threshold, float factor) {
    const int64_t counter = int64_t(blockIdx.x) * kThreads + threadIdx.x, first = counter / 16 * 64 + counter % 16;
    if (first >= a.count) return;
    const uint64_t seed = a.seed + (a.added ? a.added[0] : 0), stream = a.stream + (a.added ? a.added[1] : 0);
    unsigned word[4] = {unsigned(counter), unsigned(counter >> 32), unsigned(stream), unsigned(stream >> 32)};
    unsigned key0 = unsigned(seed), key1 = unsigned(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p = uint64_t(0xD2511F53u) * word[0], q = uint64_t(0xCD9E8D57u) * word[2];
        word[0] = unsigned(q >> 32) ^ word[1] ^ key0;
        word[1] = unsigned(q);
        word[2] = unsigned(p >> 32) ^ word[3] ^ key1;
        word[3] = unsigned(p);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
#pragma unroll
    for (int w = 0; w < 4; w++) {
        const int64_t i = first + 16 * w;
        if (i >= a.count) continue;
        const float kept = __fmul_rn(to_float(a.x[i]), word[w] >= threshold ? factor : 0.0f);
        a.y[i] = from_float<T>(a.accumulate ? __fadd_rn(kept, to_float(a.y[i])) : kept);
    }
}
}  // namespace

template <class T> void dropout(const Dropout<T> &a, unsigned threshold, float factor, cudaStream_t stream) {
    launch("dropout", dropout_kernel<T>, blocks_for((a.count + 63) / 64 * 16, kThreads), kThreads, 0, stream, a, threshold, factor);
}
template void dropout(const Dropout<float> &, unsigned, float, cudaStream_t);
template void dropout(const Dropout<bf16> &, unsigned, float, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
