// Softmax cross-entropy of a chunk of rows, in place: logits become their gradient (probability minus one-hot, times scale)
// and each row leaves its loss, and whether the target's logit was the highest. Target -1 means the row does not count: loss, hit
// and gradient 0. A block a row; maximum and sum in one pass over the row, the gradient in a second.
#include "engine/backend/cuda/kernel.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 256;

// Of equally high logits the first counts: nothing before the target may be as high as it. For all threads of the block.
template <class T> __device__ bool is_first_highest(const T *row, int target, float top, float *parts) {
    if (to_float(row[target]) != top) return false;
    float earlier = 0.0f;
    for (int c = threadIdx.x; c < target; c += kThreads) earlier = to_float(row[c]) == top ? 1.0f : earlier;
    return block_max(earlier, parts) == 0.0f;
}

template <class T> __global__ void __launch_bounds__(kThreads) cross_entropy_kernel(const CrossEntropy<T> a) {
    __shared__ float parts[32];
    T *row = a.logits + int64_t(blockIdx.x) * a.pitch;
    const int target = a.targets[blockIdx.x], vocabulary = a.vocabulary;
    const bool counts = target >= 0 && target < vocabulary;
    if (target == -1) {  // the whole block
        if (threadIdx.x == 0) {
            a.losses[blockIdx.x] = 0.0f;
            if (a.hits) a.hits[blockIdx.x] = 0.0f;
        }
        for (int c = threadIdx.x; a.gradient && c < vocabulary; c += kThreads) row[c] = from_float<T>(0.0f);
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
    if (threadIdx.x == 0) a.losses[blockIdx.x] = counts ? row_top + logf(row_sum) - to_float(row[target]) : NAN;
    if (a.hits) {
        const bool hit = counts && is_first_highest(row, target, row_top, parts);
        if (threadIdx.x == 0) a.hits[blockIdx.x] = hit ? 1.0f : 0.0f;
    }
    if (!a.gradient) return;  // the whole block
    __syncthreads();          // the target's logit has been read
    const float inverse = 1.0f / row_sum, whole = a.factor ? a.scale * *a.factor : a.scale;
    const float scale = a.weights ? whole * a.weights[blockIdx.x] : whole;
    for (int c = threadIdx.x; c < vocabulary; c += kThreads)
        row[c] = from_float<T>((expf(to_float(row[c]) - row_top) * inverse - (c == target ? 1.0f : 0.0f)) * scale);
}
}  // namespace

template <class T> void cross_entropy(const CrossEntropy<T> &a, cudaStream_t stream) {
    launch("cross_entropy", cross_entropy_kernel<T>, unsigned(a.rows), kThreads, 0, stream, a);
}
template void cross_entropy(const CrossEntropy<float> &, cudaStream_t);
template void cross_entropy(const CrossEntropy<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
