// The ring of pinned buffers behind Backend::upload.
#include "engine/backend/cuda/staging.hpp"

#include <cstring>

namespace pgtrain::engine::backend::gpu {
Staging::Staging(cudaStream_t stream) : stream_(stream) {
    try {
        for (Slot &slot : slots_) {
            check("cudaMallocHost", cudaMallocHost(&slot.memory, kSlotBytes));
            check("cudaEventCreateWithFlags", cudaEventCreateWithFlags(&slot.passed, cudaEventDisableTiming));
        }
    } catch (...) {
        release();
        throw;
    }
}
Staging::~Staging() { release(); }
void Staging::release() {
    for (Slot &slot : slots_) {
        if (slot.passed) cudaEventDestroy(slot.passed);
        if (slot.memory) cudaFreeHost(slot.memory);
    }
}
void Staging::upload(void *to, const void *from, size_t bytes) {
    if (bytes > kSlotBytes) {  // weights and the like: rare, and worth neither pinning nor slicing
        check("cudaMemcpyAsync to the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_));
        check("cudaStreamSynchronize", cudaStreamSynchronize(stream_));
        return;
    }
    Slot &slot = slots_[next_];
    next_ = (next_ + 1) % kSlots;
    check("cudaEventSynchronize", cudaEventSynchronize(slot.passed));
    std::memcpy(slot.memory, from, bytes);
    check("cudaMemcpyAsync to the device", cudaMemcpyAsync(to, slot.memory, bytes, cudaMemcpyHostToDevice, stream_));
    check("cudaEventRecord", cudaEventRecord(slot.passed, stream_));
}
}  // namespace pgtrain::engine::backend::gpu
