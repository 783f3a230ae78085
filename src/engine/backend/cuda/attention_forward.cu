// Attention forward, flash style: scores never leave the block. One block takes a tile of queries of one head and walks the keys it
// may see; softmax is kept online in float. Writes the output rows and each row's log of the sum of exponentials.
// Rounding for bf16: probabilities are rounded to bf16 before the product with v, as every bf16 attention does.
#include "engine/backend/cuda/attention.cuh"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
template <class T, int H> struct ForwardShared {
    static constexpr int kTile = kTileOf<T, H>;
    T q[kTile * (H + kPad<T>)], k[kTile * (H + kPad<T>)], v[kTile * (H + kPad<T>)];
    T p[kTile * (kTile + kPad<T>)];
    int key_segment[kTile];
};

template <class T, int H>
__global__ void __launch_bounds__(kThreadsOf<kTileOf<T, H>>) attention_forward_kernel(AttentionForward<T> a) {
    constexpr int kTile = kTileOf<T, H>, kPitch = H + kPad<T>, kScorePitch = kTile + kPad<T>, kParts = kTile / 8;
    GPU_DYNAMIC_SHARED(unsigned char, raw);
    auto &s = *reinterpret_cast<ForwardShared<T, H> *>(raw);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int q0 = (int(gridDim.x) - 1 - int(blockIdx.x)) * kTile;  // the longest first
    const int head = blockIdx.y, width = a.head_size, channels = a.heads * a.head_size;
    const int kv_channels = a.kv_heads * width;
    const int64_t pitch = channels + 2 * int64_t(kv_channels), first_row = int64_t(blockIdx.z) * a.length;
    const T *q = a.qkv + first_row * pitch + head * width, *k = a.qkv + first_row * pitch + channels + head / (a.heads / a.kv_heads) * width;
    const int *segments = a.segments ? a.segments + first_row : nullptr;

    load_tile<T, H>(s.q, q + q0 * pitch, pitch, min(kTile, a.length - q0), width);
    float out[H / 8][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    clear(out);
    int row_segment[2];
    for (int i = 0; i < 2; i++) {
        const int row = q0 + warp * 16 + lane / 4 + i * 8;
        row_segment[i] = segments && row < a.length ? segments[row] : 0;
    }

    for (int k0 = first_tile<kTile>(a.reach, q0); k0 <= q0; k0 += kTile) {
        const int keys = min(kTile, a.length - k0);
        if (!tile_is_visible(segments, q0, k0 + keys - 1)) continue;  // the same for the whole block
        __syncthreads();
        load_tile<T, H>(s.k, k + k0 * pitch, pitch, keys, width);
        load_tile<T, H>(s.v, k + kv_channels + k0 * pitch, pitch, keys, width);
        if (segments) load_column<kTile>(s.key_segment, segments + k0, keys, -1);
        __syncthreads();

        float score[kParts][4];
        clear(score);
        warp_multiply<Layout::ByColumn, kParts, H>(score, s.q + warp * 16 * kPitch, kPitch, s.k, kPitch);
#pragma unroll
        for (int i = 0; i < 2; i++) {  // the lane's upper and lower row; four lanes share a row
            const int row = q0 + warp * 16 + lane / 4 + i * 8;
            float row_top = top[i];
#pragma unroll
            for (int n = 0; n < kParts; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int key = n * 8 + lane % 4 * 2 + c;
                    const bool seen = key < keys && is_in_reach(a.reach, row - k0 - key) && (!segments || s.key_segment[key] == row_segment[i]);
                    float &x = score[n][i * 2 + c];
                    x = seen ? x * a.scale : -INFINITY;
                    row_top = fmaxf(row_top, x);
                }
            row_top = fmaxf(row_top, __shfl_xor_sync(kAllLanes, row_top, 1));
            row_top = fmaxf(row_top, __shfl_xor_sync(kAllLanes, row_top, 2));
            const float base = row_top == -INFINITY ? 0.0f : row_top;  // a row that sees nothing in this tile
            const float shrink = expf(top[i] - base);
            float added = 0.0f;
#pragma unroll
            for (int n = 0; n < kParts; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float &x = score[n][i * 2 + c];
                    x = expf(x - base);
                    added += x;
                }
            sum[i] = sum[i] * shrink + added;
            top[i] = row_top;
#pragma unroll
            for (int n = 0; n < H / 8; n++) {
                out[n][i * 2] *= shrink;
                out[n][i * 2 + 1] *= shrink;
            }
        }
        T *p = s.p + warp * 16 * kScorePitch;
        store_cells(p, kScorePitch, score);
        __syncwarp();
        warp_multiply<Layout::ByRow, H / 8, kTile>(out, p, kScorePitch, s.v, kPitch);  // p is free again at the next barrier
    }
    float inverse[2];
    for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 1);
        sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 2);
        inverse[i] = 1.0f / sum[i];
        const int row = q0 + warp * 16 + lane / 4 + i * 8;
        if (lane % 4 == 0 && row < a.length) a.log_sum[(int64_t(blockIdx.z) * a.heads + head) * a.length + row] = top[i] + logf(sum[i]);
    }
    const int warp_row = q0 + warp * 16;
    write_rows(a.out + (first_row + warp_row) * channels + head * width, channels, a.length - warp_row, width, out, inverse[0], inverse[1]);
}

template <class T, int H> void run(const AttentionForward<T> &a, cudaStream_t stream) {
    constexpr int kBytes = int(sizeof(ForwardShared<T, H>)), kTile = kTileOf<T, H>, kTileThreads = kThreadsOf<kTile>;
    static_assert(kBytes <= kMostShared);
    check("attention_forward: shared memory",
          cudaFuncSetAttribute(attention_forward_kernel<T, H>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    launch("attention_forward", attention_forward_kernel<T, H>, dim3(blocks_for(a.length, kTile), unsigned(a.heads), unsigned(a.batch)),
           kTileThreads, kBytes, stream, a);
}
}  // namespace

template <class T> void attention_forward(const AttentionForward<T> &a, cudaStream_t stream) {
    switch (padded_head(a.head_size)) {
        case 32: return run<T, 32>(a, stream);
        case 64: return run<T, 64>(a, stream);
        default: return run<T, 128>(a, stream);
    }
}
template void attention_forward(const AttentionForward<float> &, cudaStream_t);
template void attention_forward(const AttentionForward<bf16> &, cudaStream_t);
}  // namespace pgtrain::engine::backend::gpu
