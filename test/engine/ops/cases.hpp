// Operation tests that any backend must pass: each case compares one operation with a double-precision reference on fresh
// random inputs and poisoned outputs. A test program links the cases, defines open_backend_under_test(), and runner.cpp
// runs them all. No test framework, so that the same program runs on a bare machine with a GPU.
// PGTRAIN_TEST_SEED repeats a run; a failure prints the seed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../reference.hpp"
#include "engine/backend/backend.hpp"

namespace pgtrain::test {
using engine::backend::Backend;
using engine::core::DType;

std::unique_ptr<Backend> open_backend_under_test();

struct Case {
  std::string name;
  std::function<void(Backend&)> run;
};
std::vector<Case>& all_cases();
struct AddCases {
  explicit AddCases(std::vector<Case> cases) {
    for (Case& c : cases) all_cases().push_back(std::move(c));
  }
};

std::mt19937_64& random_source();
inline int random_below(int n) { return int(random_source()() % std::uint64_t(n)); }

// Random numbers as the device will hold them: rounded to the type.
inline std::vector<float> random_values(DType type, std::int64_t count, float spread = 1.0f) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(std::size_t(count), 0.0f);
  for (float& v : values) {
    v = normal(random_source());
    if (type == DType::Bf16) v = engine::core::to_float(engine::core::to_bf16(v));
  }
  return values;
}

inline std::vector<double> widen(const std::vector<float>& values) { return {values.begin(), values.end()}; }

// Device memory of a test: given values, or poisoned with NaN.
class Buffer {
 public:
  Buffer(Backend& backend, DType type, const std::vector<float>& values) : Buffer(backend, type, std::int64_t(values.size())) { write(values); }
  Buffer(Backend& backend, DType type, std::int64_t count) : backend_(backend), type_(type), count_(std::size_t(count)) {
    memory_ = backend.allocate(bytes());
    write(std::vector<float>(count_, std::numeric_limits<float>::quiet_NaN()));
  }
  Buffer(Backend& backend, const std::vector<std::int32_t>& numbers) : backend_(backend), type_(DType::I32), count_(numbers.size()) {
    memory_ = backend.allocate(bytes());
    backend.upload(memory_, numbers.data(), bytes());
  }
  ~Buffer() { backend_.release(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* get() const { return memory_; }
  float* floats() const { return static_cast<float*>(memory_); }
  const std::int32_t* numbers() const { return static_cast<const std::int32_t*>(memory_); }
  std::size_t bytes() const { return count_ * engine::core::size_of(type_); }
  void write(const std::vector<float>& values) {
    if (type_ == DType::F32) return backend_.upload(memory_, values.data(), bytes());
    std::vector<engine::core::Bf16> narrow(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) narrow[i] = engine::core::to_bf16(values[i]);
    backend_.upload(memory_, narrow.data(), bytes());
  }
  std::vector<float> read() const {
    std::vector<float> values(count_);
    if (type_ == DType::F32) {
      backend_.download(values.data(), memory_, bytes());
      return values;
    }
    std::vector<engine::core::Bf16> narrow(count_);
    backend_.download(narrow.data(), memory_, bytes());
    for (std::size_t i = 0; i < count_; ++i) values[i] = engine::core::to_float(narrow[i]);
    return values;
  }

 private:
  Backend& backend_;
  DType type_;
  std::size_t count_;
  void* memory_ = nullptr;
};

// Relative L2 error; NaN anywhere is infinitely wrong.
inline double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = double(got[i]) - want[i];
    if (!(d == d)) return std::numeric_limits<double>::infinity();
    difference += d * d;
    size += want[i] * want[i];
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}
inline void expect_close(const std::string& what, const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
  if (got.size() != want.size()) throw std::runtime_error(what + ": the test compares different sizes");
  // The bars are for the mean over many roundings; a few elements may all be rounded the worst way.
  constexpr std::size_t kFew = 256;
  if (got.size() < kFew) tolerance *= 2;
  const double error = relative_error(got, want);
  if (error <= tolerance) return;
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, ": relative error %.3g, allowed %.3g", error, tolerance);
  throw std::runtime_error(what + numbers);
}
inline void expect(const std::string& what, bool holds) {
  if (!holds) throw std::runtime_error(what);
}

// Bars of the engine: one rounding forward, two in gradients; float sums otherwise.
inline double forward_bar(DType type) { return type == DType::Bf16 ? 2.5e-3 : 2e-6; }
inline double gradient_bar(DType type) { return type == DType::Bf16 ? 5e-3 : 5e-6; }
inline std::string type_name(DType type) { return engine::core::name_of(type); }
constexpr DType kTypes[] = {DType::F32, DType::Bf16};

}  // namespace pgtrain::test
