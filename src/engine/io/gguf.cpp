// Reader of GGUF. Fuzzed by test/fuzz/gguf_fuzz.cpp, whose seeds the ordinary suite replays, and by mutations in its test.
#include "engine/io/gguf.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/core/utf8.hpp"

namespace pgtrain::engine::io {
namespace {

static_assert(std::endian::native == std::endian::little, "values are copied as they lie in the file");

constexpr std::uint64_t kMaxPairs = 1'000'000, kMaxTensors = 1'000'000, kMaxNameBytes = 65535, kMaxAlignment = 1 << 20;
constexpr std::uint32_t kMaxRank = 4;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kElementsAtOnce = std::uint64_t{1} << 20;

struct KindRow {
  const char* name;
  std::size_t bytes;  // 0 = its size is in the file
};
constexpr KindRow kKinds[] = {{"uint8", 1},   {"int8", 1}, {"uint16", 2}, {"int16", 2},  {"uint32", 4}, {"int32", 4},  {"float32", 4},
                              {"boolean", 1}, {"text", 0}, {"array", 0},  {"uint64", 8}, {"int64", 8},  {"float64", 8}};
const KindRow& row_of(GgufKind kind) { return kKinds[static_cast<std::uint32_t>(kind)]; }

template <typename T>
T load(std::string_view bytes, std::uint64_t at = 0) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

bool is_whole(GgufKind kind) {
  return row_of(kind).bytes > 0 && kind != GgufKind::F32 && kind != GgufKind::F64 && kind != GgufKind::Boolean;
}
bool is_number(GgufKind kind) { return is_whole(kind) || kind == GgufKind::F32 || kind == GgufKind::F64; }

// U64 above the largest I64 wraps; callers that care ask for kinds that cannot.
std::int64_t integer_at(GgufKind kind, std::string_view bytes, std::uint64_t at) {
  switch (kind) {
    case GgufKind::U8:
      return load<std::uint8_t>(bytes, at);
    case GgufKind::I8:
      return load<std::int8_t>(bytes, at);
    case GgufKind::U16:
      return load<std::uint16_t>(bytes, at);
    case GgufKind::I16:
      return load<std::int16_t>(bytes, at);
    case GgufKind::U32:
      return load<std::uint32_t>(bytes, at);
    case GgufKind::I32:
      return load<std::int32_t>(bytes, at);
    default:
      return load<std::int64_t>(bytes, at);
  }
}

double number_at(GgufKind kind, std::string_view bytes, std::uint64_t at) {
  if (kind == GgufKind::F32) return load<float>(bytes, at);
  if (kind == GgufKind::F64) return load<double>(bytes, at);
  if (kind == GgufKind::U64) return static_cast<double>(load<std::uint64_t>(bytes, at));
  return static_cast<double>(integer_at(kind, bytes, at));
}

}  // namespace

class GgufParser {
 public:
  GgufParser(std::string_view file, const std::string& name) : file_(file) { out_.name_ = name; }

  GgufHeader parse() {
    read_magic();
    const std::uint64_t tensors = take<std::uint64_t>("number of tensors"), pairs = take<std::uint64_t>("number of metadata fields");
    if (tensors > kMaxTensors)
      fail("header", std::to_string(tensors) + " tensors are more than the " + std::to_string(kMaxTensors) + " allowed");
    if (pairs > kMaxPairs)
      fail("header", std::to_string(pairs) + " metadata fields are more than the " + std::to_string(kMaxPairs) + " allowed");
    for (std::uint64_t i = 0; i < pairs; ++i) read_pair();
    check_keys();
    const std::uint64_t alignment = read_alignment();
    for (std::uint64_t i = 0; i < tensors; ++i) read_tensor(alignment);
    // A file without tensors may end right after its metadata.
    out_.data_begin_ = tensors == 0 ? at_ : (at_ + alignment - 1) / alignment * alignment;
    check_placement(alignment);
    check_names();
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& reason,
                         const std::string& hint = "The file is damaged or not a GGUF file; get it again from where it was made.") const {
    throw core::Error("model_invalid", out_.name_ + ": " + what + ": " + reason, "", hint);
  }

