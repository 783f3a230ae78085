// Memory for keys and plain text: locked against swapping and left out of core dumps where the system allows, between guard pages,
// wiped before it is given back. Nothing secret may lie anywhere else, and none of it may be alive across a call of the server
// that can raise: then every path out of a function passes the destructor. Standard library and libsodium only.
#pragma once

#include <cstddef>
#include <string_view>

namespace pgtrain::pg::crypto {

class LockedBytes {
 public:
  LockedBytes() = default;
  // Zeroed. Throws pg::Error when there is no memory.
  explicit LockedBytes(size_t size);
  LockedBytes(LockedBytes &&other) noexcept;
  LockedBytes &operator=(LockedBytes &&other) noexcept;
  LockedBytes(const LockedBytes &) = delete;
  LockedBytes &operator=(const LockedBytes &) = delete;
  ~LockedBytes();

  unsigned char *data() { return data_; }
  const unsigned char *data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view view() const { return {reinterpret_cast<const char *>(data_), size_}; }
  // Only makes it shorter; what is cut off is wiped.
  void truncate(size_t size);
  // Asks for the lock again, which a fork does not inherit. False when the system refuses (RLIMIT_MEMLOCK).
  bool lock();

 private:
  unsigned char *data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pgtrain::pg::crypto
