// frame.hpp: the outermost shape of everything on the pipe between a worker and its trainer:
// one type byte, a four-byte length in network order, the payload. FrameReader accepts any cut of the
// bytes, refuses unknown types and lengths over the cap of the type before it stores a byte of them, and
// never blocks. The module and the trainer share it; it includes the standard library only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pgtrain::protocol {

/// Who speaks. The two directions have their own sets of types, so an echoed frame is refused.
enum class Direction : uint8_t {
  Down,  ///< from the worker (or a backend) to the trainer
  Up,    ///< from the trainer to the worker
};

/// Bytes before each payload.
inline constexpr size_t frame_header_bytes = 5;

/// A whole frame as read; the payload is not decoded yet.
struct Frame {
  char type = 0;
  std::string payload;
};

/// Returns the largest payload allowed for a type, or -1 when the type is unknown in that direction.
int64_t payload_cap(Direction direction, char type);

/// Returns header and payload as they go on the pipe. The caller keeps the payload under the cap.
std::string encode_frame(char type, std::string_view payload);

/// Cuts a byte stream into frames. Memory: what one feed brought plus at most one payload under its cap.
class FrameReader {
 public:
  enum class Status : uint8_t {
    NeedMore,  ///< no whole frame yet: read more bytes and feed them
    Ready,     ///< a frame was put out; ask again
    Broken,    ///< the peer broke the rules; error() says how. Final.
  };

  /// `incoming` is the direction of the bytes that will be fed: Up in the worker, Down in the trainer.
  explicit FrameReader(Direction incoming) : incoming_(incoming) {}

  /// Takes the next bytes from the pipe, in any cut. Bytes after a broken frame are dropped.
  void feed(std::string_view bytes);

  /// Puts out the next whole frame, if there is one.
  Status next(Frame& frame);

  /// Says what was wrong, for a person; empty until Broken.
  const std::string& error() const { return error_; }

  /// True when the stream stops inside a frame: at end of file this means that the peer died writing.
  bool is_inside_frame() const { return position_ < buffer_.size(); }

 private:
  Direction incoming_;
  std::string buffer_;
  size_t position_ = 0;
  std::string error_;
};

}  // namespace pgtrain::protocol
