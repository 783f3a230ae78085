// The inputs of test/fixtures/make_bf16_errors.py, made anew, and the errors that PyTorch's bf16 had on them.
#pragma once

#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/core/dtype.hpp"

namespace pgtrain::test {

struct StoredError {
  const char* name;
  double error;
};
inline constexpr StoredError kPyTorchErrors[] = {
#include "../fixtures/bf16_errors.inc"
};
// What is asked of our own error on the same inputs.
inline double allowed_bf16_error(const std::string& name) {
  for (const StoredError& stored : kPyTorchErrors)
    if (name == stored.name) return 1.2 * stored.error;
  throw std::runtime_error("bf16_errors.inc has no \"" + name + "\"");
}

inline std::uint64_t fixed_bits(std::uint64_t stream, std::uint64_t counter) {
  std::uint64_t z = ((stream << 32) + counter + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}
inline std::vector<float> fixed_values(std::uint64_t stream, std::int64_t count, double spread = 1, double middle = 0) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t z = fixed_bits(stream, static_cast<std::uint64_t>(i));
    double total = 0;
    for (int part = 0; part < 4; ++part) total += static_cast<double>(z >> (16 * part) & 0xFFFF);
    values.push_back(engine::core::to_float(engine::core::to_bf16(static_cast<float>((total / 65536 - 2) * 1.75 * spread + middle))));
  }
  return values;
}
inline std::vector<std::int32_t> fixed_numbers(std::uint64_t stream, std::int64_t count, std::uint64_t below) {
  std::vector<std::int32_t> numbers;
  for (std::int64_t i = 0; i < count; ++i) numbers.push_back(static_cast<std::int32_t>(fixed_bits(stream, static_cast<std::uint64_t>(i)) % below));
  return numbers;
}
// Document numbers of packed rows.
inline std::vector<std::int32_t> fixed_documents(std::uint64_t stream, std::int64_t batch, std::int64_t length) {
  std::vector<std::int32_t> numbers = fixed_numbers(stream, batch * length, 13);
  for (std::int64_t row = 0; row < batch; ++row) {
    std::int32_t number = 0;
    for (std::int64_t i = row * length; i < (row + 1) * length; ++i) numbers[static_cast<std::size_t>(i)] = number += numbers[static_cast<std::size_t>(i)] == 0;
  }
  return numbers;
}

}  // namespace pgtrain::test
