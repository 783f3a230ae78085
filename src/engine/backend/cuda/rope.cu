// Rotary positions in halves: a block a row, a thread a pair; where the result is other memory, what is not turned is copied.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 128;

template <class T> __global__ void rope_kernel(Rope<T> a) {
    const int64_t row = blockIdx.x;
    const int half = a.head_size / 2, pairs = a.heads * half;
    const T *x = a.x + row * a.columns;
    T *y = a.y + row * a.columns;
    const float *cosine = a.table + int64_t(a.positions[row]) * a.head_size;
    for (int pair = threadIdx.x; pair < pairs; pair += kThreads) {
        const int i = pair % half, low = pair / half * a.head_size + i, high = low + half;
        const float c = cosine[i], s = a.inverse ? -cosine[half + i] : cosine[half + i];
        const float from_low = to_float(x[low]), from_high = to_float(x[high]);
        y[low] = from_float<T>(from_low * c - from_high * s);
        y[high] = from_float<T>(from_high * c + from_low * s);
    }
    if (x != y)
        for (int c = a.heads * a.head_size + int(threadIdx.x); c < a.columns; c += kThreads) y[c] = x[c];
}
}  // namespace

template <class T> void rope(const Rope<T> &a, cudaStream_t stream) { launch("rope", rope_kernel<T>, unsigned(a.rows), kThreads, 0, stream, a); }
template void rope(const Rope<float> &, cudaStream_t);
template void rope(const Rope<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
