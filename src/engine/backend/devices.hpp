// Which devices there are, why there are not more, and how one is opened. Called by the trainer and by tests.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.hpp"

namespace pgtrain::engine::backend {

struct DeviceList {
  std::vector<DeviceInfo> devices;  // CUDA devices first, then the CPU
  std::string cuda_reason;          // why there is no (further) CUDA device, in plain words; empty when there is one
};
DeviceList list_devices();

struct OpenOptions {
  int threads = 0;                      // CPU: 0 = as many as the machine has cores
  std::uint64_t memory_limit_bytes = 0; // 0 = what the device has
  std::string instruction_set = "";     // CPU: "x86-64-v2", "x86-64-v3" (both without bf16 products) or "" for the best there is
};
// name: "cpu" or "cuda:N". device_fault with the reason when it cannot be had.
std::unique_ptr<Backend> open(const std::string& name, const OpenOptions& options = {});

// The CPU backend, always there.
std::unique_ptr<Backend> open_cpu(const OpenOptions& options);

}  // namespace pgtrain::engine::backend
