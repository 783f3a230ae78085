// Attention backward, recomputing scores from q, k and the forward's log-sums. Three launches, no atomics, so the same bits
// every time: delta = sum(dout * out) a row; then dk and dv by key tile; then dq by query tile. That is seven products
// instead of five, the price of determinism without a quadratic workspace.
#include "engine/backend/cuda/attention.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
template <class T> __global__ void attention_delta_kernel(AttentionBackward<T> a, int64_t rows) {
    const int lane = threadIdx.x % kWarp;
    const int64_t i = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;  // a warp for a (row, head)
    if (i >= rows * a.heads) return;                                                     // whole warps leave
    const int64_t row = i / a.heads;
    const int head = int(i % a.heads);
    const int64_t offset = row * a.heads * a.head_size + int64_t(head) * a.head_size;
    float sum = 0.0f;
    for (int c = lane; c < a.head_size; c += kWarp) sum += to_float(a.dout[offset + c]) * to_float(a.out[offset + c]);
    sum = warp_sum(sum);
    if (lane == 0) a.delta[(row / a.length * a.heads + head) * a.length + row % a.length] = sum;
}

template <class T, int H> struct BackwardShared {
    static constexpr int kTile = kTileOf<T, H>;
    T q[kTile * (H + kPad<T>)], dout[kTile * (H + kPad<T>)], k[kTile * (H + kPad<T>)], v[kTile * (H + kPad<T>)];
    T p[kTile * (kTile + kPad<T>)];
    float log_sum[kTile], delta[kTile];
    int segment[kTile];
};
// Where one block works.
template <class T> struct Place {
    const T *q, *dout;
    T *dq;
    const float *log_sum, *delta;
    const int *segments;
    int64_t pitch;
    int channels;
    __device__ __forceinline__ explicit Place(const AttentionBackward<T> &a) {
        const int64_t first_row = int64_t(blockIdx.z) * a.length, statistics = (int64_t(blockIdx.z) * a.heads + blockIdx.y) * a.length;
        channels = a.heads * a.head_size;
        pitch = 3 * int64_t(channels);
        const int64_t head = int64_t(blockIdx.y) * a.head_size;
        q = a.qkv + first_row * pitch + head;
        dq = a.dqkv + first_row * pitch + head;
        dout = a.dout + first_row * channels + head;
        log_sum = a.log_sum + statistics;
        delta = a.delta + statistics;
        segments = a.segments ? a.segments + first_row : nullptr;
    }
};

// Rows of a warp are keys here, columns queries: what falls out is already transposed for dv = p^T dout and dk = ds^T q.
template <class T, int H> __global__ void __launch_bounds__(kThreadsOf<kTileOf<T, H>>, 1) attention_backward_kv_kernel(AttentionBackward<T> a) {
    constexpr int kTile = kTileOf<T, H>, kPitch = H + kPad<T>, kScorePitch = kTile + kPad<T>, kParts = kTile / 8;
    GPU_DYNAMIC_SHARED(unsigned char, raw);
    auto &s = *reinterpret_cast<BackwardShared<T, H> *>(raw);
    const Place<T> at(a);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int k0 = int(blockIdx.x) * kTile, keys = min(kTile, a.length - k0);
    load_tile<T, H>(s.k, at.q + at.channels + k0 * at.pitch, at.pitch, keys, a.head_size);
    load_tile<T, H>(s.v, at.q + 2 * at.channels + k0 * at.pitch, at.pitch, keys, a.head_size);
    int key_segment[2];
    for (int i = 0; i < 2; i++) {
        const int key = k0 + warp * 16 + lane / 4 + i * 8;
        key_segment[i] = at.segments && key < a.length ? at.segments[key] : 0;
    }
    float dk[H / 8][4], dv[H / 8][4];
    clear(dk);
    clear(dv);
    T *p = s.p + warp * 16 * kScorePitch;

    for (int q0 = k0; q0 < a.length; q0 += kTile) {
        const int queries = min(kTile, a.length - q0);
        if (!tile_is_visible(at.segments, q0, k0 + keys - 1)) continue;
        __syncthreads();
        load_tile<T, H>(s.q, at.q + q0 * at.pitch, at.pitch, queries, a.head_size);
        load_tile<T, H>(s.dout, at.dout + int64_t(q0) * at.channels, at.channels, queries, a.head_size);
        load_column<kTile>(s.log_sum, at.log_sum + q0, queries, 0.0f);
        load_column<kTile>(s.delta, at.delta + q0, queries, 0.0f);
        if (at.segments) load_column<kTile>(s.segment, at.segments + q0, queries, -1);
        __syncthreads();

        float score[kParts][4];
        clear(score);
        warp_multiply<Layout::ByColumn, kParts, H>(score, s.k + warp * 16 * kPitch, kPitch, s.q, kPitch);
#pragma unroll
        for (int n = 0; n < kParts; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int query = n * 8 + lane % 4 * 2 + c % 2, key = k0 + warp * 16 + lane / 4 + c / 2 * 8;
                const bool seen = query < queries && key < a.length && key <= q0 + query &&
                                  (!at.segments || s.segment[query] == key_segment[c / 2]);
                score[n][c] = seen ? expf(score[n][c] * a.scale - s.log_sum[query]) : 0.0f;
            }
        store_cells(p, kScorePitch, score);
        __syncwarp();
        warp_multiply<Layout::ByRow, H / 8, kTile>(dv, p, kScorePitch, s.dout, kPitch);
        __syncwarp();
        float dp[kParts][4];
        clear(dp);
        warp_multiply<Layout::ByColumn, kParts, H>(dp, s.v + warp * 16 * kPitch, kPitch, s.dout, kPitch);
#pragma unroll
        for (int n = 0; n < kParts; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) score[n][c] *= dp[n][c] - s.delta[n * 8 + lane % 4 * 2 + c % 2];
        store_cells(p, kScorePitch, score);
        __syncwarp();
        warp_multiply<Layout::ByRow, H / 8, kTile>(dk, p, kScorePitch, s.q, kPitch);
        __syncwarp();
    }
    const int warp_row = k0 + warp * 16;
    T *out = at.dq + warp_row * at.pitch + at.channels;
    write_rows(out, at.pitch, a.length - warp_row, a.head_size, dk, a.scale, a.scale);
    write_rows(out + at.channels, at.pitch, a.length - warp_row, a.head_size, dv, 1.0f, 1.0f);
}

