// Softmax cross-entropy of a chunk of rows, in place: logits become their gradient (probability minus one-hot, times scale)
// and each row leaves its loss. Target -1 means the row does not count: loss 0, gradient 0. A block a row; maximum and sum in
// one pass over the row, the gradient in a second.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(T *logits, int64_t pitch, float *losses, const int32_t *targets, int vocabulary, float scale,
                                                                 bool gradient) {
    __shared__ float parts[32];
    T *row = logits + int64_t(blockIdx.x) * pitch;
    const int target = targets[blockIdx.x];
    const bool counts = target >= 0 && target < vocabulary;
    if (target == -1) {  // the whole block
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        for (int c = threadIdx.x; gradient && c < vocabulary; c += kThreads) row[c] = from_float<T>(0.0f);
        return;
    }
    float top = -INFINITY, sum = 0.0f;
    for (int c = threadIdx.x; c < vocabulary; c += kThreads) {
        const float x = to_float(row[c]), higher = fmaxf(top, x);
        sum = sum * expf(top - higher) + expf(x - higher);
        top = higher;
    }
    const float row_top = block_max(top, parts);
    const float row_sum = block_sum(top == -INFINITY ? 0.0f : sum * expf(top - row_top), parts);
    // A target outside the vocabulary is the caller's error and must show: the loss becomes NaN.
    if (threadIdx.x == 0) losses[blockIdx.x] = counts ? row_top + logf(row_sum) - to_float(row[target]) : NAN;
    if (!gradient) return;  // the whole block
    __syncthreads();        // thread 0 has read the target's logit
    const float inverse = 1.0f / row_sum;
    for (int c = threadIdx.x; c < vocabulary; c += kThreads)
        row[c] = from_float<T>((expf(to_float(row[c]) - row_top) * inverse - (c == target ? 1.0f : 0.0f)) * scale);
}
}  // namespace

template <class T>
void cross_entropy(T *logits, int64_t pitch, float *losses, const int32_t *targets, int64_t rows, int vocabulary, float scale, bool gradient,
                   cudaStream_t stream) {
    launch("cross_entropy", cross_entropy_kernel<T>, unsigned(rows), kThreads, 0, stream, logits, pitch, losses, targets, vocabulary, scale, gradient);
}
template void cross_entropy(float *, int64_t, float *, const int32_t *, int64_t, int, float, bool, cudaStream_t);
template void cross_entropy(bf16 *, int64_t, float *, const int32_t *, int64_t, int, float, bool, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
