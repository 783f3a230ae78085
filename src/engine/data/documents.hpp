// The samples of a run, read from a file: per sample a little-endian 32-bit length and that many bytes of UTF-8.
//
// Everything is checked before the first is handed out: data_invalid names the sample (from 1) and the byte. Nothing is kept
// of the texts but how many there are; each pass walks the bytes given, which the caller keeps (a mapped file, in train).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::engine::data {

class Documents {
 public:
  using Passed = std::function<void(std::size_t begin, std::size_t end)>;

  // keep_alive is called every few megabytes; it may throw to leave. `passed` is told which bytes a pass is done with
  // (MappedFile::forget, so that a file larger than memory takes none).
  explicit Documents(std::string_view bytes, const std::function<void()>& keep_alive = {}, Passed passed = {});

  std::size_t size() const { return count_; }
  std::uint64_t text_bytes() const { return text_bytes_; }
  // In the order of the file, which is read once from front to back; index from 0.
  void for_each(const std::function<void(std::size_t index, std::string_view text)>& visit) const;

 private:
  void pass(std::size_t& from, std::size_t at) const;

  std::string_view bytes_;
  Passed passed_;
  std::size_t count_ = 0;
  std::uint64_t text_bytes_ = 0;
};

// The bytes of such a file; for tools and tests.
std::string encode_documents(const std::vector<std::string>& texts);

}  // namespace pgtrain::engine::data
