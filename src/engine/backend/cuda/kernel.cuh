// What kernels share: conversions, vector access, reductions over a warp and a block. Included by .cu files only.
#pragma once
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }

// core::split and core::join.
__device__ __forceinline__ void store_halves(const Halves &to, int64_t i, float x) {
    const bf16 high = __float2bfloat16(x);
    const int rest = int(__float_as_uint(x) - (uint32_t(__bfloat16_as_ushort(high)) << 16));
    to.high[i] = high;
    to.low[i] = uint16_t(min(max(rest, -0x7fff), 0x8000) + 0x7fff);
}
__device__ __forceinline__ float load_halves(const Halves &from, int64_t i) {
    return __uint_as_float((uint32_t(__bfloat16_as_ushort(from.high[i])) << 16) + from.low[i] - 0x7fffu);
}

template <class T, int N> struct alignas(sizeof(T) * N) Vector {
    T at[N];
};
template <class T, int N> __device__ __forceinline__ Vector<T, N> load_vector(const T *p) {
#ifdef PGTRAIN_GPU_EMULATED
    emu::check_alignment(p, sizeof(T) * N);
#endif
    return *reinterpret_cast<const Vector<T, N> *>(p);
}
template <class T, int N> __device__ __forceinline__ void store_vector(T *p, const Vector<T, N> &v) {
#ifdef PGTRAIN_GPU_EMULATED
    emu::check_alignment(p, sizeof(T) * N);
#endif
    *reinterpret_cast<Vector<T, N> *>(p) = v;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int bit = kWarp / 2; bit > 0; bit /= 2) v += __shfl_xor_sync(kAllLanes, v, bit);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int bit = kWarp / 2; bit > 0; bit /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, bit));
    return v;
}
// Every thread of the block calls these and gets the result. The block is one-dimensional, a multiple of 32 threads. Each
// needs its own 32 floats of shared memory, so that two in a row need no barrier between them beyond the ones here.
__device__ __forceinline__ float block_sum(float v, float *parts) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    v = warp_sum(v);
    __syncthreads();  // reads of an earlier use of parts are over
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    return warp_sum(lane < warps ? parts[lane] : 0.0f);
}
__device__ __forceinline__ float block_max(float v, float *parts) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    return warp_max(lane < warps ? parts[lane] : -INFINITY);
}
}  // namespace pgtrain::engine::backend::gpu
