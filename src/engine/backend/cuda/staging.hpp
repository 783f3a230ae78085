// Uploads that return at once: small host buffers are copied to pinned memory first and travel while the host goes on, so that
// feeding the next batch does not wait for the step before. A slot is used again only when its last copy has passed.
#pragma once
#include <array>

#include "engine/backend/cuda/gpu.h"

namespace pgtrain::engine::backend::gpu {
class Staging {
  public:
    explicit Staging(cudaStream_t stream);
    ~Staging();
    Staging(const Staging &) = delete;
    Staging &operator=(const Staging &) = delete;
    void upload(void *to, const void *from, size_t bytes);

  private:
    static constexpr size_t kSlotBytes = size_t(1) << 20, kSlots = 4;
    struct Slot {
        void *memory = nullptr;
        cudaEvent_t passed = nullptr;
    };
    void release();
    cudaStream_t stream_;
    std::array<Slot, kSlots> slots_;
    size_t next_ = 0;
};
}  // namespace pgtrain::engine::backend::gpu
