// Products of small tiles by one warp: acc[16, 8 N] += A[16, K] B, operands in shared memory, sums in float registers. For
// bf16 it is the tensor core (mma.m16n8k16 fed by ldmatrix, both since sm_80), for float the same cells by plain arithmetic.
// The only inline PTX of the backend is here; each piece has its emulation in test/cuda/emulator/tensor_core.cpp.
// Cell layout of one 16x8 part: lane l holds rows l/4 and l/4 + 8, columns 2 (l%4) and the next.
#pragma once
#include "engine/backend/cuda/kernel.cuh"

#ifdef PGTRAIN_GPU_EMULATED
namespace emu {
struct MultiplyLane {
    const unsigned *a, *b;
    float *sum;
};
struct LoadLane {
    uint16_t row[8];
    unsigned *to;
};
void multiply_16x8x16(void *lanes[32]);
void load_8x8x4(void *lanes[32]);
void load_8x8x4_transposed(void *lanes[32]);
}  // namespace emu
#endif

namespace pgtrain::engine::backend::gpu {
__device__ __forceinline__ void multiply_16x8x16(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#ifdef PGTRAIN_GPU_EMULATED
    const unsigned b[2] = {b0, b1};
    emu::MultiplyLane lane{a, b, sum};
    emu::warp_call(emu::multiply_16x8x16, &lane, __LINE__);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
// Four 8x8 matrices of bf16 from shared memory; lane l passes the address (16-byte aligned) of row l%8 of matrix l/8.
template <bool Transposed> __device__ __forceinline__ void load_8x8x4(unsigned (&to)[4], const bf16 *row) {
#ifdef PGTRAIN_GPU_EMULATED
    emu::LoadLane lane{{}, to};
    const auto values = load_vector<uint16_t, 8>(reinterpret_cast<const uint16_t *>(row));
    for (int i = 0; i < 8; i++) lane.row[i] = values.at[i];
    emu::warp_call(Transposed ? emu::load_8x8x4_transposed : emu::load_8x8x4, &lane, __LINE__);
#else
    const unsigned address = unsigned(__cvta_generic_to_shared(row));
    if constexpr (Transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
#endif
}

// A tile's row is padded by 16 bytes, so that the eight rows that one load touches fall into different banks.
template <class T> constexpr int kPad = 16 / int(sizeof(T));

// How B lies in shared memory: ByColumn holds B's columns as rows, [8 N, K]; ByRow holds B itself, [K, 8 N].
enum class Layout { ByColumn, ByRow };

// A: 16 rows of `a_pitch` elements. N is even, K a multiple of 16. Every lane of the warp calls it.
template <Layout L, int N, int K>
__device__ __forceinline__ void warp_multiply(float (&sum)[N][4], const bf16 *a, int a_pitch, const bf16 *b, int b_pitch) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        unsigned a_part[4];
        load_8x8x4<false>(a_part, a + (lane % 16) * a_pitch + k + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned b_part[4];  // two 8-column parts, each of two 8-deep halves
            if constexpr (L == Layout::ByColumn)
                load_8x8x4<false>(b_part, b + (n * 8 + lane / 16 * 8 + lane % 8) * b_pitch + k + lane / 8 % 2 * 8);
            else
                load_8x8x4<true>(b_part, b + (k + lane % 16) * b_pitch + n * 8 + lane / 16 * 8);
            multiply_16x8x16(sum[n], a_part, b_part[0], b_part[1]);
            multiply_16x8x16(sum[n + 1], a_part, b_part[2], b_part[3]);
        }
    }
}
template <Layout L, int N, int K>
__device__ __forceinline__ void warp_multiply(float (&sum)[N][4], const float *a, int a_pitch, const float *b, int b_pitch) {
    const int lane = threadIdx.x % kWarp, row = lane / 4, column = lane % 4 * 2;
#pragma unroll 2  // more would spill in the backward of 64-wide heads
    for (int k = 0; k < K; k++) {
        const float a0 = a[row * a_pitch + k], a1 = a[(row + 8) * a_pitch + k];
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int c = n * 8 + column;
            const float b0 = L == Layout::ByColumn ? b[c * b_pitch + k] : b[k * b_pitch + c];
            const float b1 = L == Layout::ByColumn ? b[(c + 1) * b_pitch + k] : b[k * b_pitch + c + 1];
            sum[n][0] += a0 * b0;
            sum[n][1] += a0 * b1;
            sum[n][2] += a1 * b0;
            sum[n][3] += a1 * b1;
        }
    }
}
}  // namespace pgtrain::engine::backend::gpu
