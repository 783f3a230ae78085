// RMS norm over runs of a row: the row itself, or its heads. Forward: a warp a run; with a residual the run is x + residual, which
// is also written out, rounded as the backward will read it. Backward: dx by a warp a run; the gain's gradient by column
// slices of chunks of runs, then one sum over the chunks.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256, kRunsPerBlock = kThreads / kWarp, kColumns = 128, kMaxChunks = 128;

__device__ __forceinline__ int64_t start_of(const Runs &runs, int64_t run) { return run / runs.groups * runs.pitch + run % runs.groups * runs.width; }

template <class T>
__global__ void rms_norm_forward_kernel(T *y, float *rstd, const T *x, const T *residual, T *total, const T *gain, Runs runs, float epsilon) {
    const int lane = threadIdx.x % kWarp;
    const int64_t run = int64_t(blockIdx.x) * kRunsPerBlock + threadIdx.x / kWarp;
    if (run >= runs.count) return;  // whole warps; no barrier follows
    const int64_t start = start_of(runs, run);
    const T *in = x + start;
    float squares = 0.0f;
    if (residual) {
        T *out = total + start;
        for (int c = lane; c < runs.width; c += kWarp) {
            out[c] = from_float<T>(to_float(in[c]) + to_float(residual[start + c]));
            squares += to_float(out[c]) * to_float(out[c]);
        }
        in = out;  // each lane reads back only what it wrote
    } else {
        for (int c = lane; c < runs.width; c += kWarp) squares += to_float(in[c]) * to_float(in[c]);
    }
    const float r = rsqrtf(warp_sum(squares) / float(runs.width) + epsilon);
    for (int c = lane; c < runs.width; c += kWarp) y[start + c] = from_float<T>(to_float(in[c]) * r * to_float(gain[c]));
    if (lane == 0) rstd[run] = r;
}

template <class T, bool Accumulate>
__global__ void rms_norm_backward_x_kernel(T *dx, const T *dy, const T *x, const T *gain, const float *rstd, Runs runs) {
    const int lane = threadIdx.x % kWarp;
    const int64_t run = int64_t(blockIdx.x) * kRunsPerBlock + threadIdx.x / kWarp;
    if (run >= runs.count) return;
    const int64_t start = start_of(runs, run);
    const float r = rstd[run];
    float dot = 0.0f;
    for (int c = lane; c < runs.width; c += kWarp) dot += to_float(dy[start + c]) * to_float(gain[c]) * (to_float(x[start + c]) * r);
    dot = warp_sum(dot) / float(runs.width);
    for (int c = lane; c < runs.width; c += kWarp) {
        const float out = (to_float(dy[start + c]) * to_float(gain[c]) - to_float(x[start + c]) * r * dot) * r;
        dx[start + c] = from_float<T>(Accumulate ? to_float(dx[start + c]) + out : out);
    }
}

// parts: [chunks, width].
template <class T> __global__ void rms_norm_backward_parts_kernel(float *parts, const T *dy, const T *x, const float *rstd, Runs runs, int64_t runs_per_chunk) {
    const int column = int(blockIdx.x) * kColumns + int(threadIdx.x);
    if (column >= runs.width) return;
    const int64_t first = int64_t(blockIdx.y) * runs_per_chunk, last = min(runs.count, first + runs_per_chunk);
    float dgain = 0.0f;
    for (int64_t run = first; run < last; run++) {
        const int64_t at = start_of(runs, run) + column;
        dgain += to_float(dy[at]) * (to_float(x[at]) * rstd[run]);
    }
    parts[int64_t(blockIdx.y) * runs.width + column] = dgain;
}
__global__ void rms_norm_backward_sum_kernel(float *dgain, const float *parts, int width, int chunks) {
    const int column = int(blockIdx.x) * kColumns + int(threadIdx.x);
    if (column >= width) return;
    float sum = 0.0f;
    for (int i = 0; i < chunks; i++) sum += parts[int64_t(i) * width + column];
    dgain[column] += sum;
}
}  // namespace

template <class T>
void rms_norm_forward(T *y, float *rstd, const T *x, const T *residual, T *total, const T *gain, const Runs &runs, float epsilon, cudaStream_t stream) {
    launch("rms_norm_forward", rms_norm_forward_kernel<T>, blocks_for(runs.count, kRunsPerBlock), kThreads, 0, stream, y, rstd, x, residual, total, gain, runs,
           epsilon);
}
template <class T>
void rms_norm_backward(T *dx, bool accumulate_dx, float *dgain, const T *dy, const T *x, const T *gain, const float *rstd, const Runs &runs, float *scratch,
                       cudaStream_t stream) {
    // The parts first: dx may overwrite dy.
    if (dgain) {
        const int64_t most = min(int64_t(kMaxChunks), kScratchFloats / int64_t(runs.width));
        const int64_t runs_per_chunk = max(int64_t(16), (runs.count + most - 1) / most);
        const unsigned chunks = blocks_for(runs.count, runs_per_chunk), slices = blocks_for(runs.width, kColumns);
        launch("rms_norm_backward_parts", rms_norm_backward_parts_kernel<T>, dim3(slices, chunks), kColumns, 0, stream, scratch, dy, x, rstd, runs,
               runs_per_chunk);
        launch("rms_norm_backward_sum", rms_norm_backward_sum_kernel, slices, kColumns, 0, stream, dgain, scratch, runs.width, int(chunks));
    }
    launch("rms_norm_backward_x", accumulate_dx ? rms_norm_backward_x_kernel<T, true> : rms_norm_backward_x_kernel<T, false>,
           blocks_for(runs.count, kRunsPerBlock), kThreads, 0, stream, dx, dy, x, gain, rstd, runs);
}
#define INSTANTIATE(T)                                                                                                                      \
    template void rms_norm_forward(T *, float *, const T *, const T *, T *, const T *, const Runs &, float, cudaStream_t);                  \
    template void rms_norm_backward(T *, bool, float *, const T *, const T *, const T *, const float *, const Runs &, float *, cudaStream_t);
INSTANTIATE(float)
INSTANTIATE(bf16)
}  // namespace pgtrain::engine::backend::gpu
