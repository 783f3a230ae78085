// AdamW over a flat run of parameters: float masters, moments of float or bf16, gradients times the clip factor, decoupled decay, and the
// bf16 copy that the next forward reads. The clip factor comes from the squared gradient norm that is still on the device,
// so a step needs no round trip to the host.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256;

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
    a.m[i] = from_float<M>(m);
    a.v[i] = from_float<M>(v);
    const float p = a.parameter[i];
    const float next = p - a.learning_rate * ((m * a.correction1) / (sqrtf(v * a.correction2) + a.epsilon) + a.weight_decay * p);
    a.parameter[i] = next;
    if (a.shadow) a.shadow[i] = __float2bfloat16(next);
}
}  // namespace

template <class M> void adamw(const AdamW<M> &a, cudaStream_t stream) {
    launch("adamw", adamw_kernel<M>, blocks_for(a.count, kThreads), kThreads, 0, stream, a);
}
template void adamw(const AdamW<float> &, cudaStream_t);
template void adamw(const AdamW<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