template <class T, int H> __global__ void __launch_bounds__(kThreadsOf<kTileOf<T, H>>, 1) attention_backward_q_kernel(AttentionBackward<T> a) {
    constexpr int kTile = kTileOf<T, H>, kPitch = H + kPad<T>, kScorePitch = kTile + kPad<T>, kParts = kTile / 8;
    GPU_DYNAMIC_SHARED(unsigned char, raw);
    auto &s = *reinterpret_cast<BackwardShared<T, H> *>(raw);
    const Place<T> at(a);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int q0 = (int(gridDim.x) - 1 - int(blockIdx.x)) * kTile, queries = min(kTile, a.length - q0);
    load_tile<T, H>(s.q, at.q + q0 * at.pitch, at.pitch, queries, a.head_size);
    load_tile<T, H>(s.dout, at.dout + int64_t(q0) * at.channels, at.channels, queries, a.head_size);
    float log_sum[2], delta[2];
    int row_segment[2];
    for (int i = 0; i < 2; i++) {
        const int row = q0 + warp * 16 + lane / 4 + i * 8;
        log_sum[i] = row < a.length ? at.log_sum[row] : 0.0f;
        delta[i] = row < a.length ? at.delta[row] : 0.0f;
        row_segment[i] = at.segments && row < a.length ? at.segments[row] : 0;
    }
    float dq[H / 8][4];
    clear(dq);
    T *p = s.p + warp * 16 * kScorePitch;

    for (int k0 = 0; k0 <= q0; k0 += kTile) {
        const int keys = min(kTile, a.length - k0);
        if (!tile_is_visible(at.segments, q0, k0 + keys - 1)) continue;
        __syncthreads();
        load_tile<T, H>(s.k, at.q + at.channels + k0 * at.pitch, at.pitch, keys, a.head_size);
        load_tile<T, H>(s.v, at.q + 2 * at.channels + k0 * at.pitch, at.pitch, keys, a.head_size);
        if (at.segments) load_column<kTile>(s.segment, at.segments + k0, keys, -1);
        __syncthreads();

        float score[kParts][4], dp[kParts][4];
        clear(score);
        clear(dp);
        warp_multiply<Layout::ByColumn, kParts, H>(score, s.q + warp * 16 * kPitch, kPitch, s.k, kPitch);
        warp_multiply<Layout::ByColumn, kParts, H>(dp, s.dout + warp * 16 * kPitch, kPitch, s.v, kPitch);
#pragma unroll
        for (int n = 0; n < kParts; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int key = n * 8 + lane % 4 * 2 + c % 2, row = q0 + warp * 16 + lane / 4 + c / 2 * 8;
                const bool seen = key < keys && row < a.length && k0 + key <= row && (!at.segments || s.segment[key] == row_segment[c / 2]);
                score[n][c] = seen ? expf(score[n][c] * a.scale - log_sum[c / 2]) * (dp[n][c] - delta[c / 2]) : 0.0f;
            }
        store_cells(p, kScorePitch, score);
        __syncwarp();
        warp_multiply<Layout::ByRow, H / 8, kTile>(dq, p, kScorePitch, s.k, kPitch);
        __syncwarp();
    }
    const int warp_row = q0 + warp * 16;
    write_rows(at.dq + warp_row * at.pitch, at.pitch, a.length - warp_row, a.head_size, dq, a.scale, a.scale);
}

template <class T, int H> void run(const AttentionBackward<T> &a, cudaStream_t stream) {
    constexpr int kBytes = int(sizeof(BackwardShared<T, H>)), kTile = kTileOf<T, H>, kTileThreads = kThreadsOf<kTile>, kDeltaThreads = 256;
    static_assert(kBytes <= kMostShared);
    const int64_t rows = int64_t(a.batch) * a.length;
    launch("attention_delta", attention_delta_kernel<T>, blocks_for(rows * a.heads, kDeltaThreads / kWarp), kDeltaThreads, 0, stream, a, rows);
    const dim3 grid(blocks_for(a.length, kTile), unsigned(a.heads), unsigned(a.batch));
    check("attention_backward: shared memory",
          cudaFuncSetAttribute(attention_backward_kv_kernel<T, H>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    launch("attention_backward_kv", attention_backward_kv_kernel<T, H>, grid, kTileThreads, kBytes, stream, a);
    check("attention_backward: shared memory",
          cudaFuncSetAttribute(attention_backward_q_kernel<T, H>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    launch("attention_backward_q", attention_backward_q_kernel<T, H>, grid, kTileThreads, kBytes, stream, a);
}
}  // namespace

template <class T> void attention_backward(const AttentionBackward<T> &a, cudaStream_t stream) {
    switch (padded_head(a.head_size)) {
        case 32: return run<T, 32>(a, stream);
        case 64: return run<T, 64>(a, stream);
        default: return run<T, 128>(a, stream);
    }
}
template void attention_backward(const AttentionBackward<float> &, cudaStream_t);
template void attention_backward(const AttentionBackward<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
