// cuBLASLt, found at run time: the backend loads without it and then says plainly that products cannot run. Libraries are
// NVIDIA's and never shipped. Only the calls that matmul.cpp makes are looked up.
#pragma once
#include <cublasLt.h>

#include <string>

#include "engine/backend/cuda/gpu.h"

namespace pgtrain::engine::backend::gpu {
struct CublasLt {
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtGetVersion) version;
    decltype(&cublasLtMatmulDescCreate) description_create;
    decltype(&cublasLtMatmulDescDestroy) description_destroy;
    decltype(&cublasLtMatmulDescSetAttribute) description_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&cublasLtMatmul) matmul;
};
// Null with the reason where no name of `names` (null-terminated list; an empty name is the program itself) can be opened or
// a call is missing. The library stays open for the life of the process.
const CublasLt *load_cublaslt(const char *const *names, std::string *why_not);
extern const char *const kCublasLtNames[];
}  // namespace pgtrain::engine::backend::gpu
