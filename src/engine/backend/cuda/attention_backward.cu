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
    int segment[kTile], key_segment[kTile];
    // Where the rows of the head under way begin: in registers they would take the place of sums.
    const T *head_q, *head_dout;
    const float *head_log_sum, *head_delta;
};
// Where the rows of a head lie in the sequence that blockIdx.z counts.
template <class T> struct Place {
    const AttentionBackward<T> &a;
    __device__ __forceinline__ int64_t pitch() const { return int64_t(a.heads + 2 * a.kv_heads) * a.head_size; }
    __device__ __forceinline__ int64_t channels() const { return int64_t(a.heads) * a.head_size; }
    __device__ __forceinline__ int64_t row(int position) const { return int64_t(blockIdx.z) * a.length + position; }
    // `column` counts heads of q, then of k, then of v.
    __device__ __forceinline__ int64_t at(int column, int position) const { return row(position) * pitch() + int64_t(column) * a.head_size; }
    __device__ __forceinline__ int k_of(int kv_head) const { return a.heads + kv_head; }
    __device__ __forceinline__ int v_of(int kv_head) const { return a.heads + a.kv_heads + kv_head; }
    __device__ __forceinline__ const T *dout(int head, int position) const { return a.dout + row(position) * channels() + int64_t(head) * a.head_size; }
    __device__ __forceinline__ int64_t statistics(int head, int position) const { return (int64_t(blockIdx.z) * a.heads + head) * a.length + position; }
    __device__ __forceinline__ const int *segments() const { return a.segments ? a.segments + row(0) : nullptr; }
};

// Rows of a warp are keys here, columns queries: what falls out is already transposed for dv = p^T dout and dk = ds^T q.
// A block is one tile of keys of one group of heads, which it takes one after the other.
template <class T, int H> __global__ void __launch_bounds__(kThreadsOf<kTileOf<T, H>>, 1) attention_backward_kv_kernel(AttentionBackward<T> a) {
    constexpr int kTile = kTileOf<T, H>, kPitch = H + kPad<T>, kScorePitch = kTile + kPad<T>, kParts = kTile / 8;
    constexpr int kAtOnce = 1;  // the sums of dk and dv leave registers for no more
    GPU_DYNAMIC_SHARED(unsigned char, raw);
    auto &s = *reinterpret_cast<BackwardShared<T, H> *>(raw);
    const Place<T> place{a};
    const int *segments = place.segments();
    const int group = a.heads / a.kv_heads, kv_head = int(blockIdx.y);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int k0 = int(blockIdx.x) * kTile, keys = min(kTile, a.length - k0);
    load_tile<T, H>(s.k, a.qkv + place.at(place.k_of(kv_head), k0), place.pitch(), keys, a.head_size);
    load_tile<T, H>(s.v, a.qkv + place.at(place.v_of(kv_head), k0), place.pitch(), keys, a.head_size);
    if (segments) load_column<kTile>(s.key_segment, segments + k0, keys, -1);
    float dk[H / 8][4], dv[H / 8][4];
    clear(dk);
    clear(dv);
    T *p = s.p + warp * 16 * kScorePitch;

    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        if (threadIdx.x == 0) {  // read between the barriers of a tile only, so nobody reads it now
            s.head_q = a.qkv + place.at(head, 0);
            s.head_dout = place.dout(head, 0);
            s.head_log_sum = a.log_sum + place.statistics(head, 0);
            s.head_delta = a.delta + place.statistics(head, 0);
        }
        for (int q0 = k0; q0 < a.length && q0 - (k0 + keys - 1) < a.reach; q0 += kTile) {
            const int queries = min(kTile, a.length - q0);
            if (!tile_is_visible(segments, q0, k0 + keys - 1)) continue;
            __syncthreads();
            load_tile<T, H, kTile, kAtOnce>(s.q, s.head_q + q0 * place.pitch(), place.pitch(), queries, a.head_size);
            load_tile<T, H, kTile, kAtOnce>(s.dout, s.head_dout + q0 * place.channels(), place.channels(), queries, a.head_size);
            load_column<kTile>(s.log_sum, s.head_log_sum + q0, queries, 0.0f);
            load_column<kTile>(s.delta, s.head_delta + q0, queries, 0.0f);
            if (segments) load_column<kTile>(s.segment, segments + q0, queries, -1);
            __syncthreads();

            float score[kParts][4];
            clear(score);
            warp_multiply<Layout::ByColumn, kParts, H>(score, s.k + warp * 16 * kPitch, kPitch, s.q, kPitch);
#pragma unroll
            for (int n = 0; n < kParts; n++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int query = n * 8 + lane % 4 * 2 + c % 2, key = k0 + warp * 16 + lane / 4 + c / 2 * 8;
                    // Queries past the end are zeros and add nothing; keys past it have rows that nobody writes.
                    const bool seen = is_in_reach(a.reach, q0 + query - key) && (!segments || s.segment[query] == s.key_segment[key - k0]);
                    score[n][c] = seen ? expf(score[n][c] * a.scale - s.log_sum[query]) : 0.0f;
                }
            store_cells(p, kScorePitch, score);
            __syncwarp();
            warp_multiply<Layout::ByRow, H / 8, kTile>(dv, p, kScorePitch, s.dout, kPitch);
            __syncwarp();
            float dp[kParts][4];
            clear(dp);
            warp_multiply<Layout::ByColumn, kParts, H>(dp, s.v + warp * 16 * kPitch, kPitch, s.dout, kPitch);
            if constexpr (H == 64) __syncwarp();  // keeps the loads below from moving up, where registers are short
#pragma unroll
            for (int n = 0; n < kParts; n++)
#pragma unroll
                for (int c = 0; c < 4; c++) score[n][c] *= dp[n][c] - s.delta[n * 8 + lane % 4 * 2 + c % 2];
            store_cells(p, kScorePitch, score);
            __syncwarp();
            warp_multiply<Layout::ByRow, H / 8, kTile>(dk, p, kScorePitch, s.q, kPitch);
            __syncwarp();
        }
    }
    const int warp_row = k0 + warp * 16;
    write_rows(a.dqkv + place.at(place.k_of(kv_head), warp_row), place.pitch(), a.length - warp_row, a.head_size, dk, a.scale, a.scale);
    write_rows(a.dqkv + place.at(place.v_of(kv_head), warp_row), place.pitch(), a.length - warp_row, a.head_size, dv, 1.0f, 1.0f);
}

