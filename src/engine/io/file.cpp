// Files over plain system calls, so that each failure can say its errno.
#include "engine/io/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "engine/core/error.hpp"

namespace pgtrain::engine::io {
namespace {

[[noreturn]] void fail(const std::string& path, const char* act, int error) {
  const char* hint = error == ENOSPC || error == EDQUOT ? "Free space on the device that holds this folder."
                     : error == ENOENT                  ? "Check that the file was put there before the run started."
                                                        : "Check the rights and the device of this folder.";
  throw core::Error("io_error", std::string("cannot ") + act + " \"" + path + "\": " + std::strerror(error), "", hint);
}

void sync_folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail(folder, "open folder", errno);
  // Some file systems cannot sync a folder and say EINVAL; the rename is then as durable as they make it.
  if (::fsync(descriptor) != 0 && errno != EINVAL) {
    const int error = errno;
    ::close(descriptor);
    fail(folder, "sync folder", error);
  }
  ::close(descriptor);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail(path, "open", errno);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    throw core::Error("io_error", "cannot read \"" + path + "\": not a regular file", "", "Give the path of a file.");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (mapped == MAP_FAILED) {
      const int error = errno;
      ::close(descriptor);
      fail(path, "map", error);
    }
    data_ = static_cast<const char*>(mapped);
  }
  ::close(descriptor);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
}

void MappedFile::forget(std::size_t begin, std::size_t end) const {
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  begin = begin / page * page;
  if (begin < std::min(end, size_)) ::madvise(const_cast<char*>(data_) + begin, std::min(end, size_) - begin, MADV_DONTNEED);
}

FileWriter::FileWriter(const std::string& path) : path_(path), partial_(path + ".partial") {
  descriptor_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor_ < 0) fail(partial_, "create", errno);
}

FileWriter::~FileWriter() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(partial_.c_str());
}

void FileWriter::write(const void* data, std::size_t bytes) {
  // Linux writes at most about 2 GiB at once.
  constexpr std::size_t kMost = std::size_t{1} << 30;
  const char* at = static_cast<const char*>(data);
  hash_.update(data, bytes);
  bytes_ += bytes;
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, at, std::min(bytes, kMost));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(partial_, "write", errno);
    at += written, bytes -= static_cast<std::size_t>(written);
  }
}

void FileWriter::commit() {
  if (::fsync(descriptor_) != 0) fail(partial_, "sync", errno);
  if (::close(descriptor_) != 0) {
    descriptor_ = -1;
    fail(partial_, "close", errno);
  }
  descriptor_ = -1;
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(partial_.c_str());
    fail(path_, "rename to", error);
  }
  sync_folder_of(path_);
  sha256_ = hash_.hex();
}

WrittenFile write_file(const std::string& path, std::string_view text) {
  FileWriter writer(path);
  writer.write(text);
  writer.commit();
  return {writer.bytes(), writer.sha256()};
}

std::string read_small_file(const std::string& path, std::uint64_t limit) {
  const MappedFile file(path);
  if (file.bytes().size() > limit)
    throw core::Error("model_invalid", "\"" + path + "\" has " + std::to_string(file.bytes().size()) + " bytes, more than the " +
                                           std::to_string(limit) + " allowed", "", "A file of this kind is never that large.");
  return std::string(file.bytes());
}

bool file_exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

}  // namespace pgtrain::engine::io
