// Opens a device, finds out in plain words why one cannot be had, and turns failed CUDA calls into core::Error: out_of_memory
// with the numbers, device_fault naming the call.
#include "engine/backend/cuda/device.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
// What NVIDIA recommends for Hopper, and enough for the split-k algorithms of older cards.
constexpr size_t kWorkspaceBytes = size_t(32) << 20;
constexpr int kOldestMajor = 8;  // the kernels' tensor-core instructions exist since Ampere

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// What the driver's own "no device" or "unknown error" leaves unsaid: whether this account may open the driver's files.
std::string about_driver_files() {
    if (access("/dev/dxg", F_OK) == 0) return "";  // WSL2 has none of them
    std::string found;
    for (const char *file : {"/dev/nvidiactl", "/dev/nvidia-uvm"}) {
        const int descriptor = open(file, O_RDWR | O_CLOEXEC);
        if (descriptor < 0) found += std::string(found.empty() ? "; " : ", ") + file + ": " + std::strerror(errno);
        else close(descriptor);
    }
    if (!found.empty()) found += " (missing: root runs nvidia-modprobe -u -c=0; not permitted: the group of these files, or the service's device rules)";
    return found;
}
// Errors of starting CUDA whose remedy is known.
const char *remedy(cudaError_t error) {
    switch (error) {
        case cudaErrorSystemNotReady: return "; the machine's NVSwitch service is not ready: start nvidia-fabricmanager";
        case cudaErrorSystemDriverMismatch: return "; the driver's library and kernel module are of different versions: restart the machine";
        case cudaErrorDevicesUnavailable: return "; another program holds the device for itself (compute mode)";
        case cudaErrorOperatingSystem: return "; the system, a container or the trainer's sandbox refused what the driver needs";
        default: return "";
    }
}
std::string why_no_devices(cudaError_t error) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "no NVIDIA driver was found on this machine (libcuda.so.1)";
    if (error == cudaErrorInsufficientDriver)
        return "the NVIDIA driver is too old: it supports CUDA " + version_text(driver) + ", this build needs " + version_text(runtime) +
               "; install a newer driver, or build pgtrain with a CUDA toolkit of the driver's version";
    if (error == cudaErrorNoDevice) return "the NVIDIA driver sees no CUDA device" + about_driver_files();
    return std::string("the CUDA runtime cannot start: ") + cudaGetErrorName(error) + ": " + cudaGetErrorString(error) + remedy(error) + about_driver_files();
}
}  // namespace

void raise(const char *call, cudaError_t error) {
    cudaGetLastError();  // an error that is not sticky must not be seen again by the next check
    const std::string what = std::string(call) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error);
    if (error == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total_bytes = 0;
        cudaMemGetInfo(&free_bytes, &total_bytes);
        throw core::Error("out_of_memory", "the CUDA device has no memory left",
                          what + "; " + std::to_string(free_bytes >> 20) + " of " + std::to_string(total_bytes >> 20) + " MiB are free",
                          "Choose a smaller batch_size or context, or wait until other programs have left the device.");
    }
    throw core::Error("device_fault", "the CUDA device failed in " + std::string(call), what + remedy(error),
                      "The trainer cannot go on with this device in this process. Run again; if it fails again, look at the kernel log for Xid messages.");
}
void raise_library(const char *call, int status, const std::string &detail) {
    throw core::Error("device_fault", "cuBLASLt failed in " + std::string(call),
                      "status " + std::to_string(status) + (detail.empty() ? "" : " for the product " + detail),
                      "Run again; if it fails again, this version of cuBLASLt does not serve this device or shape.");
}

int count_devices(std::string *why_none) {
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
        cudaGetLastError();
        *why_none = why_no_devices(error == cudaSuccess ? cudaErrorNoDevice : error);
        return 0;
    }
    return load_cublaslt(kCublasLtNames, why_none) ? count : 0;
}
cudaDeviceProp describe_device(int index) {
    const std::string name = "CUDA device " + std::to_string(index);
    std::string why;
    const int count = count_devices(&why);
    if (count == 0) throw core::Error("device_fault", why);
    if (index < 0 || index >= count) throw core::Error("device_fault", name + " does not exist", std::to_string(count) + " found");
    cudaDeviceProp properties{};
    check("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, index));
    if (properties.major < kOldestMajor)
        throw core::Error("device_fault", name + " is too old",
                          std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                              ", 8.0 is needed");
    return properties;
}

Device::Device(int index) : index_(index), properties_(describe_device(index)) {
    std::string why;
    const CublasLt *library = load_cublaslt(kCublasLtNames, &why);
    if (!library) throw core::Error("device_fault", "cuBLASLt is not installed", why);
    try {
        activate();
        check("cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
        check("cudaMalloc", cudaMalloc(&scratch_, size_t(kScratchFloats) * sizeof(float)));
        check("cudaMalloc", cudaMalloc(&workspace_, kWorkspaceBytes));
        multiplier_ = std::make_unique<Multiplier>(*library, stream_, workspace_, kWorkspaceBytes);
    } catch (...) {
        release();
        throw;
    }
}
Device::~Device() { release(); }
void Device::release() {
    multiplier_.reset();
    if (workspace_) cudaFree(workspace_);
    if (scratch_) cudaFree(scratch_);
    if (stream_) cudaStreamDestroy(stream_);
}
void Device::activate() const { check("cudaSetDevice", cudaSetDevice(index_)); }
void Device::synchronize() const { check("cudaStreamSynchronize", cudaStreamSynchronize(stream_)); }
size_t Device::reserved_bytes() { return size_t(kScratchFloats) * sizeof(float) + kWorkspaceBytes; }
}  // namespace pgtrain::engine::backend::gpu
