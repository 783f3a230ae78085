// Element types of tensors on a device, and bf16 as storage: float cut to its upper 16 bits, rounded to nearest even.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace pgtrain::engine::core {

enum class DType : std::uint8_t { F32, Bf16, I32 };

constexpr std::size_t size_of(DType type) { return type == DType::Bf16 ? 2 : 4; }
constexpr const char* name_of(DType type) { return type == DType::F32 ? "fp32" : type == DType::Bf16 ? "bf16" : "int32"; }

// Storage only; arithmetic is done in float.
struct Bf16 {
  std::uint16_t bits = 0;
};

inline float to_float(Bf16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }
inline float to_float(float value) { return value; }
inline Bf16 to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};  // NaN stays NaN
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace pgtrain::engine::core
