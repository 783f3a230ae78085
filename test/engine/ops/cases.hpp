// Operation tests that any backend must pass: each case compares one operation with a double-precision reference on
// random inputs and poisoned outputs. A test program links the cases, defines open_backend_under_test(), and runner.cpp
// runs them all. No test framework, so that the same program runs on a bare machine with a GPU.
// PGTRAIN_TEST_SEED=n draws other inputs.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
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

// What a Buffer of numbers takes.
inline std::vector<std::int32_t> words_of(const engine::backend::RunNumbers& numbers) {
  std::vector<std::int32_t> words(sizeof numbers / sizeof(std::int32_t));
  std::memcpy(words.data(), &numbers, sizeof numbers);
  return words;
}
inline const engine::backend::RunNumbers* run_numbers(const Buffer& buffer) { return static_cast<const engine::backend::RunNumbers*>(buffer.get()); }

// Relative L2 error; NaN anywhere is infinitely wrong. `terms`: the size of what each result is a sum of, where so few are compared
// that their terms may cancel in all of them.
inline double relative_error(const std::vector<float>& got, const std::vector<double>& want, const std::vector<double>& terms = {}) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = double(got[i]) - want[i];
    if (!(d == d)) return std::numeric_limits<double>::infinity();
    difference += d * d;
    size += terms.empty() ? want[i] * want[i] : terms[i] * terms[i];
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}
inline void expect_close(const std::string& what, const std::vector<float>& got, const std::vector<double>& want, double tolerance, const std::vector<double>& terms = {}) {
  if (got.size() != want.size()) throw std::runtime_error(what + ": the test compares different sizes");
  // A value rounded to bf16 as well as can be is up to 2^-8 off, more than the bars, which are for the mean of many: of a few, all may be.
  constexpr std::size_t kFew = 256;
  constexpr double kLeastOfBf16 = 1e-3;
  if (tolerance > kLeastOfBf16 && got.size() < kFew) tolerance *= 2;
  const double error = relative_error(got, want, terms);
  if (error <= tolerance) return;
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, ": relative error %.3g, allowed %.3g", error, tolerance);
  throw std::runtime_error(what + numbers);
}
inline void expect(const std::string& what, bool holds) {
  if (!holds) throw std::runtime_error(what);
}

// Weights on the device in halves.
class HalvesBuffer {
 public:
  HalvesBuffer(Backend& backend, const std::vector<float>& values)
      : backend_(backend), count_(values.size()), floats_(backend, DType::F32, values), high_(backend, DType::Bf16, std::int64_t(count_)), low_(backend, DType::Bf16, std::int64_t(count_)) {
    backend_.split(get(), floats_.floats(), std::int64_t(count_));
  }
  engine::backend::Halves get() const { return {static_cast<engine::core::Bf16*>(high_.get()), static_cast<std::uint16_t*>(low_.get())}; }
  std::vector<float> read() {
    floats_.write(std::vector<float>(count_, std::numeric_limits<float>::quiet_NaN()));
    backend_.join(floats_.floats(), get(), std::int64_t(count_));
    return floats_.read();
  }
  std::vector<float> upper() const { return high_.read(); }
  void expect_rounded() {
    const auto whole = read(), high = upper();
    for (std::size_t i = 0; i < count_; ++i) expect("upper half of element " + std::to_string(i), high[i] == engine::core::to_float(engine::core::to_bf16(whole[i])));
  }

 private:
  Backend& backend_;
  std::size_t count_;
  Buffer floats_, high_, low_;
};

// Bars of the engine: one rounding forward, two in gradients; float sums otherwise.
inline double forward_bar(DType type) { return type == DType::Bf16 ? 2.5e-3 : 2e-6; }
inline double gradient_bar(DType type) { return type == DType::Bf16 ? 5e-3 : 5e-6; }
inline std::string type_name(DType type) { return engine::core::name_of(type); }
constexpr DType kTypes[] = {DType::F32, DType::Bf16};

}  // namespace pgtrain::test
