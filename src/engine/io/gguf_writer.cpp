// Writer of GGUF: header and metadata are collected, tensors are streamed through a buffer of fixed size.
#include <algorithm>
#include <stdexcept>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/gguf.hpp"

namespace pgtrain::engine::io {
namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::uint64_t kAlignment = 32;
constexpr std::uint64_t kElementsAtOnce = 65536;  // a whole number of blocks of every type

std::uint64_t padded(std::uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufWriter::put_text(std::string_view text) {
  put(std::uint64_t{text.size()});
  metadata_.append(text);
}

void GgufWriter::put_key(std::string_view key, GgufKind kind) {
  if (has_header_ || std::find(keys_.begin(), keys_.end(), key) != keys_.end())
    throw std::logic_error("GGUF field " + std::string(key) + " comes twice or too late");
  keys_.emplace_back(key);
  put_text(key);
  put(static_cast<std::uint32_t>(kind));
}

void GgufWriter::set_u32(std::string_view key, std::uint32_t value) { put_key(key, GgufKind::U32), put(value); }
void GgufWriter::set_f32(std::string_view key, float value) { put_key(key, GgufKind::F32), put(value); }
void GgufWriter::set_boolean(std::string_view key, bool value) { put_key(key, GgufKind::Boolean), put(static_cast<std::uint8_t>(value)); }
void GgufWriter::set_text(std::string_view key, std::string_view value) { put_key(key, GgufKind::Text), put_text(value); }

void GgufWriter::set_texts(std::string_view key, const std::vector<std::string_view>& values) {
  put_key(key, GgufKind::Array), put(GgufKind::Text), put(std::uint64_t{values.size()});
  for (const std::string_view value : values) put_text(value);
}

void GgufWriter::set_i32s(std::string_view key, const std::vector<std::int32_t>& values) {
  put_key(key, GgufKind::Array), put(GgufKind::I32), put(std::uint64_t{values.size()});
  for (const std::int32_t value : values) put(value);
}

void GgufWriter::set_f32s(std::string_view key, const std::vector<float>& values) {
  put_key(key, GgufKind::Array), put(GgufKind::F32), put(std::uint64_t{values.size()});
  for (const float value : values) put(value);
}

void GgufWriter::copy(std::string_view key, const GgufValue& value) {
  put_key(key, value.kind);
  if (value.kind == GgufKind::Array) put(value.element), put(value.count);
  if (value.kind == GgufKind::Text) put(std::uint64_t{value.bytes.size()});
  metadata_.append(value.bytes);
}

bool GgufWriter::fits(BlockType type, const std::vector<std::uint64_t>& shape) {
  return !shape.empty() && shape.back() % block_format(type).elements == 0;
}

void GgufWriter::declare(const std::string& tensor, const std::vector<std::uint64_t>& shape, BlockType type) {
  if (has_header_ || !fits(type, shape) || !block_format(type).is_written)
    throw std::logic_error("GGUF tensor " + tensor + " cannot be declared");
  std::uint64_t elements = 1;
  for (const std::uint64_t extent : shape) elements *= extent;
  tensors_.push_back({tensor, shape, type, elements, elements / block_format(type).elements * block_format(type).bytes});
}

void GgufWriter::write_header() {
  has_header_ = true;
  std::string pairs;
  pairs.swap(metadata_);
  metadata_ = "GGUF";
  put(kVersion), put(std::uint64_t{tensors_.size()}), put(std::uint64_t{keys_.size()});
  metadata_ += pairs;
  std::uint64_t offset = 0;
  for (const Declared& tensor : tensors_) {
    put_text(tensor.name);
    put(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) put(*extent);
    put(static_cast<std::uint32_t>(tensor.type)), put(offset);
    offset += padded(tensor.bytes);
  }
  file_.write(metadata_);
  metadata_.clear();
  pad();
}

void GgufWriter::pad() {
  const std::string zeros(padded(file_.bytes()) - file_.bytes(), '\0');
  file_.write(zeros);
}

void GgufWriter::write(const float* values, std::uint64_t count) {
  if (!has_header_) write_header();
  while (count > 0) {
    if (current_ == tensors_.size()) throw std::logic_error("more values than GGUF tensors declared");
    const Declared& tensor = tensors_[current_];
    const BlockFormat& format = block_format(tensor.type);
    const std::uint64_t now = std::min({count, tensor.elements - done_, kElementsAtOnce});
    if (now % format.elements != 0) throw std::logic_error("values of GGUF tensor " + tensor.name + " do not come in whole blocks");
    std::string blocks(now / format.elements * format.bytes, '\0');
    if (!quantize(tensor.type, values, now, blocks.data()))
      throw core::Error("model_invalid", "tensor \"" + core::printable(tensor.name) + "\" has a value that " + format.name + " cannot hold",
                        "It is too large for this type, or not a finite number.",
                        "Export with a type of larger range, BF16 or F32; values that are not finite mean that training went wrong.");
    file_.write(blocks);
    values += now, count -= now, done_ += now;
    if (done_ == tensor.elements) pad(), ++current_, done_ = 0;
  }
}

WrittenFile GgufWriter::commit() {
  if (!has_header_) write_header();
  if (current_ != tensors_.size()) throw std::logic_error("GGUF tensor " + tensors_[current_].name + " was not written");
  file_.commit();
  return {file_.bytes(), file_.sha256()};
}

}  // namespace pgtrain::engine::io
