// Weight-decomposed adapters (DoRA): the gain of each output by a warp of its own, products scaled by columns, and the gradient of a
// length by column slices of row chunks, then one sum over the chunks in order.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256, kWarps = kThreads / kWarp, kColumns = 128, kMaxChunks = 128;

template <class T> __global__ void __launch_bounds__(kThreads) decomposed_gain_kernel(const DecomposedGain<T> a) {
    const int lane = threadIdx.x % kWarp;
    const int64_t output = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp;
    if (output >= a.out) return;  // whole warps; no barrier follows
    const T *weight = a.weight + (a.is_in_out ? output : output * a.pitch), *up = a.up + output * a.rank;
    const int64_t step = a.is_in_out ? a.pitch : 1;
    float square = 0.0f;
    for (int64_t i = lane; i < a.in; i += kWarp) square += to_float(weight[i * step]) * to_float(weight[i * step]);
    for (int k = lane; k < a.rank; k += kWarp) {
        float inner = 0.0f;
        for (int j = 0; j < a.rank; j++) inner += a.gram[int64_t(j) * a.rank + k] * to_float(up[j]);
        square += a.scale * to_float(up[k]) * (2.0f * a.overlap[output * a.rank + k] + a.scale * inner);
    }
    square = warp_sum(square);
    if (lane != 0) return;
    const float norm = sqrtf(fmaxf(square, a.least_square));
    a.norm[output] = norm;
    a.gain[output] = a.magnitude[output] / norm;
}

template <class T> __global__ void scale_columns_kernel(const ScaleColumns<T> a) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= a.rows * a.width) return;
    const int64_t column = i % a.width, at = i / a.width * a.pitch + column;
    float v = to_float(a.x[at]) * a.factor;
    if (a.gain) v *= a.gain[column];
    if (a.bias) v += to_float(a.bias[column]);
    if (a.accumulate) v += to_float(a.y[at]);
    a.y[at] = from_float<T>(v);
}

template <class T> __global__ void column_dot_parts_kernel(float *parts, const ColumnDot<T> d, int64_t rows_per_chunk) {
    const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
    if (column >= d.width) return;
    const int64_t first = int64_t(blockIdx.y) * rows_per_chunk, last = min(d.rows, first + rows_per_chunk);
    float sum = 0.0f;
    for (int64_t row = first; row < last; row++) sum += to_float(d.a[row * d.pitch + column]) * to_float(d.b[row * d.pitch + column]);
    parts[int64_t(blockIdx.y) * d.width + column] = sum;
}
__global__ void column_dot_kernel(float *out, const float *parts, const float *divisor, int64_t width, int chunks) {
    const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int i = 0; i < chunks; i++) sum += parts[int64_t(i) * width + column];
    out[column] += sum / divisor[column];
}
}  // namespace

template <class T> void decomposed_gain(const DecomposedGain<T> &a, cudaStream_t stream) {
    launch("decomposed_gain", decomposed_gain_kernel<T>, blocks_for(a.out, kWarps), kThreads, 0, stream, a);
}
template <class T> void scale_columns(const ScaleColumns<T> &a, cudaStream_t stream) {
    launch("scale_columns", scale_columns_kernel<T>, blocks_for(a.rows * a.width, kThreads), kThreads, 0, stream, a);
}
template <class T> void column_dot(const ColumnDot<T> &a, float *scratch, cudaStream_t stream) {
    const int64_t most = max(int64_t(1), min(int64_t(kMaxChunks), kScratchFloats / a.width));
    const int64_t rows_per_chunk = max(int64_t(16), (a.rows + most - 1) / most);
    const unsigned chunks = blocks_for(a.rows, rows_per_chunk), slices = blocks_for(a.width, kColumns);
    launch("column_dot_parts", column_dot_parts_kernel<T>, dim3(slices, chunks), kColumns, 0, stream, scratch, a, rows_per_chunk);
    launch("column_dot", column_dot_kernel, slices, kColumns, 0, stream, a.out, scratch, a.divisor, a.width, int(chunks));
}
#define INSTANTIATE(T)                                              \
    template void decomposed_gain(const DecomposedGain<T> &, cudaStream_t); \
    template void scale_columns(const ScaleColumns<T> &, cudaStream_t);     \
    template void column_dot(const ColumnDot<T> &, float *, cudaStream_t);
INSTANTIATE(float)
INSTANTIATE(bf16)
}  // namespace pgtrain::engine::backend::gpu
