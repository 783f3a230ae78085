// libpgtrain_cuda.so as built by nvcc, opened the way the engine opens it: it must load on a machine with neither driver nor
// cuBLASLt, export its entry points, and say in plain words why there is no device (or how many there are).
// Usage: module_test PATH
#include <dlfcn.h>

#include <cstdio>
#include <memory>

#include "engine/backend/backend.hpp"

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    void *module = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!module) return std::printf("[  FAILED  ] %s\n", dlerror()), 1;
    const auto count = reinterpret_cast<decltype(&pgtrain_cuda_count)>(dlsym(module, "pgtrain_cuda_count"));
    const auto open = reinterpret_cast<decltype(&pgtrain_cuda_open_6)>(dlsym(module, "pgtrain_cuda_open_6"));
    const auto describe = reinterpret_cast<decltype(&pgtrain_cuda_describe)>(dlsym(module, "pgtrain_cuda_describe"));
    if (!count || !open || !describe) return std::printf("[  FAILED  ] an entry point is missing\n"), 1;
    char error[512] = "";
    const int devices = count(error, sizeof error);
    std::printf("%d devices; %s\n", devices, error);
    if (devices == 0 && !error[0]) return std::printf("[  FAILED  ] no device and no reason\n"), 1;
    error[0] = 0;
    pgtrain::engine::backend::DeviceInfo info;
    if (describe(devices, &info, error, sizeof error) || !error[0]) return std::printf("[  FAILED  ] a device that is not there was described\n"), 1;
    error[0] = 0;
    const std::unique_ptr<pgtrain::engine::backend::Backend> backend(open(devices, 0, error, sizeof error));  // one past the last
    if (backend || !error[0]) return std::printf("[  FAILED  ] a device that is not there was opened\n"), 1;
    std::printf("%s\n[  PASSED  ] 1 tests.\n", error);
    return 0;
}
