// AdamW over a flat run of parameters: floats, or floats in halves of which the next forward reads the upper ones, moments of float or
// bf16, gradients times the clip factor, decoupled decay. The clip factor comes from the squared gradient norm that is still on the device,
// so a step needs no round trip to the host.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256;

// As the CPU's kernel rounds, bit for bit: see store_moment there.
__device__ __forceinline__ uint32_t chance_of(uint32_t chance, int64_t i) {
    uint32_t x = uint32_t(i) * 0x9e3779b9u + chance;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}
__device__ __forceinline__ void store_moment(float *to, float x, uint32_t) { *to = x; }
__device__ __forceinline__ void store_moment(bf16 *to, float x, uint32_t chance) {
    const uint32_t up = x == x ? chance & 0xffffu : 0u;
    *to = __float2bfloat16(__uint_as_float((__float_as_uint(x) + up) & 0xffff0000u));
}

template <class M> __global__ void adamw_kernel(AdamW<M> a) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= a.count) return;
    float factor = a.gradient_scale;
    if (a.squared_norm && a.clip > 0.0f) {
        const float norm = sqrtf(a.squared_norm[0]) * a.gradient_scale;
        if (norm > a.clip) factor *= a.clip / norm;
    }
    const float g = a.gradient[i] * factor;
    const float m = a.beta1 * to_float(a.m[i]) + (1.0f - a.beta1) * g, v = a.beta2 * to_float(a.v[i]) + (1.0f - a.beta2) * g * g;
    const uint32_t chance = sizeof(M) == sizeof(float) ? 0u : chance_of(a.chance, i);
    store_moment(a.m + i, m, chance);
    store_moment(a.v + i, v, chance >> 16);
    const float p = a.parameter ? a.parameter[i] : load_halves(a.halves, i);
    const float next = p - a.learning_rate * ((m * a.correction1) / (sqrtf(v * a.correction2) + a.epsilon) + a.weight_decay * p);
    if (a.parameter) a.parameter[i] = next;
    else store_halves(a.halves, i, next);
}
}  // namespace

template <class M> void adamw(const AdamW<M> &a, cudaStream_t stream) {
    launch("adamw", adamw_kernel<M>, blocks_for(a.count, kThreads), kThreads, 0, stream, a);
}
template void adamw(const AdamW<float> &, cudaStream_t);
template void adamw(const AdamW<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
