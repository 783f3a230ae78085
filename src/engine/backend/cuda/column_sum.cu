// Sums over rows, the gradient of a bias: column slices of row chunks, then one sum over the chunks in order.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kColumns = 128, kMaxChunks = 128;

template <class T> __global__ void column_sum_parts_kernel(float *parts, const T *x, int64_t rows, int64_t width, int64_t rows_per_chunk) {
    const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
    if (column >= width) return;
    const int64_t first = int64_t(blockIdx.y) * rows_per_chunk, last = min(rows, first + rows_per_chunk);
    float sum = 0.0f;
    for (int64_t row = first; row < last; row++) sum += to_float(x[row * width + column]);
    parts[int64_t(blockIdx.y) * width + column] = sum;
}
template <bool Accumulate> __global__ void column_sum_kernel(float *out, const float *parts, int64_t width, int chunks) {
    const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int i = 0; i < chunks; i++) sum += parts[int64_t(i) * width + column];
    out[column] = Accumulate ? out[column] + sum : sum;
}
}  // namespace

template <class T> void column_sum(float *out, bool accumulate, const T *x, int64_t rows, int64_t width, float *scratch, cudaStream_t stream) {
    const int64_t most = max(int64_t(1), min(int64_t(kMaxChunks), kScratchFloats / width));
    const int64_t rows_per_chunk = max(int64_t(16), (rows + most - 1) / most);
    const unsigned chunks = blocks_for(rows, rows_per_chunk), slices = blocks_for(width, kColumns);
    launch("column_sum_parts", column_sum_parts_kernel<T>, dim3(slices, chunks), kColumns, 0, stream, scratch, x, rows, width, rows_per_chunk);
    launch("column_sum", accumulate ? column_sum_kernel<true> : column_sum_kernel<false>, slices, kColumns, 0, stream, out, scratch, width, int(chunks));
}
template void column_sum(float *, bool, const float *, int64_t, int64_t, float *, cudaStream_t);
template void column_sum(float *, bool, const bf16 *, int64_t, int64_t, float *, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
