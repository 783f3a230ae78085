// GGUF, versions 2 and 3, little-endian: llama.cpp's model files. Metadata is typed pairs, weights are blocks (quants.hpp).
//
// The reader trusts nothing: counts, lengths, kinds, shapes, types, offsets and their products are checked against the real size
// of the file before anything is handed out; what it keeps are views of the file, so a file cannot make it ask for more than a
// few times its own size. Version 1, big-endian files and types that are not read are refused by name. Each refusal is
// model_invalid with file, field and reason. Callers: models/ and the exports of train/.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/io/file.hpp"
#include "engine/io/quants.hpp"

namespace pgtrain::engine::io {

enum class GgufKind : std::uint32_t { U8, I8, U16, I16, U32, I32, F32, Boolean, Text, Array, U64, I64, F64 };

// A value as it lies in the file.
struct GgufValue {
  GgufKind kind = GgufKind::U8;
  GgufKind element = GgufKind::U8;  // of an array
  std::uint64_t count = 1;          // elements of an array
  std::string_view bytes;           // a text itself; otherwise the payload, where each text of an array has its length before it
};

struct GgufTensor {
  std::string name;
  BlockType type = BlockType::F32;
  std::vector<std::uint64_t> shape;  // rows first, as everywhere else in the engine; the file has it the other way round
  std::uint64_t begin = 0, end = 0;  // relative to the data
  std::uint64_t elements() const;
};

class GgufHeader {
 public:
  // file must outlive the header. name stands in messages.
  static GgufHeader parse(std::string_view file, const std::string& name);

  const std::vector<std::pair<std::string_view, GgufValue>>& metadata() const { return metadata_; }  // sorted by key
  const GgufValue* find(std::string_view key) const;
  // Nothing when the key is absent; model_invalid when its value is of another kind.
  std::optional<std::uint64_t> find_unsigned(std::string_view key) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_boolean(std::string_view key) const;
  std::optional<std::string_view> find_text(std::string_view key) const;
  std::vector<std::string_view> find_texts(std::string_view key) const;  // empty when absent
  std::vector<std::int64_t> find_integers(std::string_view key) const;
  std::vector<float> find_numbers(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in order of data
  const GgufTensor* find_tensor(std::string_view tensor) const;
  std::uint64_t data_begin() const { return data_begin_; }
  const std::string& name() const { return name_; }

 private:
  friend class GgufParser;
  [[noreturn]] void mismatch(std::string_view key, const GgufValue& value, const char* wanted) const;

  std::string name_;
  std::vector<std::pair<std::string_view, GgufValue>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::vector<std::uint32_t> by_name_;  // tensors_, sorted by name
  std::uint64_t data_begin_ = 0;
};

class GgufFile {
 public:
  explicit GgufFile(const std::string& path) : file_(path), header_(GgufHeader::parse(file_.bytes(), path)) {}

  const GgufHeader& header() const { return header_; }
  std::string_view data(const GgufTensor& tensor) const {
    return file_.bytes().substr(header_.data_begin() + tensor.begin, tensor.end - tensor.begin);
  }
  // Elements first ... first + count - 1 as floats; both ends lie on blocks. What was read is forgotten, as in SafetensorsFile.
  void read_f32(const GgufTensor& tensor, std::uint64_t first, std::uint64_t count, float* out) const;

 private:
  MappedFile file_;
  GgufHeader header_;
};

// Writes version 3. Order: every set..., every declare, then the values of the tensors in the order of their declarations, in
// pieces of any number of whole blocks, then commit.
class GgufWriter {
 public:
  explicit GgufWriter(const std::string& path) : file_(path) {}

  void set_u32(std::string_view key, std::uint32_t value);
  void set_f32(std::string_view key, float value);
  void set_boolean(std::string_view key, bool value);
  void set_text(std::string_view key, std::string_view value);
  void set_texts(std::string_view key, const std::vector<std::string_view>& values);
  void set_i32s(std::string_view key, const std::vector<std::int32_t>& values);
  void set_f32s(std::string_view key, const std::vector<float>& values);
  void copy(std::string_view key, const GgufValue& value);

  static bool fits(BlockType type, const std::vector<std::uint64_t>& shape);  // rows are whole blocks
  void declare(const std::string& tensor, const std::vector<std::uint64_t>& shape, BlockType type);
  // model_invalid with the tensor's name when a value has no finite form in its type.
  void write(const float* values, std::uint64_t count);
  WrittenFile commit();

 private:
  struct Declared {
    std::string name;
    std::vector<std::uint64_t> shape;
    BlockType type;
    std::uint64_t elements, bytes;
  };
  void put_key(std::string_view key, GgufKind kind);
  void put_text(std::string_view text);
  template <typename T>
  void put(T value) {
    metadata_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void write_header();
  void pad();

  FileWriter file_;
  std::string metadata_;
  std::vector<std::string> keys_;
  std::vector<Declared> tensors_;
  std::size_t current_ = 0;
  std::uint64_t done_ = 0;  // elements of the current tensor
  bool has_header_ = false;
};

}  // namespace pgtrain::engine::io
