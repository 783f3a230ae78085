// A file of the system and a running SHA-256, each owned by one object. Errors of the system are Unavailable with the path.
#pragma once

#include <sodium.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace pgtrain::pg::worker {

std::string text_of_system_error(const char *what, const std::string &path);

class File {
 public:
  // Without waiting: a pipe that a trainer made in place of a file would hold its worker for good.
  File(const std::string &path, int flags, mode_t mode = 0600);
  ~File();
  File(const File &) = delete;
  File &operator=(const File &) = delete;

  // So many bytes, or fewer at the end of the file.
  size_t read(char *buffer, size_t most);
  void seek(uint64_t position);  // from the beginning
  void write(std::string_view bytes);
  void sync();
  // Refuses what is no plain file.
  uint64_t size() const;

 private:
  std::string path_;
  int descriptor_;
};

class Sha256 {
 public:
  Sha256() { crypto_hash_sha256_init(&state_); }
  void add(std::string_view bytes) { crypto_hash_sha256_update(&state_, reinterpret_cast<const unsigned char *>(bytes.data()), bytes.size()); }
  std::string hex();

 private:
  crypto_hash_sha256_state state_;
};

}  // namespace pgtrain::pg::worker
