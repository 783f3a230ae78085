// A row-major product is the column-major product of the operands swapped: C' = op(B)' op(A)'. The shape's algorithm is asked
// of cuBLASLt's heuristic once and kept, so that one process always takes the same one; with its own workspace and one stream
// cuBLASLt then promises the same bits every time. Algorithms that add up parts in bf16 are not asked for. A shape that no
// algorithm serves is done by a plain kernel, and said so once.
#include "engine/backend/cuda/matmul.hpp"

#include <algorithm>
#include <cstdio>
#include <string>

#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
cudaDataType_t data_type(Type t) { return t == Type::Float ? CUDA_R_32F : CUDA_R_16BF; }
// The heuristic may only count on the alignment that the pointers really have, up to what it can use.
unsigned alignment_bits(const void *p) {
    unsigned bits = 1;
    while (bits < 8 && reinterpret_cast<uintptr_t>(p) % (size_t(1) << (bits + 1)) == 0) bits++;
    return bits;  // log2, 1 to 8
}
std::string describe(const Product &p) {
    const auto name = [](Type t) { return t == Type::Float ? "f32" : "bf16"; };
    return std::to_string(p.m) + "x" + std::to_string(p.n) + "x" + std::to_string(p.k) + (p.transpose_a ? " A transposed" : "") +
           (p.transpose_b ? " B transposed" : "") + ", " + name(p.in) + " to " + name(p.out) + ", batch " + std::to_string(p.batch);
}
void check_status(const char *call, const Product *p, cublasStatus_t status) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    raise_library(call, int(status), p ? describe(*p) : std::string());
}
template <class In, class Out> void run_plain(const Product &p, cudaStream_t stream) {
    PlainProduct<In, Out> q{};
    q.a = static_cast<const In *>(p.a), q.b = static_cast<const In *>(p.b);
    q.c = static_cast<Out *>(p.c), q.bias = static_cast<const Out *>(p.bias);
    q.m = p.m, q.n = p.n, q.k = p.k;
    q.a_row = p.transpose_a ? 1 : p.a_pitch, q.a_column = p.transpose_a ? p.a_pitch : 1;
    q.b_row = p.transpose_b ? 1 : p.b_pitch, q.b_column = p.transpose_b ? p.b_pitch : 1;
    q.c_pitch = p.c_pitch;
    q.batch = p.batch, q.a_step = p.a_step, q.b_step = p.b_step, q.c_step = p.c_step;
    q.alpha = p.alpha, q.beta = p.beta;
    plain_product(q, stream);
}
void run_plain(const Product &p, cudaStream_t stream) {
    if (p.in == Type::Float) run_plain<float, float>(p, stream);
    else if (p.out == Type::Float) run_plain<bf16, float>(p, stream);
    else run_plain<bf16, bf16>(p, stream);
}
void tell_of_plain(const Product &p) {
    std::fprintf(stderr, "pgtrain: cuBLASLt has no algorithm for the product %s; a plain kernel does it, slowly\n", describe(p).c_str());
}
}  // namespace

struct Multiplier::Plan {
    const CublasLt *library = nullptr;
    cublasLtMatmulDesc_t description = nullptr;
    cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    bool is_plain = false;  // cuBLASLt does not serve it
    Plan() = default;
    Plan(const Plan &) = delete;
    ~Plan() {
        if (first) library->layout_destroy(first);
        if (second) library->layout_destroy(second);
        if (result) library->layout_destroy(result);
        if (description) library->description_destroy(description);
    }
};

Multiplier::Multiplier(const CublasLt &library, cudaStream_t stream, void *workspace, size_t workspace_bytes)
    : library_(library), stream_(stream), workspace_(workspace), workspace_bytes_(workspace_bytes) {
    check_status("cublasLtCreate", nullptr, library_.create(&handle_));
}
Multiplier::~Multiplier() {
    plans_.clear();
    if (handle_) library_.destroy(handle_);
}

