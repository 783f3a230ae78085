// Reader and writer of safetensors. Fuzzed by test/fuzz/safetensors_fuzz.cpp and by the mutation test of the suite.
#include "engine/io/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "engine/core/dtype.hpp"
#include "engine/core/error.hpp"
#include "engine/core/json.hpp"

namespace pgtrain::engine::io {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor data is copied as it lies in the file");

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxRank = 16;
constexpr std::uint64_t kElementsAtOnce = std::uint64_t{1} << 20;

struct TypeRow {
  StoredType type;
  const char* name;
  std::size_t bytes;
};
constexpr TypeRow kTypes[] = {
    {StoredType::Bool, "BOOL", 1}, {StoredType::U8, "U8", 1},     {StoredType::I8, "I8", 1},     {StoredType::F8E4M3, "F8_E4M3", 1},
    {StoredType::F8E5M2, "F8_E5M2", 1}, {StoredType::I16, "I16", 2}, {StoredType::U16, "U16", 2}, {StoredType::F16, "F16", 2},
    {StoredType::BF16, "BF16", 2}, {StoredType::I32, "I32", 4},   {StoredType::U32, "U32", 4},   {StoredType::F32, "F32", 4},
    {StoredType::I64, "I64", 8},   {StoredType::U64, "U64", 8},   {StoredType::F64, "F64", 8}};

const TypeRow& row_of(StoredType type) { return kTypes[static_cast<int>(type)]; }

class HeaderParser {
 public:
  HeaderParser(std::string_view file, const std::string& name) : file_(file), name_(name) {}

  SafetensorsHeader parse() {
    const std::uint64_t header_bytes = read_header_size();
    out_.data_begin = 8 + header_bytes;
    data_bytes_ = file_.size() - out_.data_begin;
    const std::string_view text = file_.substr(8, header_bytes);
    if (text[0] != '{') fail("header", "does not start with '{'");
    core::JsonReader reader(text, "header of " + name_);
    reader.begin_object();
    std::string key;
    while (reader.next_member(key)) {
      if (key == "__metadata__") read_metadata(reader);
      else read_tensor(reader, key);
    }
    // The reference pads with spaces; other white space or bytes would be a second place to hide things in.
    if (text.find_first_not_of(' ', reader.position()) != std::string_view::npos) fail("header", "something follows the closing '}'");
    check_names();
    check_coverage();
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& reason) const {
    throw core::Error("model_invalid", name_ + ": " + what + ": " + reason, "",
                      "The file is damaged or not a safetensors file; get it again from where it was made.");
  }

  std::uint64_t read_header_size() const {
    // Pickled checkpoints are the usual mistake: zip archives and protocol-2 streams.
    if (file_.substr(0, 4) == std::string_view("PK\x03\x04", 4) || file_.substr(0, 2) == "\x80\x02")
      throw core::Error("model_invalid", name_ + ": this is a PyTorch pickle file, which is not read", "",
                        "A pickle runs code of its author when it is opened. Save the weights as safetensors instead.");
    if (file_.size() < 8) fail("file", "has " + std::to_string(file_.size()) + " bytes, the header's length alone needs 8");
    std::uint64_t length = 0;
    std::memcpy(&length, file_.data(), 8);
    if (length > kMaxHeaderBytes) fail("header length", std::to_string(length) + " is more than the 100000000 allowed");
    if (length > file_.size() - 8) fail("header length", std::to_string(length) + " reaches past the end of the file");
    if (length < 2) fail("header length", std::to_string(length) + " is too small for a header");
    return length;
  }

  void read_metadata(core::JsonReader& reader) {
    if (has_metadata_) fail("__metadata__", "appears twice");
    has_metadata_ = true;
    reader.begin_object();
    std::string key;
    while (reader.next_member(key)) {
      if (reader.peek() != core::JsonReader::Kind::String) fail("__metadata__ field \"" + core::printable(key) + "\"", "is not a string");
      if (!out_.metadata.emplace(key, reader.read_string()).second) fail("__metadata__ field \"" + core::printable(key) + "\"", "appears twice");
    }
  }

  void read_tensor(core::JsonReader& reader, const std::string& name) {
    const std::string label = "tensor \"" + core::printable(name) + "\"";
    if (out_.tensors.size() == kMaxTensors) fail("header", "names more than " + std::to_string(kMaxTensors) + " tensors");
    StoredTensor tensor;
    tensor.name = name;
    bool has_type = false, has_shape = false, has_offsets = false;
    const auto once = [&](bool& has, const char* field) {
      if (has) fail(label, std::string(field) + " appears twice");
      has = true;
    };
    reader.begin_object();
    std::string field;
    while (reader.next_member(field)) {
      if (field == "dtype") once(has_type, "dtype"), tensor.type = parse_type(reader.read_string(), label);
      else if (field == "shape") once(has_shape, "shape"), read_shape(reader, tensor, label);
      else if (field == "data_offsets") once(has_offsets, "data_offsets"), read_offsets(reader, tensor, label);
      else fail(label, "unknown field \"" + core::printable(field) + "\"");
    }
    if (!has_type) fail(label, "dtype is missing");
    if (!has_shape) fail(label, "shape is missing");
    if (!has_offsets) fail(label, "data_offsets is missing");
    check_size(tensor, label);
    out_.tensors.push_back(std::move(tensor));
  }

