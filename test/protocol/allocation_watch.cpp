// allocation_watch.cpp: operator new that notes the largest request. In a file of its own, so that the compiler cannot
// look through the replacement and warn of malloc and delete as a wrong pair.
#include "protocol/allocation_watch.hpp"

#include <cstdlib>
#include <new>

namespace pgtrain::protocol::test {
std::atomic<size_t> largest_allocation{0};
}

void* operator new(size_t bytes) {
  auto& largest = pgtrain::protocol::test::largest_allocation;
  size_t seen = largest.load();
  while (bytes > seen && !largest.compare_exchange_weak(seen, bytes)) {
  }
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
