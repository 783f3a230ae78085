// silu(gate) up and its derivative, 16 bytes of each operand a thread where rows are aligned so.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256;

// Where a thread works: a block is a stretch of one row.
template <int N> __device__ __forceinline__ bool place(int width, int slices, int64_t *row, int *column) {
    *row = int64_t(blockIdx.x) / slices;
    *column = (int(int64_t(blockIdx.x) % slices) * kThreads + int(threadIdx.x)) * N;
    return *column < width;
}

template <class T, int N> __global__ void swiglu_forward_kernel(T *y, const T *gate_up, int width, int slices) {
    int64_t row;
    int column;
    if (!place<N>(width, slices, &row, &column)) return;
    const T *gate = gate_up + 2 * row * width + column;
    const Vector<T, N> g = load_vector<T, N>(gate), up = load_vector<T, N>(gate + width);
    Vector<T, N> out;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float x = to_float(g.at[i]);
        out.at[i] = from_float<T>(x / (1.0f + expf(-x)) * to_float(up.at[i]));
    }
    store_vector<T, N>(y + row * width + column, out);
}
template <class T, int N> __global__ void swiglu_backward_kernel(T *dgate_up, const T *dy, const T *gate_up, int width, int slices) {
    int64_t row;
    int column;
    if (!place<N>(width, slices, &row, &column)) return;
    const int64_t at = 2 * row * width + column;
    const Vector<T, N> g = load_vector<T, N>(gate_up + at), up = load_vector<T, N>(gate_up + at + width), d = load_vector<T, N>(dy + row * width + column);
    Vector<T, N> dgate, dup;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float x = to_float(g.at[i]), s = 1.0f / (1.0f + expf(-x)), slope = to_float(d.at[i]);
        dgate.at[i] = from_float<T>(slope * to_float(up.at[i]) * s * (1.0f + x * (1.0f - s)));
        dup.at[i] = from_float<T>(slope * x * s);
    }
    store_vector<T, N>(dgate_up + at, dgate);
    store_vector<T, N>(dgate_up + at + width, dup);
}

template <int N> unsigned slices_of(int width) { return blocks_for(width, int64_t(kThreads) * N); }
template <class T> constexpr int kWide = 16 / int(sizeof(T));
template <class T> bool is_aligned(const T *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
}  // namespace

template <class T> void swiglu_forward(T *y, const T *gate_up, int64_t rows, int width, cudaStream_t stream) {
    const bool wide = width % kWide<T> == 0 && is_aligned(y) && is_aligned(gate_up);
    const unsigned slices = wide ? slices_of<kWide<T>>(width) : slices_of<1>(width);
    launch("swiglu_forward", wide ? swiglu_forward_kernel<T, kWide<T>> : swiglu_forward_kernel<T, 1>, unsigned(rows * slices), kThreads, 0, stream, y, gate_up,
           width, int(slices));
}
template <class T> void swiglu_backward(T *dgate_up, const T *dy, const T *gate_up, int64_t rows, int width, cudaStream_t stream) {
    const bool wide = width % kWide<T> == 0 && is_aligned(dgate_up) && is_aligned(dy) && is_aligned(gate_up);
    const unsigned slices = wide ? slices_of<kWide<T>>(width) : slices_of<1>(width);
    launch("swiglu_backward", wide ? swiglu_backward_kernel<T, kWide<T>> : swiglu_backward_kernel<T, 1>, unsigned(rows * slices), kThreads, 0, stream, dgate_up,
           dy, gate_up, width, int(slices));
}
#define INSTANTIATE(T)                                                             \
    template void swiglu_forward(T *, const T *, int64_t, int, cudaStream_t);      \
    template void swiglu_backward(T *, const T *, const T *, int64_t, int, cudaStream_t);
INSTANTIATE(float)
INSTANTIATE(bf16)
}  // namespace pgtrain::engine::backend::gpu