// The product as the library sees it: column-major, so with A and B in each other's place.
void Multiplier::describe(const Product &p, Plan &plan) {
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
        check_status("cublasLtMatmulDescSetAttribute", &p, library_.description_set(plan.description, attribute, &value, sizeof value));
    };
    check_status("cublasLtMatmulDescCreate", &p, library_.description_create(&plan.description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias) {
        set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
        set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.out));
        set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    }
    const auto layout = [&](cublasLtMatrixLayout_t *made, Type type, int64_t rows, int64_t columns, int64_t pitch, int64_t step) {
        check_status("cublasLtMatrixLayoutCreate", &p, library_.layout_create(made, data_type(type), uint64_t(columns), uint64_t(rows), pitch));
        if (p.batch == 1) return;
        const int32_t count = int32_t(p.batch);
        check_status("cublasLtMatrixLayoutSetAttribute", &p,
                     library_.layout_set(*made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
        check_status("cublasLtMatrixLayoutSetAttribute", &p,
                     library_.layout_set(*made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step));
    };
    layout(&plan.first, p.in, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.b_pitch, p.b_step);
    layout(&plan.second, p.in, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, p.a_pitch, p.a_step);
    layout(&plan.result, p.out, p.m, p.n, p.c_pitch, p.c_step);
}

void Multiplier::choose_algorithm(const Product &p, const Alignments &alignments, Plan &plan) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_status("cublasLtMatmulPreferenceCreate", &p, library_.preference_create(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
        return library_.preference_set(preference, attribute, &value, sizeof value);
    };
    cublasLtMatmulHeuristicResult_t result{};
    int returned = 0;
    cublasStatus_t status = prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes_);
    if (!status) status = prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    if (!status) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(1) << alignments[1]);
    if (!status) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(1) << alignments[0]);
    if (!status) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(1) << alignments[2]);
    if (!status) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(1) << alignments[2]);
    if (!status)
        status = library_.heuristic(handle_, plan.description, plan.first, plan.second, plan.result, plan.result, preference, 1, &result, &returned);
    library_.preference_destroy(preference);
    if (!status && returned > 0) status = result.state;
    plan.is_plain = status == CUBLAS_STATUS_NOT_SUPPORTED || (!status && returned == 0);
    if (plan.is_plain) return tell_of_plain(p);
    check_status("cublasLtMatmulAlgoGetHeuristic", &p, status);
    plan.algorithm = result.algo;
}

Multiplier::Plan &Multiplier::plan_for(const Product &p) {
    const Alignments alignments = {alignment_bits(p.a), alignment_bits(p.b), alignment_bits(p.c)};
    // What an algorithm expects of the bias is taken from the pointer that the heuristic saw.
    const unsigned bias_alignment = p.bias ? alignment_bits(p.bias) : 0;
    const unsigned flags = unsigned(p.transpose_a) | unsigned(p.transpose_b) << 1 | unsigned(p.in) << 2 | unsigned(p.out) << 3 |
                           unsigned(p.beta != 0.0f) << 4 | bias_alignment << 5 | alignments[0] << 9 | alignments[1] << 13 | alignments[2] << 17;
    const Key key{p.m, p.n, p.k, p.a_pitch, p.b_pitch, p.c_pitch, p.batch, p.a_step, p.b_step, p.c_step, flags};
    if (const auto found = plans_.find(key); found != plans_.end()) return found->second;

    Plan &plan = plans_[key];
    plan.library = &library_;
    try {
        describe(p, plan);
        choose_algorithm(p, alignments, plan);
    } catch (...) {
        plans_.erase(key);
        throw;
    }
    return plan;
}

void Multiplier::run(const Product &p) {
    if (p.m == 0 || p.n == 0 || p.batch == 0) return;
    Plan &plan = plan_for(p);
    if (plan.is_plain) return run_plain(p, stream_);
    if (p.bias)
        check_status("cublasLtMatmulDescSetAttribute", &p,
                     library_.description_set(plan.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof p.bias));
    const cublasStatus_t status = library_.matmul(handle_, plan.description, &p.alpha, p.b, plan.first, p.a, plan.second, &p.beta, p.c, plan.result, p.c,
                                                  plan.result, &plan.algorithm, workspace_, workspace_bytes_, stream_);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) return check_status("cublasLtMatmul", &p, status);
    plan.is_plain = true;
    tell_of_plain(p);
    run_plain(p, stream_);
}
}  // namespace pgtrain::engine::backend::gpu
