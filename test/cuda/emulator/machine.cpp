// The machine the emulation pretends to be: how many devices, which driver, how much memory, and which call fails next.
// Tests set it to see that the backend names the reason when there is no device, an old driver, or a fault.
#include <cstdio>
#include <map>

#include "core.hpp"

namespace emu {
void set_memory_limit(size_t bytes);
size_t memory_limit();
namespace {
struct Machine {
    int devices = 1, driver_version = 13000, compute_major = 9, first_major = 0;
    cudaError_t last_error = cudaSuccess;
    struct Failure {
        cudaError_t error;
        int after;
    };
    std::map<std::string, Failure> failures;
};
Machine g;
}  // namespace

bool take_failure(const char *call, cudaError_t *error) {
    const auto found = g.failures.find(call);
    if (found == g.failures.end() || found->second.after-- > 0) return false;
    *error = g.last_error = found->second.error;
    g.failures.erase(found);
    return true;
}
}  // namespace emu

using emu::g;
void emu_control::set_machine(int devices, int driver_version, int compute_major, size_t memory_bytes, int first_major) {
    g.devices = devices;
    g.driver_version = driver_version;
    g.compute_major = compute_major;
    g.first_major = first_major;
    emu::set_memory_limit(memory_bytes);
}
void emu_control::fail_next(const std::string &call, cudaError_t error, int after) { g.failures[call] = {error, after}; }

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    cudaError_t injected;
    if (emu::take_failure("cudaGetDeviceCount", &injected)) return injected;
    if (g.driver_version < 13000) return cudaErrorInsufficientDriver;
    if (g.devices == 0) return cudaErrorNoDevice;
    *count = g.devices;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    cudaError_t injected;
    if (emu::take_failure("cudaSetDevice", &injected)) return injected;
    return device >= 0 && device < g.devices ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    cudaError_t injected;
    if (emu::take_failure("cudaGetDeviceProperties", &injected)) return injected;
    if (device < 0 || device >= g.devices) return cudaErrorInvalidDevice;
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "emulated CUDA device %d", device);
    properties->totalGlobalMem = emu::memory_limit();
    properties->major = device == 0 && g.first_major ? g.first_major : g.compute_major;
    properties->multiProcessorCount = 4;
    properties->sharedMemPerBlockOptin = 99 << 10;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = g.driver_version;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaGetLastError() {
    const cudaError_t error = g.last_error;
    g.last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError() { return g.last_error; }
const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
        case cudaErrorOperatingSystem: return "cudaErrorOperatingSystem";
        case cudaErrorSystemNotReady: return "cudaErrorSystemNotReady";
        case cudaErrorNoDevice: return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
        case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
        case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
        default: return "cudaErrorUnknown";
    }
}
const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
