// The plain element-by-element operations: add, scale, cast, floats to halves and back, fill. Eight elements a thread; results may lie on inputs.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256;

template <class T> __global__ void add_kernel(T *y, const T *a, const T *b, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < n) y[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
}
template <class T> __global__ void scale_kernel(T *x, float factor, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < n) x[i] = from_float<T>(to_float(x[i]) * factor);
}
template <class To, class From> __global__ void cast_kernel(To *to, const From *from, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < n) to[i] = from_float<To>(to_float(from[i]));
}
__global__ void split_kernel(Halves to, const float *from, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < n) store_halves(to, i, from[i]);
}
__global__ void join_kernel(float *to, Halves from, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < n) to[i] = load_halves(from, i);
}
__global__ void fill_kernel(float *x, float value, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < n) x[i] = value;
}
}  // namespace

template <class T> void add(T *y, const T *a, const T *b, int64_t n, cudaStream_t stream) {
    launch("add", add_kernel<T>, blocks_for(n, kThreads), kThreads, 0, stream, y, a, b, n);
}
template <class T> void scale(T *x, float factor, int64_t n, cudaStream_t stream) {
    launch("scale", scale_kernel<T>, blocks_for(n, kThreads), kThreads, 0, stream, x, factor, n);
}
template <class To, class From> void cast(To *to, const From *from, int64_t n, cudaStream_t stream) {
    launch("cast", cast_kernel<To, From>, blocks_for(n, kThreads), kThreads, 0, stream, to, from, n);
}
void split(const Halves &to, const float *from, int64_t n, cudaStream_t stream) {
    launch("split", split_kernel, blocks_for(n, kThreads), kThreads, 0, stream, to, from, n);
}
void join(float *to, const Halves &from, int64_t n, cudaStream_t stream) {
    launch("join", join_kernel, blocks_for(n, kThreads), kThreads, 0, stream, to, from, n);
}
void fill(float *x, float value, int64_t n, cudaStream_t stream) {
    launch("fill", fill_kernel, blocks_for(n, kThreads), kThreads, 0, stream, x, value, n);
}
template void add(float *, const float *, const float *, int64_t, cudaStream_t);
template void add(bf16 *, const bf16 *, const bf16 *, int64_t, cudaStream_t);
template void scale(float *, float, int64_t, cudaStream_t);
template void scale(bf16 *, float, int64_t, cudaStream_t);
template void cast(float *, const bf16 *, int64_t, cudaStream_t);
template void cast(bf16 *, const float *, int64_t, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
