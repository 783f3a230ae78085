// A stand-in for cuBLASLt in the emulated build: does what the documentation says (column-major), refuses what it says is
// refused, and checks that an algorithm is used only as its heuristic was asked: shapes, epilogue, alignment, workspace.
// It repeats our reading of the documentation; speed and the real library's rounding are not its subject.
#include <cstring>
#include <vector>

#include "cublasLt.h"

struct FakeHandle {};
struct FakeDescription {
    cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = nullptr;
    cudaDataType_t bias_type = CUDA_R_32F;
};
struct FakeLayout {
    cudaDataType_t type;
    int64_t rows, columns, ld;
    int32_t batch = 1;
    int64_t step = 0;
};
struct FakePreference {
    uint64_t workspace = 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    uint32_t alignment[4] = {256, 256, 256, 256};
};

namespace {
constexpr size_t kWorkspaceUsed = 4096;
constexpr int64_t kPart = 8;
size_t bytes_of(cudaDataType_t t) { return t == CUDA_R_32F ? 4 : 2; }
float value_at(const void *p, int64_t i, cudaDataType_t t) {
    return t == CUDA_R_32F ? static_cast<const float *>(p)[i] : __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i]);
}
template <class T> bool take(T *to, const void *value, size_t bytes) {
    if (bytes != sizeof *to) return false;
    std::memcpy(to, value, bytes);
    return true;
}
cublasStatus_t verdict(bool good) { return good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE; }

struct Sizes {
    int64_t m, n, k;
    bool valid;
};
Sizes sizes_of(const FakeDescription &d, const FakeLayout &a, const FakeLayout &b, const FakeLayout &c) {
    const bool at = d.a == CUBLAS_OP_T, bt = d.b == CUBLAS_OP_T;
    const int64_t m = at ? a.columns : a.rows, k = at ? a.rows : a.columns, n = bt ? b.rows : b.columns, k2 = bt ? b.columns : b.rows;
    const bool lds = a.ld >= a.rows && b.ld >= b.rows && c.ld >= c.rows;
    const bool batches = a.batch == b.batch && a.batch == c.batch;
    return {m, n, k, lds && batches && k == k2 && c.rows == m && c.columns == n && a.type == b.type && m > 0 && n > 0 && k > 0};
}
// What the heuristic promised, kept in the algorithm and checked at the call.
struct Promise {
    int64_t m, n, k;
    uint32_t epilogue;
    uint16_t alignment[4];
    uint16_t bias_alignment;
    bool may_round_parts;  // sums over parts of k may be kept in the result's type
};
uint16_t alignment_of(const void *p) {
    uint16_t bytes = 1;
    while (bytes < 256 && reinterpret_cast<uintptr_t>(p) % (bytes * 2) == 0) bytes *= 2;
    return bytes;
}
constexpr uint16_t kBiasVector = 16;
static_assert(sizeof(Promise) <= sizeof(cublasLtMatmulAlgo_t));

// One matrix of the batch, as float, [rows, columns] row by row after `transposed`; notes what it reads.
std::vector<float> read_matrix(const void *base, const FakeLayout &l, int64_t batch, bool transposed) {
    const char *p = static_cast<const char *>(base) + size_t(batch * l.step) * bytes_of(l.type);
    std::vector<float> values(size_t(l.rows * l.columns));
    for (int64_t column = 0; column < l.columns; column++) {
        emu::note_access(p + size_t(column * l.ld) * bytes_of(l.type), size_t(l.rows) * bytes_of(l.type), false);
        for (int64_t row = 0; row < l.rows; row++)
            values[size_t(transposed ? column * l.rows + row : row * l.columns + column)] = value_at(p, row + column * l.ld, l.type);
    }
    return values;
}
void multiply(const FakeDescription &d, float alpha, const void *a, const FakeLayout &la, const void *b, const FakeLayout &lb, float beta, void *out,
              const FakeLayout &lc, Sizes s, bool rounds_parts) {
    emu::DeviceScope scope;
    std::vector<float> bias;
    if (d.epilogue == CUBLASLT_EPILOGUE_BIAS) bias = read_matrix(d.bias, {d.bias_type, s.m, 1, s.m}, 0, false);
    for (int64_t batch = 0; batch < la.batch; batch++) {
        const auto left = read_matrix(a, la, batch, d.a == CUBLAS_OP_T);                            // [m, k]
        const auto right = read_matrix(b, lb, batch, d.b == CUBLAS_OP_N);                           // [n, k]
        const auto old = beta != 0 ? read_matrix(out, lc, batch, false) : std::vector<float>();     // [m, n]
        char *to = static_cast<char *>(out) + size_t(batch * lc.step) * bytes_of(lc.type);
        for (int64_t j = 0; j < s.n; j++) {
            emu::note_access(to + size_t(j * lc.ld) * bytes_of(lc.type), size_t(s.m) * bytes_of(lc.type), true);
            for (int64_t i = 0; i < s.m; i++) {
                float sum = 0;
                float part = 0;
                for (int64_t k = 0; k < s.k; k++) {
                    part += left[size_t(i * s.k + k)] * right[size_t(j * s.k + k)];
                    if (k + 1 != s.k && (k + 1) % kPart != 0) continue;
                    sum += part;
                    part = 0;
                    if (rounds_parts && lc.type == CUDA_R_16BF) sum = __bfloat162float(__float2bfloat16(sum));
                }
                sum = alpha * sum + (beta != 0 ? beta * old[size_t(i * s.n + j)] : 0.0f) + (bias.empty() ? 0.0f : bias[size_t(i)]);
                const int64_t at = i + j * lc.ld;
                if (lc.type == CUDA_R_32F) reinterpret_cast<float *>(to)[at] = sum;
                else reinterpret_cast<__nv_bfloat16 *>(to)[at] = __float2bfloat16(sum);
            }
        }
    }
}
}  // namespace

extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return *handle = new FakeHandle, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return delete handle, CUBLAS_STATUS_SUCCESS; }
size_t cublasLtGetVersion() { return 130000; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *made, cublasComputeType_t compute, cudaDataType_t scale) {
    *made = new FakeDescription;
    return verdict(compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return delete d, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA: return verdict(take(&d->a, value, bytes));
        case CUBLASLT_MATMUL_DESC_TRANSB: return verdict(take(&d->b, value, bytes));
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return verdict(take(&d->epilogue, value, bytes));
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return verdict(take(&d->bias, value, bytes));
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return verdict(take(&d->bias_type, value, bytes));
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *made, cudaDataType_t type, uint64_t rows, uint64_t columns, int64_t ld) {
    *made = new FakeLayout{type, int64_t(rows), int64_t(columns), ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return delete layout, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t attribute, const void *value, size_t bytes) {
    if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return verdict(take(&l->batch, value, bytes));
    return verdict(take(&l->step, value, bytes));
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *made) { return *made = new FakePreference, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return delete preference, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes) {
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return verdict(take(&p->workspace, value, bytes));
    if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return verdict(take(&p->reductions, value, bytes));
    return verdict(take(&p->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes));
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t out, cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *returned) {
    const Sizes s = sizes_of(*d, *a, *b, *out);
    *returned = 0;
    if (!s.valid || wanted < 1 || c->type != out->type) return CUBLAS_STATUS_INVALID_VALUE;
    if (a->type == CUDA_R_32F && out->type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    cudaError_t injected;
    if (preference->workspace < kWorkspaceUsed || emu::take_failure("cublasLtMatmulAlgoGetHeuristic", &injected)) return CUBLAS_STATUS_SUCCESS;
    if (d->epilogue == CUBLASLT_EPILOGUE_BIAS && alignment_of(d->bias) < kBiasVector) return CUBLAS_STATUS_NOT_SUPPORTED;
    Promise promise{s.m, s.n, s.k, uint32_t(d->epilogue), {}, alignment_of(d->bias), preference->reductions > CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE};
    for (int i = 0; i < 4; i++) promise.alignment[i] = uint16_t(preference->alignment[i]);
    std::memcpy(&results[0].algo, &promise, sizeof promise);
    results[0].workspaceSize = kWorkspaceUsed;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    *returned = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha, const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c, cublasLtMatrixLayout_t, void *out, cublasLtMatrixLayout_t lc,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream) {
    const Sizes s = sizes_of(*d, *la, *lb, *lc);
    Promise promise;
    std::memcpy(&promise, algorithm, sizeof promise);
    const void *pointers[4] = {a, b, c, out};
    bool good = s.valid && promise.m == s.m && promise.n == s.n && promise.k == s.k && promise.epilogue == uint32_t(d->epilogue) && workspace &&
                workspace_bytes >= kWorkspaceUsed && (d->epilogue != CUBLASLT_EPILOGUE_BIAS || d->bias);
    if (d->epilogue == CUBLASLT_EPILOGUE_BIAS) good = good && reinterpret_cast<uintptr_t>(d->bias) % promise.bias_alignment == 0;
    for (int i = 0; i < 4; i++) good = good && reinterpret_cast<uintptr_t>(pointers[i]) % promise.alignment[i] == 0;
    if (!good) return CUBLAS_STATUS_INVALID_VALUE;
    cudaError_t injected;
    if (emu::take_failure("cublasLtMatmul", &injected))
        return injected == cudaErrorInvalidConfiguration ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_EXECUTION_FAILED;
    const float scale = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
    const bool rounds_parts = promise.may_round_parts;
    emu::queue(stream, [=, d = *d, la = *la, lb = *lb, lc = *lc] { multiply(d, scale, a, la, b, lb, keep, out, lc, s, rounds_parts); });
    return CUBLAS_STATUS_SUCCESS;
}
}
