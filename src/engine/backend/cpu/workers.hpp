// The threads of one CPU backend. A call runs the same function on each of them, the caller being number 0, and returns when
// all have ended. They wait by spinning for some microseconds and then sleep, so that a machine which is busy with other
// work (a database host always is) does not lose its cores to waiting. The first exception is raised again in the caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace pgtrain::engine::backend::cpu {

class Workers {
 public:
  explicit Workers(int count);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int count() const { return static_cast<int>(threads_.size()) + 1; }

  // body(number) for each number in [0, count()).
  template <class Body>
  void run(Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    call([](void* it, int number) { (*static_cast<Plain*>(it))(number); }, const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Function = void (*)(void*, int);
  void call(Function function, void* argument);
  void work(int number);
  void attempt(int number);
  void stop() noexcept;

  std::vector<std::thread> threads_;
  std::atomic<std::uint32_t> round_{0}, running_{0};
  Function function_ = nullptr;  // null: leave
  void* argument_ = nullptr;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace pgtrain::engine::backend::cpu