  std::string_view take_bytes(std::uint64_t bytes, const std::string& what) {
    if (bytes > file_.size() - at_)
      fail(what, std::to_string(bytes) + " bytes at byte " + std::to_string(at_) + " reach past the end of the file, which has " +
                     std::to_string(file_.size()));
    const std::string_view out = file_.substr(at_, bytes);
    at_ += bytes;
    return out;
  }
  template <typename T>
  T take(const std::string& what) {
    return load<T>(take_bytes(sizeof(T), what));
  }

  void read_magic() {
    const std::string_view magic = file_.substr(0, 4);
    if (magic.substr(0, 2) == "PK" || magic.substr(0, 2) == "\x80\x02")
      fail("file", "is a PyTorch pickle, not GGUF",
           "A pickle runs code of its author when it is opened, so it is not read. Save the weights as safetensors or GGUF.");
    for (const char* old : {"lmgg", "fmgg", "tjgg"})
      if (magic == old)
        fail("file", "is of llama.cpp's format before GGUF, which is not read",
             "Convert the original model again with a current llama.cpp.");
    if (magic == "FUGG")
      fail("file", "is big-endian, only little-endian files are read", "Convert it with llama.cpp's gguf-convert-endian.");
    if (magic != "GGUF") fail("file", "does not begin with GGUF");
    at_ = 4;
    const auto version = take<std::uint32_t>("version");
    if (version == 2 || version == 3) return;
    if (version == 1) fail("version", "1 is not read, only 2 and 3", "Convert the original model again with a current llama.cpp.");
    if ((version & 0xFFFFu) == 0 && version != 0)
      fail("file", "is big-endian, only little-endian files are read", "Convert it with llama.cpp's gguf-convert-endian.");
    fail("version", std::to_string(version) + " is not known, 2 and 3 are");
  }

  std::string_view take_name(const std::string& what) {
    const auto bytes = take<std::uint64_t>("length of " + what);
    if (bytes == 0) fail(what, "is empty");
    if (bytes > kMaxNameBytes) fail(what, "has " + std::to_string(bytes) + " bytes, " + std::to_string(kMaxNameBytes) + " are allowed");
    const std::string_view text = take_bytes(bytes, what);
    if (core::first_invalid_utf8(text) != std::string_view::npos) fail(what + " \"" + core::printable(text) + "\"", "is not valid UTF-8");
    return text;
  }

  GgufKind take_kind(const std::string& what) {
    const auto kind = take<std::uint32_t>(what);
    if (kind >= std::size(kKinds)) fail(what, "kind " + std::to_string(kind) + " is not known");
    return static_cast<GgufKind>(kind);
  }

  void check_booleans(std::string_view bytes, const std::string& what) const {
    if (std::any_of(bytes.begin(), bytes.end(), [](char byte) { return byte != 0 && byte != 1; }))
      fail(what, "a boolean is neither 0 nor 1");
  }

  void read_pair() {
    const std::string_view key = take_name("metadata key");
    const std::string what = "metadata field \"" + core::printable(key) + "\"";
    GgufValue value;
    value.kind = take_kind(what);
    if (value.kind == GgufKind::Text) {
      value.bytes = take_bytes(take<std::uint64_t>(what), what);
    } else if (value.kind == GgufKind::Array) {
      value.element = take_kind(what);
      value.count = take<std::uint64_t>(what);
      value.bytes = take_array(value, what);
    } else {
      value.bytes = take_bytes(row_of(value.kind).bytes, what);
      if (value.kind == GgufKind::Boolean) check_booleans(value.bytes, what);
    }
    out_.metadata_.emplace_back(key, value);
  }

  std::string_view take_array(const GgufValue& value, const std::string& what) {
    if (value.element == GgufKind::Array) fail(what, "an array of arrays is not supported");
    if (value.element == GgufKind::Text) {
      const std::uint64_t begin = at_;
      for (std::uint64_t i = 0; i < value.count; ++i) take_bytes(take<std::uint64_t>(what), what);
      return file_.substr(begin, at_ - begin);
    }
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(value.count, row_of(value.element).bytes, &bytes))
      fail(what, std::to_string(value.count) + " elements overflow 64 bits");
    const std::string_view out = take_bytes(bytes, what);
    if (value.element == GgufKind::Boolean) check_booleans(out, what);
    return out;
  }

