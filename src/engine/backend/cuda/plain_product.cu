// The matrix product for shapes that cuBLASLt has no algorithm for: tiles of 16 x 16 in shared memory, float arithmetic, any
// pitches and transposes, a fixed order of sums. Many times slower than cuBLASLt, and there so that such a shape still trains.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kSide = 16, kThreads = kSide * kSide;

template <class In, class Out> __global__ void __launch_bounds__(kThreads) plain_product_kernel(PlainProduct<In, Out> p) {
    __shared__ float left[kSide][kSide + 1], right[kSide][kSide + 1];
    const int x = threadIdx.x % kSide, y = threadIdx.x / kSide;
    const int64_t row = int64_t(blockIdx.x) * kSide + y, column = int64_t(blockIdx.y) * kSide + x;
    const In *a = p.a + int64_t(blockIdx.z) * p.a_step, *b = p.b + int64_t(blockIdx.z) * p.b_step;
    float sum = 0.0f;
    for (int64_t k0 = 0; k0 < p.k; k0 += kSide) {
        const bool is_left = row < p.m && k0 + x < p.k, is_right = column < p.n && k0 + y < p.k;
        left[y][x] = is_left ? to_float(a[row * p.a_row + (k0 + x) * p.a_column]) : 0.0f;
        right[y][x] = is_right ? to_float(b[(k0 + y) * p.b_row + column * p.b_column]) : 0.0f;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kSide; i++) sum += left[y][i] * right[i][x];
        __syncthreads();
    }
    if (row >= p.m || column >= p.n) return;
    Out *c = p.c + int64_t(blockIdx.z) * p.c_step + row * p.c_pitch + column;
    float value = p.alpha * sum;
    if (p.beta != 0.0f) value += p.beta * to_float(*c);
    if (p.bias) value += to_float(p.bias[column]);
    *c = from_float<Out>(value);
}
}  // namespace

template <class In, class Out> void plain_product(const PlainProduct<In, Out> &p, cudaStream_t stream) {
    launch("plain_product", plain_product_kernel<In, Out>, dim3(blocks_for(p.m, kSide), blocks_for(p.n, kSide), unsigned(p.batch)), kThreads, 0, stream, p);
}
template void plain_product(const PlainProduct<float, float> &, cudaStream_t);
template void plain_product(const PlainProduct<bf16, float> &, cudaStream_t);
template void plain_product(const PlainProduct<bf16, bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
