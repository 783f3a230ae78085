// See workers.hpp. `round_` counts calls and is what sleepers wait on; `running_` counts those who have not ended yet.
#include "engine/backend/cpu/workers.hpp"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::cpu {
namespace {

// About 20 microseconds: longer than the gap between two operations of a step, shorter than a time slice by far.
constexpr int kSpins = 1000;

// Returns when value is no longer `old`.
void await(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    __builtin_ia32_pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

Workers::Workers(int count) {
  try {
    for (int number = 1; number < count; ++number) threads_.emplace_back([this, number] { work(number); });
  } catch (const std::system_error& error) {
    stop();
    throw core::Error("out_of_memory", "the system refused to start " + std::to_string(count - 1) + " threads", error.what(), "Lower the setting threads.");
  }
}

Workers::~Workers() { stop(); }

void Workers::stop() noexcept {
  function_ = nullptr;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::work(int number) {
  for (std::uint32_t seen = 0;; ++seen) {
    await(round_, seen);
    if (function_ == nullptr) return;
    attempt(number);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void Workers::attempt(int number) {
  try {
    function_(argument_, number);
  } catch (...) {
    const std::lock_guard lock(failure_mutex_);
    if (failure_ == nullptr) failure_ = std::current_exception();
  }
}

void Workers::call(Function function, void* argument) {
  if (threads_.empty()) return function(argument, 0);
  function_ = function;
  argument_ = argument;
  running_.store(static_cast<std::uint32_t>(threads_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  attempt(0);
  for (std::uint32_t left = running_.load(std::memory_order_acquire); left != 0; left = running_.load(std::memory_order_acquire)) await(running_, left);
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace pgtrain::engine::backend::cpu
