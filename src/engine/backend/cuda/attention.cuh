// What attention forward and backward share: tiles of 64 (or 32) positions, a warp for 16 rows of one, head sizes padded to 32,
// 64 or 128 in shared memory, the mask (causal, and packed documents do not see each other), and how rows get there.
// Packed projections: row b*T + t holds q, then k, then v: `heads` runs of `head_size`, then twice `kv_heads` of them; heads
// that lie together share keys and values.
#pragma once
#include "engine/backend/cuda/tensor_core.cuh"

namespace pgtrain::engine::backend::gpu {
constexpr int kLargestHead = 128;
// The least that a block may have on a supported card: 99 KiB on RTX cards (8.6, 8.9, 12.0), more on A100 and H100.
constexpr int kMostShared = 99 << 10;
// Positions in a tile. Floats of the widest heads take small ones, to fit into that.
template <class T, int H> constexpr int kTileOf = sizeof(T) * H > 256 ? 32 : 64;
template <int kTile> constexpr int kThreadsOf = kTile / 16 * kWarp;

// Copies up to `Tile` rows of `width` elements (row pitch `pitch`) to shared rows of H + pad; the rest becomes zero.
// kAtOnce loads of a thread are under way together, each in registers of its own.
template <class T, int H, int kTile = kTileOf<T, H>, int kAtOnce = 8>
__device__ __forceinline__ void load_tile(T *to, const T *from, int64_t pitch, int rows, int width) {
    constexpr int kVector = 16 / int(sizeof(T)), kPitch = H + kPad<T>, kTileThreads = kThreadsOf<kTile>;
    if (width % kVector == 0 && pitch % kVector == 0) {
#pragma unroll kAtOnce
        for (int i = threadIdx.x; i < kTile * (H / kVector); i += kTileThreads) {
            const int row = i / (H / kVector), column = i % (H / kVector) * kVector;
            Vector<T, kVector> v;
#pragma unroll
            for (int j = 0; j < kVector; j++) v.at[j] = from_float<T>(0.0f);
            if (row < rows && column < width) v = load_vector<T, kVector>(from + row * pitch + column);
            store_vector<T, kVector>(to + row * kPitch + column, v);
        }
    } else {
        for (int i = threadIdx.x; i < kTile * H; i += kTileThreads) {
            const int row = i / H, column = i % H;
            to[row * kPitch + column] = row < rows && column < width ? from[row * pitch + column] : from_float<T>(0.0f);
        }
    }
}
// The values beside a tile's rows (statistics, document numbers), one a position.
template <int kTile, class T> __device__ __forceinline__ void load_column(T *to, const T *from, int rows, T otherwise) {
    for (int i = threadIdx.x; i < kTile; i += kThreadsOf<kTile>) to[i] = i < rows ? from[i] : otherwise;
}
template <int N> __device__ __forceinline__ void clear(float (&sum)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) sum[n][c] = 0.0f;
}
// A warp's 16 x 8N cells to shared memory as T, where the next product reads them as its A.
template <class T, int N> __device__ __forceinline__ void store_cells(T *to, int pitch, const float (&cells)[N][4]) {
    const int lane = threadIdx.x % kWarp, row = lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) to[(row + c / 2 * 8) * pitch + n * 8 + column + c % 2] = from_float<T>(cells[n][c]);
}
// A warp's rows to device memory, times a factor for each of the lane's two rows.
template <class T, int N>
__device__ __forceinline__ void write_rows(T *to, int64_t pitch, int rows, int width, const float (&cells)[N][4], float upper, float lower) {
    const int lane = threadIdx.x % kWarp, row = lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int r = row + c / 2 * 8, w = n * 8 + column + c % 2;
            if (r < rows && w < width) to[r * pitch + w] = from_float<T>(cells[n][c] * (c < 2 ? upper : lower));
        }
}
// Documents lie in runs, so keys that end in another document than the first query's are of no use to any query after it.
__device__ __forceinline__ bool tile_is_visible(const int *segments, int first_query, int last_key) {
    return !segments || last_key >= first_query || segments[last_key] == segments[first_query];
}
// Past, future and window in one comparison: distances are negative for keys to come.
__device__ __forceinline__ bool is_in_reach(int reach, int distance) { return unsigned(distance) < unsigned(reach); }
// First tile of keys that queries from `first_query` on may see.
template <int kTile> __device__ __forceinline__ int first_tile(int reach, int first_query) { return max(0, first_query - reach + 1) / kTile * kTile; }
inline int padded_head(int head_size) { return head_size <= 32 ? 32 : head_size <= 64 ? 64 : 128; }
}  // namespace pgtrain::engine::backend::gpu
