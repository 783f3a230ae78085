// The one door to CUDA for kernels and for the host code beside them: CUDA's own headers, or in tests the emulation that
// runs the same sources on the CPU (test/cuda/emulator). Rules for kernels are in docs/adding-a-kernel.md and hold because
// both sides must understand them: launch only through gpu::launch, no early return before a barrier, shared memory static
// or by GPU_DYNAMIC_SHARED, vector access by load_vector/store_vector, 16-bit types only stored, never calculated in.
#pragma once
#ifdef PGTRAIN_GPU_EMULATED
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace pgtrain::engine::backend::gpu {
using bf16 = __nv_bfloat16;

// Turns a failed CUDA call into the engine's error, naming the call (device.cpp).
[[noreturn]] void raise(const char *call, cudaError_t error);
// The same for a library call with its own status number; `detail` says of what.
[[noreturn]] void raise_library(const char *call, int status, const std::string &detail);
inline void check(const char *call, cudaError_t error) {
    if (error != cudaSuccess) raise(call, error);
}

#ifdef PGTRAIN_GPU_EMULATED
template <class... P, class... A>
void launch(const char *, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A &&...arguments) {
    emu::submit(std::make_unique<emu::BoundKernel<P...>>(kernel, std::forward<A>(arguments)...), grid, block, shared_bytes, stream);
}
#elif defined(__CUDACC__)
#define GPU_DYNAMIC_SHARED(T, name)                                     \
    extern __shared__ __align__(16) unsigned char gpu_dynamic_shared[]; \
    T *name = reinterpret_cast<T *>(gpu_dynamic_shared)
template <class... P, class... A>
void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A &&...arguments) {
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(arguments)...);
    check(name, cudaGetLastError());
}
#endif

inline unsigned blocks_for(int64_t items, int64_t per_block) { return unsigned((items + per_block - 1) / per_block); }
}  // namespace pgtrain::engine::backend::gpu
