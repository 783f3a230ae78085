// AdamW with moments of 8 bits: a block a run of 256 parameters at a time, several in a row so that the code books are read
// once for them; four neighbours a thread. A moment's code is the number of midpoints below its share of the run's largest.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kRun = 256, kRuns = 16;  // of one scale; and how many of them a block takes one after the other
constexpr int kOfThread = 4, kThreads = kRun / kOfThread;
using Codes = Vector<uint8_t, kOfThread>;

// Eight halvings of 255 midpoints.
__device__ __forceinline__ uint8_t code_of(float x, const float *midpoints) {
    int below = 0;
#pragma unroll
    for (int step = 128; step > 0; step /= 2) below += midpoints[below + step - 1] < x ? step : 0;
    return uint8_t(below);
}

__global__ void __launch_bounds__(kThreads) adamw_8bit_kernel(AdamW8bit a) {
    __shared__ float m_book[kRun], v_book[kRun], m_midpoints[kRun], v_midpoints[kRun], m_parts[kWarp], v_parts[kWarp];
    for (int i = threadIdx.x; i < kRun; i += kThreads) {
        m_book[i] = a.m_book[i];
        v_book[i] = a.v_book[i];
        m_midpoints[i] = i < kRun - 1 ? (a.m_book[i] + a.m_book[i + 1]) / 2.0f : INFINITY;
        v_midpoints[i] = i < kRun - 1 ? (a.v_book[i] + a.v_book[i + 1]) / 2.0f : INFINITY;
    }
    float factor = a.gradient_scale;
    if (a.squared_norm && a.clip > 0.0f) {
        const float norm = sqrtf(a.squared_norm[0]) * a.gradient_scale;
        if (norm > a.clip) factor *= a.clip / norm;
    }
    __syncthreads();
    for (int turn = 0; turn < kRuns; turn++) {
        const int64_t run = int64_t(blockIdx.x) * kRuns + turn, first = run * kRun + kOfThread * int64_t(threadIdx.x);
        if (run * kRun >= a.count) break;  // the whole block
        const Codes m_old = load_vector<uint8_t, kOfThread>(a.m + first), v_old = load_vector<uint8_t, kOfThread>(a.v + first);
        const float m_scale = a.m_scale[run], v_scale = a.v_scale[run];
        float m[kOfThread], v[kOfThread], m_most = 0.0f, v_most = 0.0f;
#pragma unroll
        for (int j = 0; j < kOfThread; j++) {
            const int64_t i = first + j;
            m[j] = v[j] = 0.0f;
            if (i >= a.count) continue;
            const float g = a.gradient[i] * factor;
            m[j] = a.beta1 * (m_book[m_old.at[j]] * m_scale) + (1.0f - a.beta1) * g;
            v[j] = a.beta2 * (v_book[v_old.at[j]] * v_scale) + (1.0f - a.beta2) * g * g;
            const float p = a.parameter ? a.parameter[i] : load_halves(a.halves, i);
            const float next = p - a.learning_rate * ((m[j] * a.correction1) / (sqrtf(v[j] * a.correction2) + a.epsilon) + a.weight_decay * p);
            if (a.parameter) a.parameter[i] = next;
            else store_halves(a.halves, i, next);
            m_most = fmaxf(m_most, fabsf(m[j]));
            v_most = fmaxf(v_most, v[j]);
        }
        // The barriers inside come after all reads of the old scales.
        m_most = block_max(m_most, m_parts);
        v_most = block_max(v_most, v_parts);
        const float m_inverse = 1.0f / fmaxf(m_most, 1e-38f), v_inverse = 1.0f / fmaxf(v_most, 1e-38f);
        Codes m_new, v_new;
#pragma unroll
        for (int j = 0; j < kOfThread; j++) {
            m_new.at[j] = code_of(fminf(fmaxf(m[j] * m_inverse, -1.0f), 1.0f), m_midpoints);
            v_new.at[j] = code_of(fminf(v[j] * v_inverse, 1.0f), v_midpoints);
        }
        store_vector<uint8_t, kOfThread>(a.m + first, m_new);
        store_vector<uint8_t, kOfThread>(a.v + first, v_new);
        if (threadIdx.x == 0) {
            a.m_scale[run] = m_most;
            a.v_scale[run] = v_most;
        }
    }
}
}  // namespace

void adamw_8bit(const AdamW8bit &a, cudaStream_t stream) {
    launch("adamw_8bit", adamw_8bit_kernel, blocks_for(a.count, int64_t(kRun) * kRuns), kThreads, 0, stream, a);
}
}  // namespace pgtrain::engine::backend::gpu
