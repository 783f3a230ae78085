// A backend in which what nobody reads any more is NaN at once, so that a lifetime that is too short shows in the results.
#pragma once

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/train/measured_backend.hpp"

namespace pgtrain::engine {

struct OwnedBackend {
  std::unique_ptr<backend::Backend> owned;
};

class PoisonedBackend final : OwnedBackend, public train::MeasuredBackend {
 public:
  explicit PoisonedBackend(std::unique_ptr<backend::Backend> inner) : OwnedBackend{std::move(inner)}, MeasuredBackend(*owned) {}

  void forget(void* memory, std::size_t bytes) override {
    if (poison_.size() < bytes) poison_.resize(bytes, '\xff');
    upload(memory, poison_.data(), bytes);
    forgotten_ += bytes;
  }
  std::uint64_t forgotten_bytes() const { return forgotten_; }

 private:
  std::vector<char> poison_;
  std::uint64_t forgotten_ = 0;
};

inline std::unique_ptr<PoisonedBackend> open_poisoned(const backend::OpenOptions& options = {}) { return std::make_unique<PoisonedBackend>(backend::open("cpu", options)); }

}  // namespace pgtrain::engine
