// Matrix products by cuBLASLt: row-major C = alpha op(A) op(B) + beta C, float accumulation, optionally a strided batch and a
// bias (one value a column) in the epilogue. One Multiplier belongs to one stream and is used from one thread.
#pragma once
#include <array>
#include <map>
#include <tuple>

#include "engine/backend/cuda/cublaslt.hpp"

namespace pgtrain::engine::backend::gpu {
enum class Type : uint8_t { Float, Bf16 };
struct Product {
    int64_t m = 0, n = 0, k = 0;
    bool transpose_a = false, transpose_b = false;
    const void *a = nullptr, *b = nullptr;
    void *c = nullptr;
    int64_t a_pitch = 0, b_pitch = 0, c_pitch = 0;     // elements between rows as stored
    int64_t batch = 1, a_step = 0, b_step = 0, c_step = 0;  // elements between the batch's matrices
    Type in = Type::Float, out = Type::Float;
    float alpha = 1.0f, beta = 0.0f;
    const void *bias = nullptr;  // [n], of type `out`; null: none
};

class Multiplier {
  public:
    Multiplier(const CublasLt &library, cudaStream_t stream, void *workspace, size_t workspace_bytes);
    ~Multiplier();
    Multiplier(const Multiplier &) = delete;
    Multiplier &operator=(const Multiplier &) = delete;
    void run(const Product &p);

  private:
    struct Plan;  // descriptors and the chosen algorithm of one shape
    using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, unsigned>;
    using Alignments = std::array<unsigned, 3>;  // of A, B and C: powers of two that divide their addresses
    void describe(const Product &p, Plan &plan);
    void choose_algorithm(const Product &p, const Alignments &alignments, Plan &plan);
    Plan &plan_for(const Product &p);

    const CublasLt &library_;
    cudaStream_t stream_;
    void *workspace_;
    size_t workspace_bytes_;
    cublasLtHandle_t handle_ = nullptr;
    std::map<Key, Plan> plans_;
};
}  // namespace pgtrain::engine::backend::gpu
