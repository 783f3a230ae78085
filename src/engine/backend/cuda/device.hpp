// One opened CUDA device: its stream, its scratch memory, its cuBLASLt. Everything the backend queues goes to this one stream,
// so operations are ordered as they are called and results do not depend on timing. Used from one thread.
#pragma once
#include <memory>
#include <string>

#include "engine/backend/cuda/kernels.hpp"
#include "engine/backend/cuda/matmul.hpp"

namespace pgtrain::engine::backend::gpu {
class Device {
  public:
    explicit Device(int index);  // throws core::Error: device_fault with the reason, out_of_memory
    ~Device();
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;

    cudaStream_t stream() const { return stream_; }
    float *scratch() const { return scratch_; }
    Multiplier &multiplier() { return *multiplier_; }
    const cudaDeviceProp &properties() const { return properties_; }
    void activate() const;      // makes it the calling thread's device
    void synchronize() const;   // waits for everything queued; a kernel's fault surfaces here
    static size_t reserved_bytes();  // device memory that an opened device holds for itself

  private:
    void release();
    int index_;
    cudaDeviceProp properties_{};
    cudaStream_t stream_ = nullptr;
    float *scratch_ = nullptr;
    void *workspace_ = nullptr;
    std::unique_ptr<Multiplier> multiplier_;
};

// How many devices the driver shows; 0 with the reason in plain words: no driver, driver too old, no device, cuBLASLt missing.
int count_devices(std::string *why_none);
// What device `index` is, or core::Error saying why it cannot be used. Takes no memory of the device and no turn on it, so
// that a device which another program fills is found all the same.
cudaDeviceProp describe_device(int index);
}  // namespace pgtrain::engine::backend::gpu
