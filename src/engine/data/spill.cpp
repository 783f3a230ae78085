// Spilling over plain system calls, so that each failure can say its errno.
#include "engine/data/spill.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/core/error.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr std::size_t kKeptInMemory = std::size_t{4} << 20;

[[noreturn]] void fail(const std::string& folder, const char* act, int error) {
  throw core::Error("io_error", std::string("cannot ") + act + " the file of tokens in \"" + folder + "\": " + std::strerror(error), "",
                    error == ENOSPC || error == EDQUOT ? "Free space on the device that holds this folder; the tokens of a dataset take about as much as its text."
                                                       : "Check the rights and the device of this folder.");
}

}  // namespace

Spill::~Spill() {
  if (file_ >= 0) ::close(file_);
}

Spill::Spill(Spill&& other) noexcept
    : folder_(std::move(other.folder_)), file_(std::exchange(other.file_, -1)), written_(other.written_), tail_(std::move(other.tail_)) {}

void Spill::append(const void* data, std::size_t bytes) {
  const char* from = static_cast<const char*>(data);
  tail_.insert(tail_.end(), from, from + bytes);
  if (!folder_.empty() && tail_.size() >= kKeptInMemory) write_tail();
}

void Spill::write_tail() {
  if (file_ < 0) {
    std::string path = folder_ + "/tokens.XXXXXX";
    file_ = ::mkostemp(path.data(), O_CLOEXEC);
    if (file_ < 0) fail(folder_, "create", errno);
    ::unlink(path.c_str());
  }
  for (std::size_t done = 0; done < tail_.size();) {
    const ssize_t wrote = ::write(file_, tail_.data() + done, tail_.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail(folder_, "write", errno);
    done += static_cast<std::size_t>(wrote);
  }
  written_ += tail_.size();
  tail_.clear();
}

void Spill::read(std::uint64_t at, void* out, std::size_t bytes) const {
  char* to = static_cast<char*>(out);
  while (bytes > 0 && at < written_) {
    const std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, written_ - at));
    const ssize_t got = ::pread(file_, to, wanted, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail(folder_, "read", got < 0 ? errno : EIO);
    to += got, at += static_cast<std::uint64_t>(got), bytes -= static_cast<std::size_t>(got);
  }
  if (bytes > 0) std::memcpy(to, tail_.data() + (at - written_), bytes);
}

}  // namespace pgtrain::engine::data
