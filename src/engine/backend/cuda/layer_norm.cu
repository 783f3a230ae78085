// Layer norm over the last dimension. Forward: a warp a row, mean and variance in two passes over the (cached) row; with a
// residual the row is x + residual, which is also written out, rounded as the backward will read it. Backward:
// dx by a warp a row; gain and bias gradients by column slices of row chunks, then one sum over the chunks.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256, kRowsPerBlock = kThreads / kWarp, kColumns = 128, kMaxChunks = 128;

template <class T>
__global__ void layer_norm_forward_kernel(T *y, float *mean, float *rstd, const T *x, const T *residual, T *total, const T *gain, const T *bias, int64_t rows,
                                          int width, float epsilon) {
    const int lane = threadIdx.x % kWarp;
    const int64_t row = int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
    if (row >= rows) return;  // whole warps; no barrier follows
    float sum = 0.0f;
    const T *in = x + row * width;
    if (residual) {
        T *out = total + row * width;
        for (int c = lane; c < width; c += kWarp) {
            out[c] = from_float<T>(to_float(in[c]) + to_float(residual[row * width + c]));
            sum += to_float(out[c]);
        }
        in = out;  // each lane reads back only what it wrote
    } else {
        for (int c = lane; c < width; c += kWarp) sum += to_float(in[c]);
    }
    const float m = warp_sum(sum) / float(width);
    float squares = 0.0f;
    for (int c = lane; c < width; c += kWarp) {
        const float d = to_float(in[c]) - m;
        squares += d * d;
    }
    const float r = rsqrtf(warp_sum(squares) / float(width) + epsilon);
    for (int c = lane; c < width; c += kWarp)
        y[row * width + c] = from_float<T>((to_float(in[c]) - m) * r * to_float(gain[c]) + (bias ? to_float(bias[c]) : 0.0f));
    if (lane == 0) {
        if (mean) mean[row] = m;
        if (rstd) rstd[row] = r;
    }
}

template <class T, bool Accumulate>
__global__ void layer_norm_backward_x_kernel(T *dx, const T *dy, const T *x, const T *gain, const float *mean, const float *rstd, int64_t rows, int width) {
    const int lane = threadIdx.x % kWarp;
    const int64_t row = int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
    if (row >= rows) return;
    const T *in = x + row * width, *d = dy + row * width;
    const float m = mean[row], r = rstd[row];
    float sum = 0.0f, dot = 0.0f;
    for (int c = lane; c < width; c += kWarp) {
        const float g = to_float(d[c]) * to_float(gain[c]);
        sum += g;
        dot += g * (to_float(in[c]) - m) * r;
    }
    sum = warp_sum(sum) / float(width);
    dot = warp_sum(dot) / float(width);
    for (int c = lane; c < width; c += kWarp) {
        const float g = to_float(d[c]) * to_float(gain[c]);
        const float out = (g - sum - (to_float(in[c]) - m) * r * dot) * r;
        dx[row * width + c] = from_float<T>(Accumulate ? to_float(dx[row * width + c]) + out : out);
    }
}

// parts: [chunks, 2, width], gain's first.
template <class T>
__global__ void layer_norm_backward_parts_kernel(float *parts, const T *dy, const T *x, const float *mean, const float *rstd, int64_t rows, int width,
                                                 int64_t rows_per_chunk) {
    const int column = int(blockIdx.x) * kColumns + int(threadIdx.x);
    if (column >= width) return;
    const int64_t first = int64_t(blockIdx.y) * rows_per_chunk, last = min(rows, first + rows_per_chunk);
    float dgain = 0.0f, dbias = 0.0f;
    for (int64_t row = first; row < last; row++) {
        const float d = to_float(dy[row * width + column]);
        dgain += d * (to_float(x[row * width + column]) - mean[row]) * rstd[row];
        dbias += d;
    }
    parts[(int64_t(blockIdx.y) * 2) * width + column] = dgain;
    parts[(int64_t(blockIdx.y) * 2 + 1) * width + column] = dbias;
}
__global__ void layer_norm_backward_sum_kernel(float *dgain, float *dbias, const float *parts, int width, int chunks) {
    const int column = int(blockIdx.x) * kColumns + int(threadIdx.x);
    if (column >= width) return;
    float gain_sum = 0.0f, bias_sum = 0.0f;
    for (int i = 0; i < chunks; i++) {
        gain_sum += parts[(int64_t(i) * 2) * width + column];
        bias_sum += parts[(int64_t(i) * 2 + 1) * width + column];
    }
    if (dgain) dgain[column] += gain_sum;
    if (dbias) dbias[column] += bias_sum;
}
}  // namespace

template <class T>
void layer_norm_forward(T *y, float *mean, float *rstd, const T *x, const T *residual, T *total, const T *gain, const T *bias, int64_t rows, int width,
                        float epsilon, cudaStream_t stream) {
    launch("layer_norm_forward", layer_norm_forward_kernel<T>, blocks_for(rows, kRowsPerBlock), kThreads, 0, stream, y, mean, rstd, x, residual, total, gain,
           bias, rows, width, epsilon);
}
template <class T>
void layer_norm_backward(T *dx, bool accumulate_dx, float *dgain, float *dbias, const T *dy, const T *x, const T *gain, const float *mean, const float *rstd,
                         int64_t rows, int width, float *scratch, cudaStream_t stream) {
    // The parts first: dx may overwrite dy.
    if (dgain || dbias) {
        const int64_t most = min(int64_t(kMaxChunks), kScratchFloats / (2 * int64_t(width)));
        const int64_t rows_per_chunk = max(int64_t(16), (rows + most - 1) / most);
        const unsigned chunks = blocks_for(rows, rows_per_chunk), slices = blocks_for(width, kColumns);
        launch("layer_norm_backward_parts", layer_norm_backward_parts_kernel<T>, dim3(slices, chunks), kColumns, 0, stream, scratch, dy, x, mean, rstd, rows,
               width, rows_per_chunk);
        launch("layer_norm_backward_sum", layer_norm_backward_sum_kernel, slices, kColumns, 0, stream, dgain, dbias, scratch, width, int(chunks));
    }
    if (dx)
        launch("layer_norm_backward_x", accumulate_dx ? layer_norm_backward_x_kernel<T, true> : layer_norm_backward_x_kernel<T, false>,
               blocks_for(rows, kRowsPerBlock), kThreads, 0, stream, dx, dy, x, gain, mean, rstd, rows, width);
}
#define INSTANTIATE(T)                                                                                                                   \
    template void layer_norm_forward(T *, float *, float *, const T *, const T *, T *, const T *, const T *, int64_t, int, float, cudaStream_t); \
    template void layer_norm_backward(T *, bool, float *, float *, const T *, const T *, const T *, const float *, const float *, int64_t, int, \
                                      float *, cudaStream_t);
INSTANTIATE(float)
INSTANTIATE(bf16)
}  // namespace pgtrain::engine::backend::gpu
