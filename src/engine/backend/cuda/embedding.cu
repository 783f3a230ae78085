// Embedding rows: gather forward; backward adds each token's output gradients to its row. The backward has no atomics: the
// block of a token's first occurrence adds all of its occurrences in order, the other blocks leave.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 128;

template <class T>
__global__ void embedding_forward_kernel(T *out, const T *table, const int32_t *ids, int64_t rows, int width, int vocabulary) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= rows * width) return;
    const int32_t id = ids[i / width];
    // An id outside the table is the caller's error; it must not become a wild read.
    out[i] = id >= 0 && id < vocabulary ? table[int64_t(id) * width + i % width] : from_float<T>(NAN);
}

template <class T>
__global__ void embedding_backward_kernel(float *dtable, const T *dout, const int32_t *ids, int rows, int width, int vocabulary) {
    __shared__ int found[kThreads];
    __shared__ int counts[kThreads / kWarp];
    const int me = int(blockIdx.x), lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int id = ids[me];
    if (id < 0 || id >= vocabulary) return;  // the whole block
    for (int j0 = 0; j0 < me; j0 += kThreads) {
        const int j = j0 + int(threadIdx.x);
        if (__syncthreads_or(j < me && ids[j] == id)) return;  // an earlier block has this token
    }
    const int column = int(blockIdx.y) * kThreads + int(threadIdx.x);
    float sum = 0.0f;
    for (int j0 = me; j0 < rows; j0 += kThreads) {
        const int j = j0 + int(threadIdx.x);
        const bool same = j < rows && ids[j] == id;
        const unsigned ballot = __ballot_sync(kAllLanes, same);
        if (lane == 0) counts[warp] = __popc(ballot);
        __syncthreads();
        int before = 0, total = 0;
        for (int w = 0; w < kThreads / kWarp; w++) {
            if (w < warp) before += counts[w];
            total += counts[w];
        }
        // Whoever still reads found has not passed the barrier above yet, so the last round is over.
        if (same) found[before + __popc(ballot & ((1u << lane) - 1))] = j;
        __syncthreads();
        if (column < width)
            for (int k = 0; k < total; k++) sum += to_float(dout[int64_t(found[k]) * width + column]);
    }
    if (column < width) dtable[int64_t(id) * width + column] += sum;
}
}  // namespace

template <class T>
void embedding_forward(T *out, const T *table, const int32_t *ids, int64_t rows, int width, int vocabulary, cudaStream_t stream) {
    launch("embedding_forward", embedding_forward_kernel<T>, blocks_for(rows * width, 256), 256, 0, stream, out, table, ids, rows, width, vocabulary);
}
template <class T>
void embedding_backward(float *dtable, const T *dout, const int32_t *ids, int64_t rows, int width, int vocabulary, cudaStream_t stream) {
    launch("embedding_backward", embedding_backward_kernel<T>, dim3(unsigned(rows), blocks_for(width, kThreads)), kThreads, 0, stream, dtable, dout,
           ids, int(rows), width, vocabulary);
}
template void embedding_forward(float *, const float *, const int32_t *, int64_t, int, int, cudaStream_t);
template void embedding_forward(bf16 *, const bf16 *, const int32_t *, int64_t, int, int, cudaStream_t);
template void embedding_backward(float *, const float *, const int32_t *, int64_t, int, int, cudaStream_t);
template void embedding_backward(float *, const bf16 *, const int32_t *, int64_t, int, int, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
