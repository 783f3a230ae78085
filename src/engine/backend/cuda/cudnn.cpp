// Finds cuDNN with dlopen, where the dynamic linker and toolkits put it, and refuses versions whose attention is known to be wrong.
#include "engine/backend/cuda/cudnn.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>

namespace pgtrain::engine::backend::gpu::cudnn {
#ifdef PGTRAIN_GPU_EMULATED
const char *const kNames[] = {"", nullptr};  // the test program itself carries a stand-in
#else
const char *const kNames[] = {"libcudnn.so.9", PGTRAIN_CUDA_LIBRARIES "/libcudnn.so.9", "/usr/local/cuda/lib64/libcudnn.so.9", "/opt/cuda/lib64/libcudnn.so.9",
                              nullptr};
#endif

namespace {
// 9.10.0 and 9.10.1 have wrong attention gradients; those before write another mask than the one that we give.
constexpr size_t kOldest = 91002;
constexpr size_t kNextMajor = 100000;
}  // namespace

std::string version_text(const Library &library) {
    const size_t v = library.version();
    return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

const Library *load(const char *const *names, std::string *why_not) {
    void *opened = nullptr;
    std::string tried;
    for (const char *const *name = names; *name && !opened; name++) {
        if (**name == '/' && access(*name, F_OK) != 0) continue;
        opened = dlopen(**name ? *name : nullptr, RTLD_NOW | RTLD_LOCAL);
        if (!opened) tried += (tried.empty() ? "" : "; ") + std::string(dlerror());
    }
    if (!opened) {
        *why_not = "cuDNN could not be opened: " + tried;
        return nullptr;
    }
    static Library found;
    Library calls{};
    bool complete = true;
    const auto look_up = [&](auto &pointer, const char *symbol) {
        void *address = dlsym(opened, symbol);
        std::memcpy(&pointer, &address, sizeof pointer);
        if (!address && complete) {
            complete = false;
            *why_not = std::string("cuDNN has no ") + symbol;
        }
    };
    look_up(calls.version, "cudnnGetVersion");
    look_up(calls.last_error, "cudnnGetLastErrorString");
    look_up(calls.create, "cudnnCreate");
    look_up(calls.destroy, "cudnnDestroy");
    look_up(calls.set_stream, "cudnnSetStream");
    look_up(calls.create_descriptor, "cudnnBackendCreateDescriptor");
    look_up(calls.destroy_descriptor, "cudnnBackendDestroyDescriptor");
    look_up(calls.finalize, "cudnnBackendFinalize");
    look_up(calls.set, "cudnnBackendSetAttribute");
    look_up(calls.get, "cudnnBackendGetAttribute");
    look_up(calls.execute, "cudnnBackendExecute");
    if (!complete) return nullptr;
    if (const size_t version = calls.version(); version < kOldest || version >= kNextMajor) {
        *why_not = "cuDNN is " + version_text(calls) + "; a 9 from 9.10.2 on is needed";
        return nullptr;
    }
    found = calls;
    return &found;
}
}  // namespace pgtrain::engine::backend::gpu::cudnn
