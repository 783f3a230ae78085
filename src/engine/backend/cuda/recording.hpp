// Calls of the backend kept as a CUDA graph: what a training step queues in thousands of launches is then one.
#pragma once
#include <functional>
#include <memory>

#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/gpu.h"

namespace pgtrain::engine::backend::gpu {
// Nothing of `calls` is done; null, with the reason told once on standard error, where no graph can be made of them. Replays go on as
// long as `holds`.
std::unique_ptr<Recording> record(cudaStream_t stream, const std::function<void()> &calls, std::function<bool()> holds);
bool is_recording(cudaStream_t stream);
}  // namespace pgtrain::engine::backend::gpu