  StoredType parse_type(const std::string& text, const std::string& label) const {
    for (const TypeRow& row : kTypes)
      if (text == row.name) return row.type;
    if (text.rfind("F4", 0) == 0 || text.rfind("F6", 0) == 0 || text == "F8_E8M0")
      fail(label, "dtype " + core::printable(text, 16) + " is known but not supported");
    fail(label, "dtype \"" + core::printable(text, 16) + "\" is not known");
  }

  void read_shape(core::JsonReader& reader, StoredTensor& tensor, const std::string& label) const {
    reader.begin_array();
    while (reader.next_element()) {
      if (tensor.shape.size() == kMaxRank) fail(label, "shape has more than " + std::to_string(kMaxRank) + " dimensions");
      tensor.shape.push_back(reader.read_unsigned());
    }
  }

  void read_offsets(core::JsonReader& reader, StoredTensor& tensor, const std::string& label) const {
    reader.begin_array();
    std::uint64_t* const ends[] = {&tensor.begin, &tensor.end};
    int count = 0;
    while (reader.next_element()) {
      if (count == 2) fail(label, "data_offsets has more than 2 numbers");
      *ends[count++] = reader.read_unsigned();
    }
    if (count != 2) fail(label, "data_offsets has fewer than 2 numbers");
    if (tensor.begin > tensor.end) fail(label, "data_offsets runs backwards");
    if (tensor.end > data_bytes_)
      fail(label, "data_offsets ends at " + std::to_string(tensor.end) + ", the data has " + std::to_string(data_bytes_) + " bytes");
  }

  void check_size(const StoredTensor& tensor, const std::string& label) const {
    // A zero anywhere makes the product zero, but the other factors must still not overflow on the way.
    std::uint64_t bytes = row_of(tensor.type).bytes;
    const bool is_empty = std::find(tensor.shape.begin(), tensor.shape.end(), 0u) != tensor.shape.end();
    for (const std::uint64_t extent : tensor.shape)
      if (extent != 0 && __builtin_mul_overflow(bytes, extent, &bytes)) fail(label, "shape overflows 64 bits");
    if (is_empty) bytes = 0;
    if (bytes != tensor.end - tensor.begin)
      fail(label, "shape and dtype need " + std::to_string(bytes) + " bytes, data_offsets holds " + std::to_string(tensor.end - tensor.begin));
  }

  void check_names() const {
    std::vector<std::string_view> names;
    names.reserve(out_.tensors.size());
    for (const StoredTensor& tensor : out_.tensors) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) fail("tensor \"" + core::printable(*twice) + "\"", "appears twice");
  }

  void check_coverage() {
    std::sort(out_.tensors.begin(), out_.tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end != b.end ? a.end < b.end : a.name < b.name;
    });
    std::uint64_t covered = 0;
    for (const StoredTensor& tensor : out_.tensors) {
      if (tensor.begin != covered)
        fail("tensor \"" + core::printable(tensor.name) + "\"", std::string("data_offsets leaves ") + (tensor.begin > covered ? "a hole" : "an overlap") +
                                                                    " at byte " + std::to_string(covered) + " of the data");
      covered = tensor.end;
    }
    if (covered != data_bytes_) fail("file", std::to_string(data_bytes_ - covered) + " bytes at its end belong to no tensor");
  }

  std::string_view file_;
  const std::string& name_;
  std::uint64_t data_bytes_ = 0;
  bool has_metadata_ = false;
  SafetensorsHeader out_;
};

template <typename T>
T load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

const char* stored_type_name(StoredType type) { return row_of(type).name; }
std::size_t stored_type_bytes(StoredType type) { return row_of(type).bytes; }

std::uint64_t StoredTensor::elements() const { return (end - begin) / stored_type_bytes(type); }

SafetensorsHeader SafetensorsHeader::parse(std::string_view file, const std::string& name) { return HeaderParser(file, name).parse(); }

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path), header_(SafetensorsHeader::parse(file_.bytes(), path)) {
  for (std::size_t i = 0; i < header_.tensors.size(); ++i) by_name_.emplace(header_.tensors[i].name, i);
}

const StoredTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &header_.tensors[found->second];
}

const StoredTensor& SafetensorsFile::require(const std::string& name, const std::vector<std::uint64_t>& shape) const {
  const StoredTensor* tensor = find(name);
  const auto text = [](const std::vector<std::uint64_t>& extents) {
    std::string out = "[";
    for (std::size_t i = 0; i < extents.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(extents[i]);
    return out + "]";
  };
  if (tensor == nullptr)
    throw core::Error("model_invalid", path() + ": tensor \"" + name + "\" is missing", "", "The file does not belong to this model.");
  if (tensor->shape != shape)
    throw core::Error("model_invalid", path() + ": tensor \"" + name + "\" has shape " + text(tensor->shape) + ", " + text(shape) + " is needed", "",
                      "The file does not belong to this configuration.");
  return *tensor;
}

std::string_view SafetensorsFile::data(const StoredTensor& tensor) const {
  return file_.bytes().substr(header_.data_begin + tensor.begin, tensor.end - tensor.begin);
}

void SafetensorsFile::forget(const StoredTensor& tensor) const { file_.forget(header_.data_begin + tensor.begin, header_.data_begin + tensor.end); }

void SafetensorsFile::read_f32(const StoredTensor& tensor, std::uint64_t first, std::uint64_t count, float* out) const {
  if (first > tensor.elements() || count > tensor.elements() - first) throw std::logic_error("elements read past the end of a tensor");
  const std::uint64_t wide = stored_type_bytes(tensor.type), begin = header_.data_begin + tensor.begin, end = first + count;
  do {  // once for none as well: types are refused
    const std::uint64_t now = std::min(kElementsAtOnce, end - first);
    convert(tensor, data(tensor).data() + first * wide, now, out);
    file_.forget(begin + first * wide, begin + (first + now) * wide);
    first += now, out += now;
  } while (first < end);
}

void SafetensorsFile::convert(const StoredTensor& tensor, const char* bytes, std::uint64_t count, float* out) const {
  switch (tensor.type) {
    case StoredType::F32:
      if (count > 0) std::memcpy(out, bytes, 4 * count);
      return;
    case StoredType::BF16:
      for (std::uint64_t i = 0; i < count; ++i) out[i] = std::bit_cast<float>(std::uint32_t{load<std::uint16_t>(bytes + 2 * i)} << 16);
      return;
    case StoredType::F16:
      for (std::uint64_t i = 0; i < count; ++i) out[i] = core::half_to_float(load<std::uint16_t>(bytes + 2 * i));
      return;
    case StoredType::F64:
      for (std::uint64_t i = 0; i < count; ++i) out[i] = static_cast<float>(load<double>(bytes + 8 * i));
      return;
    default:
      throw core::Error("model_invalid", path() + ": tensor \"" + core::printable(tensor.name) + "\": dtype " + stored_type_name(tensor.type) +
                                             " cannot be used as a weight", "", "Weights must be F32, F16, BF16 or F64.");
  }
}

WrittenFile write_safetensors(const std::string& path, std::vector<TensorToWrite> tensors, std::map<std::string, std::string> metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const std::size_t wide_a = stored_type_bytes(a.type), wide_b = stored_type_bytes(b.type);
    return wide_a != wide_b ? wide_a > wide_b : a.name < b.name;
  });
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (auto field = metadata.begin(); field != metadata.end(); ++field)
      header += (field == metadata.begin() ? "" : ",") + core::json_quote(field->first) + ":" + core::json_quote(field->second);
    header += "}";
  }
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> sizes;
  for (const TensorToWrite& tensor : tensors) {
    std::uint64_t bytes = stored_type_bytes(tensor.type);
    header += (header.size() > 1 ? "," : "") + core::json_quote(tensor.name) + ":{\"dtype\":\"" + stored_type_name(tensor.type) + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      header += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
      bytes *= tensor.shape[i];
    }
    header += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(offset + bytes) + "]}";
    offset += bytes;
    sizes.push_back(bytes);
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  FileWriter writer(path);
  const std::uint64_t header_bytes = header.size();
  writer.write(&header_bytes, 8);
  writer.write(header);
  constexpr std::uint64_t kPiece = std::uint64_t{4} << 20;
  std::vector<char> piece;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].fetch) {
      writer.write(tensors[i].data, sizes[i]);
      continue;
    }
    for (std::uint64_t first = 0; first < sizes[i]; first += kPiece) {
      piece.resize(static_cast<std::size_t>(std::min(kPiece, sizes[i] - first)));
      tensors[i].fetch(first, piece.size(), piece.data());
      writer.write(piece.data(), piece.size());
    }
  }
  writer.commit();
  return {writer.bytes(), writer.sha256()};
}

}  // namespace pgtrain::engine::io
