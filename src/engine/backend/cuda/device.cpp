// Opens a device, finds out in plain words why one cannot be had, and turns failed CUDA calls into core::Error: out_of_memory
// with the numbers, device_fault naming the call.
#include "engine/backend/cuda/device.hpp"

#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
// What NVIDIA recommends for Hopper, and enough for the split-k algorithms of older cards.
constexpr size_t kWorkspaceBytes = size_t(32) << 20;
constexpr int kOldestMajor = 8;  // the kernels' tensor-core instructions exist since Ampere

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

std::string why_no_devices(cudaError_t error) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "no NVIDIA driver was found on this machine (libcuda.so.1)";
    if (error == cudaErrorInsufficientDriver)
        return "the NVIDIA driver is too old: it supports CUDA " + version_text(driver) + ", this build needs " + version_text(runtime);
    if (error == cudaErrorNoDevice) return "the NVIDIA driver sees no CUDA device";
    return std::string("the CUDA runtime cannot start: ") + cudaGetErrorName(error) + ": " + cudaGetErrorString(error);
}
std::string why_too_old(const cudaDeviceProp &p) {
    return std::string(p.name) + " has compute capability " + std::to_string(p.major) + "." + std::to_string(p.minor) + ", 8.0 is needed";
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
    throw core::Error("device_fault", "the CUDA device failed in " + std::string(call), what,
                      "The trainer cannot go on with this device in this process. Run again; if it fails again, look at the kernel log for Xid messages.");
}
void raise_library(const char *call, int status, const std::string &detail) {
    throw core::Error("device_fault", "cuBLASLt failed in " + std::string(call),
                      "status " + std::to_string(status) + (detail.empty() ? "" : " for the product " + detail),
                      "Run again; if it fails again, this version of cuBLASLt does not serve this device or shape.");
}

Found find_devices() {
    Found found;
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
        cudaGetLastError();
        found.why_not_more = why_no_devices(error == cudaSuccess ? cudaErrorNoDevice : error);
        return found;
    }
    for (int i = 0; i < count; i++) {
        cudaDeviceProp properties{};
        if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) found.devices.push_back(properties);
    }
    while (found.usable < found.devices.size() && found.devices[found.usable].major >= kOldestMajor) found.usable++;
    if (found.usable < found.devices.size()) found.why_not_more = "CUDA device " + std::to_string(found.usable) + ": " + why_too_old(found.devices[found.usable]);
    std::string why;
    if (!load_cublaslt(kCublasLtNames, &why)) {
        found.usable = 0;
        found.why_not_more = why;
    }
    return found;
}

Device::Device(int index) : index_(index) {
    const Found found = find_devices();
    const std::string name = "CUDA device " + std::to_string(index);
    if (index < 0 || size_t(index) >= found.devices.size())
        throw core::Error("device_fault", name + " does not exist", found.devices.empty() ? found.why_not_more : std::to_string(found.devices.size()) + " found");
    properties_ = found.devices[size_t(index)];
    if (properties_.major < kOldestMajor)
        throw core::Error("device_fault", name + " is too old", why_too_old(properties_),
                          "Run on the CPU, or on a device of the Ampere generation or later.");
    std::string why;
    const CublasLt *library = load_cublaslt(kCublasLtNames, &why);
    if (!library)
        throw core::Error("device_fault", "cuBLASLt is not installed", why, "Install NVIDIA's cuBLAS runtime library of CUDA 12 or 13 where the dynamic linker finds it.");
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
