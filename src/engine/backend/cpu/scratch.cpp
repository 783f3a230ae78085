// Per-thread memory of the kernels, and the choice of instruction set, see kernels.hpp.
#include "engine/backend/cpu/kernels.hpp"

#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::cpu {

float* Scratch::floats(int thread, std::size_t count) {
  std::vector<float>& memory = memory_[static_cast<std::size_t>(thread)].memory;
  constexpr std::size_t kSlack = 16;  // floats in 64 bytes
  if (memory.size() < count + kSlack) memory.resize(count + kSlack);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (64 - address % 64) % 64 / sizeof(float);
}

const Kernels& find_kernels(const std::string& instruction_set) {
  __builtin_cpu_init();
  const bool has_v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool has_v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const auto is_asked = [&](const char* name) { return instruction_set.empty() || instruction_set == name; };
  if (has_v4 && is_asked("x86-64-v4")) return kernels_v4();
  if (has_v3 && is_asked("x86-64-v3")) return kernels_v3();
  if (has_v2 && is_asked("x86-64-v2")) return kernels_v2();
  throw core::Error("config_invalid", "this processor cannot run the kernels for " + (instruction_set.empty() ? "x86-64-v2" : instruction_set), "",
                    "Instruction sets are x86-64-v2, x86-64-v3 and x86-64-v4.");
}

}  // namespace pgtrain::engine::backend::cpu
