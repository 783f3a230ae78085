// Element types of tensors on a device; bf16 (a float cut to its upper 16 bits) and IEEE half as storage, rounded to nearest even.
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

// A float as the bf16 nearest to it and 16 bits that tell how far it is from there, in units in its last place. To an even bf16 65537
// floats round, one more than 16 bits tell apart: of the two halfway ones that which lies nearer to zero comes back one unit larger in
// magnitude. All others come back as they were; NaN as NaN.
struct Halves {
  Bf16 high;
  std::uint16_t low;
};
constexpr std::int32_t kHalfRange = 0x7FFF;
inline Halves split(float value) {
  const Bf16 high = to_bf16(value);
  const auto rest = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(value) - (std::uint32_t{high.bits} << 16));
  const std::int32_t kept = rest < -kHalfRange ? -kHalfRange : rest > kHalfRange + 1 ? kHalfRange + 1 : rest;
  return {high, static_cast<std::uint16_t>(kept + kHalfRange)};
}
inline float join(Halves value) {
  return std::bit_cast<float>((std::uint32_t{value.high.bits} << 16) + value.low - static_cast<std::uint32_t>(kHalfRange));
}

inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half} >> 15 << 31, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

inline std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));  // NaN stays NaN
  if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // 65520 and above
  if (magnitude < 0x38800000u) {
    // Below the smallest normal half: the sum with 2^-1 has the wanted bits at its end, rounded by the addition itself.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u));
  }
  const std::uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace pgtrain::engine::core
