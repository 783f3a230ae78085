// frame.cpp: cutting bytes into frames and writing frame headers; payload_cap is in message.cpp with the types.
#include "protocol/frame.hpp"

#include <cctype>
#include <cstdio>

namespace pgtrain::protocol {

namespace {

uint32_t read_length(const char* bytes) {
  uint32_t length = 0;
  for (int i = 0; i < 4; ++i) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  return length;
}

// What a type byte looks like in an error text: a stray log line on the pipe should be recognisable.
std::string show_type(char type) {
  char text[32];
  const auto byte = static_cast<unsigned char>(type);
  if (byte > 32 && byte < 127)
    std::snprintf(text, sizeof text, "'%c' (0x%02x)", type, byte);
  else
    std::snprintf(text, sizeof text, "0x%02x", byte);
  return text;
}

}  // namespace

std::string encode_frame(char type, std::string_view payload) {
  std::string frame;
  frame.reserve(frame_header_bytes + payload.size());
  frame.push_back(type);
  for (int shift = 24; shift >= 0; shift -= 8) frame.push_back(static_cast<char>(payload.size() >> shift & 0xff));
  frame.append(payload);
  return frame;
}

void FrameReader::feed(std::string_view bytes) {
  if (!error_.empty()) return;
  if (position_ > 0) {
    buffer_.erase(0, position_);
    position_ = 0;
  }
  buffer_.append(bytes);
}

FrameReader::Status FrameReader::next(Frame& frame) {
  if (!error_.empty()) return Status::Broken;
  const size_t available = buffer_.size() - position_;
  if (available == 0) return Status::NeedMore;
  const char* start = buffer_.data() + position_;
  const int64_t cap = payload_cap(incoming_, *start);
  if (cap < 0) {
    error_ = "unknown message type " + show_type(*start);
  } else if (available >= frame_header_bytes && read_length(start + 1) > cap) {
    error_ = "message of type " + show_type(*start) + " claims " + std::to_string(read_length(start + 1)) + " bytes; at most " +
             std::to_string(cap) + " are allowed";
  }
  if (!error_.empty()) {
    std::string().swap(buffer_);
    position_ = 0;
    return Status::Broken;
  }
  if (available < frame_header_bytes) return Status::NeedMore;
  const size_t length = read_length(start + 1);
  if (available - frame_header_bytes < length) return Status::NeedMore;
  frame.type = *start;
  frame.payload.assign(start + frame_header_bytes, length);
  position_ += frame_header_bytes + length;
  return Status::Ready;
}

}  // namespace pgtrain::protocol
