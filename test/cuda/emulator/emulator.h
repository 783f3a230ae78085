// Runs the CUDA backend's own sources on the CPU, for tests: a fiber per CUDA thread, one block at a time, barriers and
// warp operations as rendezvous that are checked by CUDA's rules. gpu.h includes it in place of CUDA's headers when
// PGTRAIN_GPU_EMULATED is defined; no kernel's source changes. It says nothing about speed, registers or a GPU's rounding.
#pragma once
#include <functional>
#include <memory>
#include <tuple>
#include <utility>

#include "warp.h"

#define GPU_DYNAMIC_SHARED(T, name) T *name = static_cast<T *>(emu::dynamic_shared())

namespace emu {
// A launch with its arguments copied, as the GPU copies them: a host variable that dies before the kernel runs is harmless,
// a host buffer that does is not.
struct Kernel {
    const void *function = nullptr;
    const char *arguments_begin = nullptr, *arguments_end = nullptr;
    virtual void run_thread() = 0;
    virtual ~Kernel() = default;
};
template <class... P> struct BoundKernel final : Kernel {
    void (*body)(P...);
    std::tuple<P...> arguments;
    template <class... A> explicit BoundKernel(void (*f)(P...), A &&...a) : body(f), arguments(static_cast<P>(a)...) {
        function = reinterpret_cast<const void *>(f);
        arguments_begin = reinterpret_cast<const char *>(this);
        arguments_end = arguments_begin + sizeof *this;
    }
    void run_thread() override {
        std::apply([this](const P &...a) { body(a...); }, arguments);
    }
};
void submit(std::unique_ptr<Kernel> kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream);

// A library (the fake cuBLASLt) that reads and writes device memory from host code does it inside a scope and says what it
// touches; queue() puts its work on a stream as the real one does.
struct DeviceScope {
    DeviceScope();
    ~DeviceScope();
};
void note_access(const void *p, size_t bytes, bool write);
void queue(cudaStream_t stream, std::function<void()> work);
bool take_failure(const char *call, cudaError_t *error);  // true once where a test asked this call to fail
}  // namespace emu
