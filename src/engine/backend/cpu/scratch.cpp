// Per-thread memory of the kernels, and the choice of instruction set, see kernels.hpp.
#include "engine/backend/cpu/kernels.hpp"

namespace pgtrain::engine::backend::cpu {

float* Scratch::floats(int thread, std::size_t count) {
  std::vector<float>& memory = memory_[static_cast<std::size_t>(thread)].memory;
  constexpr std::size_t kSlack = 16;  // floats in 64 bytes
  if (memory.size() < count + kSlack) memory.resize(count + kSlack);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (64 - address % 64) % 64 / sizeof(float);
}

const Kernels& best_kernels() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
    return kernels_v4();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return kernels_v3();
  return kernels_v2();
}

}  // namespace pgtrain::engine::backend::cpu
