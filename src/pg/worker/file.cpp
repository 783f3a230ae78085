// See file.hpp.
#include "pg/worker/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "pg/errors.hpp"

namespace pgtrain::pg::worker {

std::string text_of_system_error(const char *what, const std::string &path) {
  return std::string(what) + " \"" + path + "\": " + std::strerror(errno);
}

File::File(const std::string &path, int flags, mode_t mode)
    : path_(path), descriptor_(open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, mode)) {
  if (descriptor_ < 0) throw Error(code::Unavailable, text_of_system_error("cannot open", path));
}

File::~File() { close(descriptor_); }

size_t File::read(char *buffer, size_t most) {
  size_t total = 0;
  while (total < most) {
    const ssize_t got = ::read(descriptor_, buffer + total, most - total);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(code::Unavailable, text_of_system_error("cannot read", path_));
    if (got == 0) break;
    total += static_cast<size_t>(got);
  }
  return total;
}

void File::seek(uint64_t position) {
  if (lseek(descriptor_, static_cast<off_t>(position), SEEK_SET) < 0) throw Error(code::Unavailable, text_of_system_error("cannot read", path_));
}

void File::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw Error(code::Unavailable, text_of_system_error("cannot write", path_));
    bytes.remove_prefix(static_cast<size_t>(put));
  }
}

void File::sync() {
  if (fsync(descriptor_) != 0) throw Error(code::Unavailable, text_of_system_error("cannot sync", path_));
}

uint64_t File::size() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) throw Error(code::InvalidData, "\"" + path_ + "\" is no plain file");
  return static_cast<uint64_t>(status.st_size);
}

std::string Sha256::hex() {
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_final(&state_, digest);
  char text[2 * sizeof digest + 1];
  sodium_bin2hex(text, sizeof text, digest, sizeof digest);
  return text;
}

}  // namespace pgtrain::pg::worker
