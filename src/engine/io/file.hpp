// Files read by mapping and written whole or not at all.
//
// A writer puts everything into NAME.partial, syncs it, renames it and syncs the folder: whoever opens NAME sees the
// old file or the complete new one, at whatever instruction the process dies. Errors are io_error with path and reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/sha256.hpp"

namespace pgtrain::engine::io {

// Read-only view of a regular file. The file must not shrink while it is mapped; job folders belong to one process.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return {data_, size_}; }
  // Bytes that will not be read soon: they leave this process's memory and come back from the file when asked for.
  void forget(std::size_t begin, std::size_t end) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

class FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  ~FileWriter();  // removes the partial file unless commit() was reached
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();
  std::uint64_t bytes() const { return bytes_; }
  const std::string& sha256() const { return sha256_; }  // after commit()

 private:
  std::string path_, partial_, sha256_;
  int descriptor_ = -1;
  std::uint64_t bytes_ = 0;
  core::Sha256 hash_;
};

struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string sha256;
};
WrittenFile write_file(const std::string& path, std::string_view text);
std::string read_small_file(const std::string& path, std::uint64_t limit);
bool file_exists(const std::string& path);

}  // namespace pgtrain::engine::io
