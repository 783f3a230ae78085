// An append-only run of bytes: in memory while it is small, then in a file without a name, which goes when the process goes.
//
// What a dataset becomes may be larger than memory. Reads copy what is asked for, so nothing of the file stays in the
// process; writes go through write(2), so a full disk is an io_error and no signal. Caller: token_store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pgtrain::engine::data {

class Spill {
 public:
  // An empty folder: everything stays in memory (tools and tests).
  explicit Spill(std::string folder) : folder_(std::move(folder)) {}
  ~Spill();
  Spill(Spill&& other) noexcept;
  Spill& operator=(Spill&&) = delete;

  void append(const void* data, std::size_t bytes);
  void read(std::uint64_t at, void* out, std::size_t bytes) const;
  std::uint64_t size() const { return written_ + tail_.size(); }

 private:
  void write_tail();

  std::string folder_;
  int file_ = -1;
  std::uint64_t written_ = 0;  // bytes in the file
  std::vector<char> tail_;     // those behind them
};

}  // namespace pgtrain::engine::data