  void check_keys() {
    auto& pairs = out_.metadata_;
    std::sort(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto twice = std::adjacent_find(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twice != pairs.end()) fail("metadata field \"" + core::printable(twice->first) + "\"", "appears twice");
  }

  std::uint64_t read_alignment() const {
    const std::uint64_t alignment = out_.find_unsigned("general.alignment").value_or(kDefaultAlignment);
    if (!std::has_single_bit(alignment) || alignment < 8 || alignment > kMaxAlignment)
      fail("metadata field \"general.alignment\"",
           std::to_string(alignment) + " is not a power of two from 8 to " + std::to_string(kMaxAlignment));
    return alignment;
  }

  void read_tensor(std::uint64_t alignment) {
    const std::string_view name = take_name("tensor's name");
    const std::string label = "tensor \"" + core::printable(name) + "\"";
    const auto rank = take<std::uint32_t>(label);
    if (rank < 1 || rank > kMaxRank)
      fail(label, std::to_string(rank) + " dimensions, from 1 to " + std::to_string(kMaxRank) + " are possible");
    GgufTensor tensor;
    tensor.name = name;
    tensor.shape.resize(rank);
    for (std::uint32_t i = rank; i > 0; --i) tensor.shape[i - 1] = take<std::uint64_t>(label);
    const auto type = take<std::uint32_t>(label);
    const BlockFormat* format = find_block_format(type);
    if (format == nullptr)
      fail(label, "its type " + block_type_name(type) + " is not supported; supported are " + supported_block_types(),
           "Convert the model to one of the supported types, such as Q8_0 or F16.");
    tensor.type = format->type;
    tensor.begin = take<std::uint64_t>(label);
    if (tensor.begin % alignment != 0)
      fail(label, "its offset " + std::to_string(tensor.begin) + " is not a multiple of the alignment " + std::to_string(alignment));
    if (__builtin_add_overflow(tensor.begin, bytes_of(tensor, *format, label), &tensor.end))
      fail(label, "its offset " + std::to_string(tensor.begin) + " overflows 64 bits");
    out_.tensors_.push_back(std::move(tensor));
  }

  std::uint64_t bytes_of(const GgufTensor& tensor, const BlockFormat& format, const std::string& label) const {
    std::uint64_t elements = 1, bytes = 0;
    for (const std::uint64_t extent : tensor.shape) {
      if (extent == 0) fail(label, "has an extent of 0");
      if (__builtin_mul_overflow(elements, extent, &elements)) fail(label, "shape overflows 64 bits");
    }
    if (tensor.shape.back() % format.elements != 0)
      fail(label, "its rows of " + std::to_string(tensor.shape.back()) + " elements are not whole blocks of " +
                      std::to_string(format.elements) + ", as " + format.name + " needs");
    if (__builtin_mul_overflow(elements / format.elements, std::uint64_t{format.bytes}, &bytes)) fail(label, "shape overflows 64 bits");
    return bytes;
  }

  // llama.cpp lays tensors one behind the other with no more than padding between; so does every file it reads.
  void check_placement(std::uint64_t alignment) {
    auto& tensors = out_.tensors_;
    std::sort(tensors.begin(), tensors.end(),
              [](const GgufTensor& a, const GgufTensor& b) { return a.begin != b.begin ? a.begin < b.begin : a.name < b.name; });
    const std::uint64_t have = file_.size() < out_.data_begin_ ? 0 : file_.size() - out_.data_begin_;
    std::uint64_t covered = 0;
    for (const GgufTensor& tensor : tensors) {
      const std::string label = "tensor \"" + core::printable(tensor.name) + "\"";
      if (tensor.begin < covered) fail(label, "overlaps the one before it at byte " + std::to_string(tensor.begin) + " of the data");
      if (tensor.begin - covered >= alignment) fail(label, "leaves a hole before byte " + std::to_string(tensor.begin) + " of the data");
      if (tensor.end > have)
        fail(label, "ends at byte " + std::to_string(tensor.end) + " of the data, the file has " + std::to_string(have),
             "The file is cut short; get it again from where it was made.");
      covered = tensor.end;
    }
  }

  void check_names() {
    const auto& tensors = out_.tensors_;
    out_.by_name_.resize(tensors.size());
    std::iota(out_.by_name_.begin(), out_.by_name_.end(), 0u);
    std::sort(out_.by_name_.begin(), out_.by_name_.end(),
              [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name < tensors[b].name; });
    for (std::size_t i = 1; i < tensors.size(); ++i)
      if (tensors[out_.by_name_[i]].name == tensors[out_.by_name_[i - 1]].name)
        fail("tensor \"" + core::printable(tensors[out_.by_name_[i]].name) + "\"", "appears twice");
  }

  std::string_view file_;
  std::uint64_t at_ = 0;
  GgufHeader out_;
};

std::uint64_t GgufTensor::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::uint64_t{1},
                         [](std::uint64_t product, std::uint64_t extent) { return product * extent; });
}

