// Locked memory through libsodium, see locked.hpp. Pages of their own cost five calls of the system, more than sealing itself: so each
// process keeps a few slots, and only what finds none free gets pages.
#include "pg/crypto/locked.hpp"

#include <sodium.h>
#include <unistd.h>

#include <utility>

#include "pg/crypto/library.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::crypto {
namespace {

struct Slots {
  size_t bytes;  // of each
  size_t count;
  size_t offset;
};
constexpr size_t slots_in_all = 10;
// Together 34 kB: within 64 kB, the lowest usual limit of locked memory.
constexpr Slots classes[] = {{256, 8, 0}, {16384, 2, 8 * 256}};
constexpr size_t pool_bytes = 8 * 256 + 2 * 16384;

struct Pool {
  unsigned char *memory = nullptr;
  pid_t owner = 0;
  bool is_used[slots_in_all] = {};
};
Pool pool;

[[noreturn]] void no_memory(size_t size) {
  throw Error(code::OutOfMemory, "no memory for a secret", "Wanted were " + std::to_string(size) + " bytes between guard pages.",
              "Look at vm.max_map_count and at the memory limits of the server.");
}

// A fork copies the memory but not the lock.
void ready_pool() {
  const pid_t process = getpid();
  if (pool.owner == process) return;
  initialise();
  if (pool.memory == nullptr) {
    pool.memory = static_cast<unsigned char *>(sodium_malloc(pool_bytes));
    if (pool.memory == nullptr) no_memory(pool_bytes);
    sodium_memzero(pool.memory, pool_bytes);
  } else {
    (void)sodium_mlock(pool.memory, pool_bytes);
  }
  pool.owner = process;
}

// Calls `body(index of the slot, its memory, its size)` for each slot until it says true.
template <class Body>
bool any_slot(Body &&body) {
  size_t index = 0;
  for (const Slots &slots : classes)
    for (size_t i = 0; i < slots.count; ++i, ++index)
      if (body(index, pool.memory + slots.offset + i * slots.bytes, slots.bytes)) return true;
  return false;
}

unsigned char *allocate(size_t size) {
  ready_pool();
  unsigned char *found = nullptr;
  any_slot([&](size_t index, unsigned char *memory, size_t bytes) {
    if (pool.is_used[index] || bytes < size) return false;
    pool.is_used[index] = true;
    found = memory;
    return true;
  });
  if (found != nullptr) return found;
  found = static_cast<unsigned char *>(sodium_malloc(size));
  if (found == nullptr) no_memory(size);
  sodium_memzero(found, size);
  return found;
}

void release(unsigned char *data) {
  if (data == nullptr) return;
  const bool was_slot = any_slot([data](size_t index, unsigned char *memory, size_t bytes) {
    if (memory != data) return false;
    sodium_memzero(memory, bytes);
    pool.is_used[index] = false;
    return true;
  });
  if (!was_slot) sodium_free(data);
}

}  // namespace

LockedBytes::LockedBytes(size_t size) : data_(allocate(size)), size_(size) {}

LockedBytes::LockedBytes(LockedBytes &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

LockedBytes &LockedBytes::operator=(LockedBytes &&other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

LockedBytes::~LockedBytes() { release(data_); }

void LockedBytes::truncate(size_t size) {
  if (size >= size_) return;
  sodium_memzero(data_ + size, size_ - size);
  size_ = size;
}

bool LockedBytes::lock() { return data_ == nullptr || sodium_mlock(data_, size_) == 0; }

}  // namespace pgtrain::pg::crypto
