// The safetensors format: the only binary model format that is read, and the one that is written.
//
// The reader trusts nothing: header length, JSON, types, shapes, offsets and their products are checked against the
// real size of the file before a byte of data is handed out; offsets must cover the data without hole or overlap.
// Each refusal is model_invalid and names file, tensor, field and reason. The writer orders tensors as the reference
// implementation does (by size of type, descending, then by name), so equal tensors give equal bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/io/file.hpp"

namespace pgtrain::engine::io {

enum class StoredType { Bool, U8, I8, F8E4M3, F8E5M2, I16, U16, F16, BF16, I32, U32, F32, I64, U64, F64 };
const char* stored_type_name(StoredType type);
std::size_t stored_type_bytes(StoredType type);

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::F32;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0, end = 0;  // relative to the data
  std::uint64_t elements() const;
};

// Parses and checks a whole file in memory. name stands in messages.
struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;  // in order of data
  std::map<std::string, std::string> metadata;
  std::uint64_t data_begin = 0;

  static SafetensorsHeader parse(std::string_view file, const std::string& name);
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::vector<StoredTensor>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const StoredTensor* find(const std::string& name) const;
  // The tensor, or model_invalid when it is absent or of another shape.
  const StoredTensor& require(const std::string& name, const std::vector<std::uint64_t>& shape) const;
  std::string_view data(const StoredTensor& tensor) const;
  // The tensor's bytes will not be read soon: they leave this process's memory.
  void forget(const StoredTensor& tensor) const;
  // Converts F16, BF16, F32 and F64; refuses other types by name. out holds tensor.elements() values. What was read
  // is forgotten piece by piece, so that no copy of the file gathers in memory while a model is loaded.
  void read_f32(const StoredTensor& tensor, float* out) const { read_f32(tensor, 0, tensor.elements(), out); }
  void read_f32(const StoredTensor& tensor, std::uint64_t first, std::uint64_t count, float* out) const;  // a part of it
  const std::string& path() const { return file_.path(); }

 private:
  void convert(const StoredTensor& tensor, const char* bytes, std::uint64_t count, float* out) const;

  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string, std::size_t> by_name_;
};

// A tensor to be written; data must hold elements * size of type and outlive the call. Where it is null, fetch(first, bytes, to) is asked
// for one piece after the other.
struct TensorToWrite {
  std::string name;
  StoredType type = StoredType::F32;
  std::vector<std::uint64_t> shape;
  const void* data = nullptr;
  std::function<void(std::uint64_t first, std::size_t bytes, void* to)> fetch{};
};
WrittenFile write_safetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                              std::map<std::string, std::string> metadata = {{"format", "pt"}});

}  // namespace pgtrain::engine::io