GgufHeader GgufHeader::parse(std::string_view file, const std::string& name) { return GgufParser(file, name).parse(); }

void GgufHeader::mismatch(std::string_view key, const GgufValue& value, const char* wanted) const {
  const std::string kind =
      value.kind == GgufKind::Array ? std::string("an array of ") + row_of(value.element).name : row_of(value.kind).name;
  throw core::Error("model_invalid", name_ + ": metadata field \"" + core::printable(key) + "\": is " + kind + ", " + wanted + " is needed",
                    "", "The file was not written by llama.cpp's converter, or is damaged.");
}

const GgufValue* GgufHeader::find(std::string_view key) const {
  const auto found = std::lower_bound(metadata_.begin(), metadata_.end(), key,
                                      [](const auto& pair, std::string_view wanted) { return pair.first < wanted; });
  return found == metadata_.end() || found->first != key ? nullptr : &found->second;
}

std::optional<std::uint64_t> GgufHeader::find_unsigned(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_whole(value->kind)) mismatch(key, *value, "a whole number");
  const std::int64_t number = integer_at(value->kind, value->bytes, 0);
  if (number < 0) mismatch(key, *value, "a number from 0 to 9223372036854775807");
  return static_cast<std::uint64_t>(number);
}

std::optional<double> GgufHeader::find_number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_number(value->kind)) mismatch(key, *value, "a number");
  return number_at(value->kind, value->bytes, 0);
}

std::optional<bool> GgufHeader::find_boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->kind != GgufKind::Boolean) mismatch(key, *value, "a boolean");
  return value->bytes[0] != 0;
}

std::optional<std::string_view> GgufHeader::find_text(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->kind != GgufKind::Text) mismatch(key, *value, "a text");
  return value->bytes;
}

std::vector<std::string_view> GgufHeader::find_texts(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return {};
  if (value->kind != GgufKind::Array || value->element != GgufKind::Text) mismatch(key, *value, "an array of texts");
  std::vector<std::string_view> out;
  out.reserve(value->count);
  std::uint64_t at = 0;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto bytes = load<std::uint64_t>(value->bytes, at);
    out.push_back(value->bytes.substr(at + 8, bytes));
    at += 8 + bytes;
  }
  return out;
}

std::vector<std::int64_t> GgufHeader::find_integers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return {};
  if (value->kind != GgufKind::Array || !is_whole(value->element)) mismatch(key, *value, "an array of whole numbers");
  std::vector<std::int64_t> out(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) out[i] = integer_at(value->element, value->bytes, i * row_of(value->element).bytes);
  return out;
}

std::vector<float> GgufHeader::find_numbers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return {};
  if (value->kind != GgufKind::Array || !is_number(value->element)) mismatch(key, *value, "an array of numbers");
  std::vector<float> out(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i)
    out[i] = static_cast<float>(number_at(value->element, value->bytes, i * row_of(value->element).bytes));
  return out;
}

const GgufTensor* GgufHeader::find_tensor(std::string_view tensor) const {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), tensor,
                                      [&](std::uint32_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  return found == by_name_.end() || tensors_[*found].name != tensor ? nullptr : &tensors_[*found];
}

void GgufFile::read_f32(const GgufTensor& tensor, std::uint64_t first, std::uint64_t count, float* out) const {
  const BlockFormat& format = block_format(tensor.type);
  if (first % format.elements != 0 || count % format.elements != 0 || first > tensor.elements() || count > tensor.elements() - first)
    throw std::logic_error("elements read from a GGUF tensor do not lie on its blocks");
  const std::uint64_t at_once = kElementsAtOnce / format.elements * format.elements, begin = header_.data_begin() + tensor.begin;
  for (const std::uint64_t end = first + count; first < end; first += at_once, out += at_once) {
    const std::uint64_t now = std::min(at_once, end - first), from = first / format.elements * format.bytes;
    dequantize(tensor.type, data(tensor).data() + from, now, out);
    file_.forget(begin + from, begin + from + now / format.elements * format.bytes);
  }
}

}  // namespace pgtrain::engine::io
