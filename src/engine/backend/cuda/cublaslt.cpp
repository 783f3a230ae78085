// Finds cuBLASLt with dlopen and looks up every call that matmul.cpp makes, or says which library or symbol was missing. Looked
// for where the dynamic linker looks, then where toolkits are installed without telling it (NVIDIA's .run installer).
#include "engine/backend/cuda/cublaslt.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>

namespace pgtrain::engine::backend::gpu {
#ifdef PGTRAIN_GPU_EMULATED
const char *const kCublasLtNames[] = {"", nullptr};  // the test program itself carries a stand-in
#else
// The header's own major version first: structures are the library's, sizes and enumerators have stayed since 11.
#define CUBLASLT_OF(major)                                                                                                              \
    "libcublasLt.so." #major, PGTRAIN_CUDA_LIBRARIES "/libcublasLt.so." #major, "/usr/local/cuda/lib64/libcublasLt.so." #major,           \
        "/usr/local/cuda-" #major "/lib64/libcublasLt.so." #major, "/opt/cuda/lib64/libcublasLt.so." #major
#if CUDART_VERSION >= 13000
const char *const kCublasLtNames[] = {CUBLASLT_OF(13), CUBLASLT_OF(12), nullptr};
#else
const char *const kCublasLtNames[] = {CUBLASLT_OF(12), CUBLASLT_OF(13), nullptr};
#endif
#endif

const CublasLt *load_cublaslt(const char *const *names, std::string *why_not) {
    void *library = nullptr;
    std::string tried;
    for (const char *const *name = names; *name && !library; name++) {
        if (**name == '/' && access(*name, F_OK) != 0) continue;
        library = dlopen(**name ? *name : nullptr, RTLD_NOW | RTLD_LOCAL);
        if (!library) tried += (tried.empty() ? "" : "; ") + std::string(dlerror());
    }
    if (!library) {
        *why_not = "cuBLASLt could not be opened: " + tried + "; install NVIDIA's cuBLAS of CUDA 12 or 13, or name its folder in LD_LIBRARY_PATH";
        return nullptr;
    }
    static CublasLt found;
    CublasLt calls{};
    bool complete = true;
    const auto look_up = [&](auto &pointer, const char *symbol) {
        void *address = dlsym(library, symbol);
        std::memcpy(&pointer, &address, sizeof pointer);
        if (!address && complete) {
            complete = false;
            *why_not = std::string("cuBLASLt has no ") + symbol;
        }
    };
    look_up(calls.create, "cublasLtCreate");
    look_up(calls.destroy, "cublasLtDestroy");
    look_up(calls.version, "cublasLtGetVersion");
    look_up(calls.description_create, "cublasLtMatmulDescCreate");
    look_up(calls.description_destroy, "cublasLtMatmulDescDestroy");
    look_up(calls.description_set, "cublasLtMatmulDescSetAttribute");
    look_up(calls.layout_create, "cublasLtMatrixLayoutCreate");
    look_up(calls.layout_destroy, "cublasLtMatrixLayoutDestroy");
    look_up(calls.layout_set, "cublasLtMatrixLayoutSetAttribute");
    look_up(calls.preference_create, "cublasLtMatmulPreferenceCreate");
    look_up(calls.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    look_up(calls.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    look_up(calls.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    look_up(calls.matmul, "cublasLtMatmul");
    if (!complete) return nullptr;
    found = calls;
    return &found;
}
}  // namespace pgtrain::engine::backend::gpu
