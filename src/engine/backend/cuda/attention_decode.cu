// Attention of new positions of sequences against their caches, for drawing text. The new keys and values are stored first, by a
// kernel of its own: positions of one sequence see each other. Then one block for a group of heads that share their keys: for each
// head its warps walk the cached keys, each with its own online softmax, and merge.
#include "engine/backend/cuda/attention.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kWarps = 4, kThreads = kWarps * kWarp, kPerLane = kLargestHead / kWarp;

template <class T> __device__ int64_t cache_of(const AttentionDecode<T> &a, int row, int kv_head) {
    const int slot = a.slots != nullptr ? a.slots[row] : row;
    return int64_t(slot) * a.context * a.kv_heads * a.head_size + kv_head * a.head_size;
}

template <class T> __global__ void __launch_bounds__(kThreads) attention_store_kernel(AttentionDecode<T> a) {
    const int kv_head = blockIdx.x, sequence = blockIdx.y, size = a.head_size, pitch = a.kv_heads * size;
    const T *new_key = a.qkv + int64_t(sequence) * (a.heads + 2 * a.kv_heads) * size + (a.heads + kv_head) * size;
    const int64_t place = cache_of(a, sequence, kv_head) + int64_t(a.positions[sequence]) * pitch;
    for (int c = threadIdx.x; c < size; c += kThreads) {
        a.key_cache[place + c] = new_key[c];
        a.value_cache[place + c] = new_key[pitch + c];
    }
}

template <class T> __global__ void __launch_bounds__(kThreads) attention_decode_kernel(AttentionDecode<T> a) {
    __shared__ float warp_out[kWarps][kLargestHead], warp_top[kWarps], warp_total[kWarps];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, kv_head = blockIdx.x, sequence = blockIdx.y;
    const int size = a.head_size, group = a.heads / a.kv_heads, position = a.positions[sequence], pitch = a.kv_heads * size;
    const T *row = a.qkv + int64_t(sequence) * (a.heads + 2 * a.kv_heads) * size;
    const int64_t cache = cache_of(a, sequence, kv_head);
    const T *keys = a.key_cache + cache, *values = a.value_cache + cache;
    const int first = a.window > 0 ? max(0, position - a.window + 1) : 0;

    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        __syncthreads();  // the merge of the head before is read
        float query[kPerLane], out[kPerLane];
#pragma unroll
        for (int j = 0; j < kPerLane; j++) {
            const int c = lane + j * kWarp;
            query[j] = c < size ? to_float(row[head * size + c]) * a.scale : 0.0f;
            out[j] = 0.0f;
        }
        float top = -INFINITY, total = 0.0f;
        for (int key = first + warp; key <= position; key += kWarps) {
            float dot = 0.0f;
#pragma unroll
            for (int j = 0; j < kPerLane; j++) {
                const int c = lane + j * kWarp;
                if (c < size) dot += query[j] * to_float(keys[int64_t(key) * pitch + c]);
            }
            dot = warp_sum(dot);
            const float higher = fmaxf(top, dot), shrink = expf(top - higher), weight = expf(dot - higher);
            total = total * shrink + weight;
            top = higher;
#pragma unroll
            for (int j = 0; j < kPerLane; j++) {
                const int c = lane + j * kWarp;
                if (c < size) out[j] = out[j] * shrink + weight * to_float(values[int64_t(key) * pitch + c]);
            }
        }
        if (lane == 0) {
            warp_top[warp] = top;
            warp_total[warp] = total;
        }
#pragma unroll
        for (int j = 0; j < kPerLane; j++) warp_out[warp][lane + j * kWarp] = out[j];
        __syncthreads();
        float row_top = -INFINITY;
        for (int w = 0; w < kWarps; w++) row_top = fmaxf(row_top, warp_top[w]);
        for (int c = threadIdx.x; c < size; c += kThreads) {
            float sum = 0.0f, weights = 0.0f;
            for (int w = 0; w < kWarps; w++) {
                const float factor = expf(warp_top[w] - row_top);  // 0 for a warp that had no key
                sum += factor * warp_out[w][c];
                weights += factor * warp_total[w];
            }
            a.out[(int64_t(sequence) * a.heads + head) * size + c] = from_float<T>(sum / weights);
        }
    }
}
}  // namespace

template <class T> void attention_decode(const AttentionDecode<T> &a, cudaStream_t stream) {
    launch("attention_store", attention_store_kernel<T>, dim3(unsigned(a.kv_heads), unsigned(a.sequences)), kThreads, 0, stream, a);
    launch("attention_decode", attention_decode_kernel<T>, dim3(unsigned(a.kv_heads), unsigned(a.sequences)), kThreads, 0, stream, a);
}
template void attention_decode(const AttentionDecode<float> &, cudaStream_t);
template void attention_decode(const AttentionDecode<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
