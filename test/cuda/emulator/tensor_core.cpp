// What the tensor-core instructions of tensor_core.cuh do, from the PTX manual's tables "Matrix fragments for mma.m16n8k16
// with floating point type" and "ldmatrix". It repeats our reading of those tables: only a GPU can confirm it.
#include "engine/backend/cuda/tensor_core.cuh"

namespace emu {
namespace {
float low_half(unsigned pair) { return bit_cast<float>(pair << 16); }
float high_half(unsigned pair) { return bit_cast<float>(pair & 0xffff0000u); }

// Lane l receives of each matrix row l/4, columns 2 (l%4) and the next; transposed: the same of the transpose.
template <bool Transposed> void load(void *lanes[32]) {
    for (int l = 0; l < 32; l++)
        for (int matrix = 0; matrix < 4; matrix++) {
            const auto element = [&](int row, int column) {
                if (Transposed) std::swap(row, column);
                return unsigned(static_cast<LoadLane *>(lanes[8 * matrix + row])->row[column]);
            };
            const int row = l / 4, column = l % 4 * 2;
            static_cast<LoadLane *>(lanes[l])->to[matrix] = element(row, column) | element(row, column + 1) << 16;
        }
}
}  // namespace

void load_8x8x4(void *lanes[32]) { load<false>(lanes); }
void load_8x8x4_transposed(void *lanes[32]) { load<true>(lanes); }

void multiply_16x8x16(void *lanes[32]) {
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const auto &lane = *static_cast<MultiplyLane *>(lanes[l]);
        const int group = l / 4, pair = l % 4 * 2;
        for (int part = 0; part < 4; part++) {  // upper left, lower left, upper right, lower right
            const int row = group + part % 2 * 8, column = pair + part / 2 * 8;
            a[row][column] = low_half(lane.a[part]);
            a[row][column + 1] = high_half(lane.a[part]);
        }
        for (int half = 0; half < 2; half++) {
            b[pair + half * 8][group] = low_half(lane.b[half]);
            b[pair + half * 8 + 1][group] = high_half(lane.b[half]);
        }
    }
    for (int l = 0; l < 32; l++) {
        const auto &lane = *static_cast<MultiplyLane *>(lanes[l]);
        for (int cell = 0; cell < 4; cell++) {
            const int row = l / 4 + cell / 2 * 8, column = l % 4 * 2 + cell % 2;
            for (int k = 0; k < 16; k++) lane.sum[cell] += a[row][k] * b[k][column];
        }
    }
}
}  // namespace emu