template <class T, int H> __global__ void __launch_bounds__(kThreadsOf<kTileOf<T, H>>, 1) attention_backward_q_kernel(AttentionBackward<T> a) {
    constexpr int kTile = kTileOf<T, H>, kPitch = H + kPad<T>, kScorePitch = kTile + kPad<T>, kParts = kTile / 8;
    GPU_DYNAMIC_SHARED(unsigned char, raw);
    auto &s = *reinterpret_cast<BackwardShared<T, H> *>(raw);
    const Place<T> place{a};
    const int *segments = place.segments();
    const int head = int(blockIdx.y), kv_head = head / (a.heads / a.kv_heads);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int q0 = (int(gridDim.x) - 1 - int(blockIdx.x)) * kTile, queries = min(kTile, a.length - q0);
    load_tile<T, H>(s.q, a.qkv + place.at(head, q0), place.pitch(), queries, a.head_size);
    load_tile<T, H>(s.dout, place.dout(head, q0), place.channels(), queries, a.head_size);
    float log_sum[2], delta[2];
    int row_segment[2];
    for (int i = 0; i < 2; i++) {
        const int row = q0 + warp * 16 + lane / 4 + i * 8;
        log_sum[i] = row < a.length ? a.log_sum[place.statistics(head, row)] : 0.0f;
        delta[i] = row < a.length ? a.delta[place.statistics(head, row)] : 0.0f;
        row_segment[i] = segments && row < a.length ? segments[row] : 0;
    }
    float dq[H / 8][4];
    clear(dq);
    T *p = s.p + warp * 16 * kScorePitch;

    for (int k0 = first_tile<kTile>(a.reach, q0); k0 <= q0; k0 += kTile) {
        const int keys = min(kTile, a.length - k0);
        if (!tile_is_visible(segments, q0, k0 + keys - 1)) continue;
        __syncthreads();
        load_tile<T, H>(s.k, a.qkv + place.at(place.k_of(kv_head), k0), place.pitch(), keys, a.head_size);
        load_tile<T, H>(s.v, a.qkv + place.at(place.v_of(kv_head), k0), place.pitch(), keys, a.head_size);
        if (segments) load_column<kTile>(s.segment, segments + k0, keys, -1);
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
                const bool seen = key < keys && row < a.length && is_in_reach(a.reach, row - k0 - key) && (!segments || s.segment[key] == row_segment[c / 2]);
                score[n][c] = seen ? expf(score[n][c] * a.scale - log_sum[c / 2]) * (dp[n][c] - delta[c / 2]) : 0.0f;
            }
        store_cells(p, kScorePitch, score);
        __syncwarp();
        warp_multiply<Layout::ByRow, H / 8, kTile>(dq, p, kScorePitch, s.k, kPitch);
        __syncwarp();
    }
    const int warp_row = q0 + warp * 16;
    write_rows(a.dqkv + place.at(head, warp_row), place.pitch(), a.length - warp_row, a.head_size, dq, a.scale, a.scale);
}

template <class T, int H> void run(const AttentionBackward<T> &a, cudaStream_t stream) {
    constexpr int kBytes = int(sizeof(BackwardShared<T, H>)), kTile = kTileOf<T, H>, kTileThreads = kThreadsOf<kTile>, kDeltaThreads = 256;
    static_assert(kBytes <= kMostShared);
    const int64_t rows = int64_t(a.batch) * a.length;
    launch("attention_delta", attention_delta_kernel<T>, blocks_for(rows * a.heads, kDeltaThreads / kWarp), kDeltaThreads, 0, stream, a, rows);
    const dim3 grid(blocks_for(a.length, kTile), unsigned(a.heads), unsigned(a.batch)), kv_grid(grid.x, unsigned(a.kv_heads), grid.z);
    check("attention_backward: shared memory",
          cudaFuncSetAttribute(attention_backward_kv_kernel<T, H>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    launch("attention_backward_kv", attention_backward_kv_kernel<T, H>, kv_grid, kTileThreads, kBytes, stream, a);
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
