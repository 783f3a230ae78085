// Deterministic sums of a long vector: of its values or of their squares. Each block sums a fixed slice, one block adds the
// slices up; nothing depends on which block ends first.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256, kMaxBlocks = 1024;

template <bool Squares> __global__ void sum_parts_kernel(float *parts, const float *x, int64_t n, int64_t per_block) {
    __shared__ float shared[32];
    const int64_t first = int64_t(blockIdx.x) * per_block, last = min(n, first + per_block);
    float sum = 0.0f;
    for (int64_t i = first + threadIdx.x; i < last; i += kThreads) sum += Squares ? x[i] * x[i] : x[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
template <bool Accumulate> __global__ void sum_of_parts_kernel(float *out, const float *parts, int n) {
    __shared__ float shared[32];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += kThreads) sum += parts[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[0] = Accumulate ? out[0] + sum : sum;
}
template <bool Squares> void run(float *out, bool accumulate, const float *x, int64_t n, float *scratch, cudaStream_t stream) {
    const int64_t per_block = max(int64_t(4 * kThreads), (n + kMaxBlocks - 1) / kMaxBlocks);
    const unsigned blocks = max(1u, blocks_for(n, per_block));
    launch("sum_parts", sum_parts_kernel<Squares>, blocks, kThreads, 0, stream, scratch, x, n, per_block);
    launch("sum_of_parts", accumulate ? sum_of_parts_kernel<true> : sum_of_parts_kernel<false>, 1, kThreads, 0, stream, out, scratch, int(blocks));
}
}  // namespace

void sum(float *out, bool accumulate, const float *x, int64_t n, float *scratch, cudaStream_t stream) { run<false>(out, accumulate, x, n, scratch, stream); }
void sum_of_squares(float *out, bool accumulate, const float *x, int64_t n, float *scratch, cudaStream_t stream) {
    run<true>(out, accumulate, x, n, scratch, stream);
}
}  // namespace pgtrain::engine::backend::gpu
