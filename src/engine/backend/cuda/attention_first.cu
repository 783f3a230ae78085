// The first key that each query sees, counted within its row: where its document begins, or its window if that begins later. All that
// an attention needs to know of documents and windows besides that it is causal. A block for a row of the batch, which it takes in
// pieces of kThreads positions; a running maximum of the beginnings seen so far goes from piece to piece.
#include "engine/backend/cuda/kernel.cuh"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr int kThreads = 512;

__global__ void __launch_bounds__(kThreads) first_keys_kernel(int32_t *first, const int32_t *segments, int length, int reach) {
    __shared__ int tops[kThreads / kWarp];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int64_t row = int64_t(blockIdx.x) * length;
    int begins = 0;  // of the document that the last piece ended in
    for (int from = 0; from < length; from += kThreads) {
        const int at = from + int(threadIdx.x);
        int top = 0;
        if (segments && at > 0 && at < length && segments[row + at] != segments[row + at - 1]) top = at;
#pragma unroll
        for (int step = 1; step < kWarp; step *= 2) {
            const int before = __shfl_sync(kAllLanes, top, max(lane - step, 0));
            top = max(top, before);
        }
        __syncthreads();  // tops of the piece before are read
        if (lane == kWarp - 1) tops[warp] = top;
        __syncthreads();
        for (int w = 0; w < warp; w++) top = max(top, tops[w]);
        top = max(top, begins);
        if (at < length) first[row + at] = max(top, at - reach + 1);
        for (int w = 0; w < kThreads / kWarp; w++) begins = max(begins, tops[w]);
    }
}
}  // namespace

void first_keys(int32_t *first, const int32_t *segments, int batch, int length, int reach, cudaStream_t stream) {
    launch("first_keys", first_keys_kernel, unsigned(batch), kThreads, 0, stream, first, segments, length, reach);
}
}  // namespace pgtrain::engine::backend::gpu
