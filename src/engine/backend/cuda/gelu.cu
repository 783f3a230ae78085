// GELU by the tanh formula that GPT-2 uses: forward, backward (dx may be dy's own memory), and as the end of a product,
// with the bias where cuBLASLt's epilogue could not add it.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr float kRoot = 0.7978845608028654f /* sqrt(2/pi) */, kCubic = 0.044715f;
constexpr int kThreads = 256;

__device__ __forceinline__ float gelu(float v) { return 0.5f * v * (1.0f + tanhf(kRoot * (v + kCubic * v * v * v))); }

template <class T> __global__ void gelu_forward_kernel(T *y, const T *x, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < n) y[i] = from_float<T>(gelu(to_float(x[i])));
}
template <class T, class B> __global__ void finish_product_kernel(Finish<T, B> a) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= a.m * a.n) return;
    const int64_t row = i / a.n, column = i % a.n;
    // Rounded first, so that the backward's gelu sees the same value as this one.
    const T value = from_float<T>(to_float(a.pre[row * a.pre_pitch + column]) + (a.bias ? to_float(a.bias[column]) : 0.0f));
    if (a.keep) a.keep[row * a.n + column] = value;
    a.c[row * a.c_pitch + column] = a.gelu ? from_float<T>(gelu(to_float(value))) : value;
}
template <class T> __global__ void gelu_backward_kernel(T *dx, const T *dy, const T *x, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= n) return;
    const float v = to_float(x[i]), t = tanhf(kRoot * (v + kCubic * v * v * v));
    const float slope = 0.5f * (1.0f + t) + 0.5f * v * (1.0f - t * t) * kRoot * (1.0f + 3.0f * kCubic * v * v);
    dx[i] = from_float<T>(to_float(dy[i]) * slope);
}
}  // namespace

template <class T> void gelu_forward(T *y, const T *x, int64_t n, cudaStream_t stream) {
    launch("gelu_forward", gelu_forward_kernel<T>, blocks_for(n, kThreads), kThreads, 0, stream, y, x, n);
}
template <class T> void gelu_backward(T *dx, const T *dy, const T *x, int64_t n, cudaStream_t stream) {
    launch("gelu_backward", gelu_backward_kernel<T>, blocks_for(n, kThreads), kThreads, 0, stream, dx, dy, x, n);
}
template <class T, class B> void finish_product(const Finish<T, B> &a, cudaStream_t stream) {
    launch("finish_product", finish_product_kernel<T, B>, blocks_for(a.m * a.n, kThreads), kThreads, 0, stream, a);
}
template void finish_product(const Finish<float, float> &, cudaStream_t);
template void finish_product(const Finish<float, bf16> &, cudaStream_t);
template void finish_product(const Finish<bf16, bf16> &, cudaStream_t);
template void gelu_forward(float *, const float *, int64_t, cudaStream_t);
template void gelu_forward(bf16 *, const bf16 *, int64_t, cudaStream_t);
template void gelu_backward(float *, const float *, const float *, int64_t, cudaStream_t);
template void gelu_backward(bf16 *, const bf16 *, const bf16 *, int64_t, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
