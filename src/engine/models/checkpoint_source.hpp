// A pretrained model wherever it lies: a Hugging Face folder (one safetensors file or shards with an index) or a GGUF file, behind
// one interface with transformers' names and layouts.
//
// Opening checks everything that can be known without reading weights: the configuration, and that each tensor that it implies
// is there once, with its shape and a type that can be read, and nothing else but what is known to carry no weights. Reading
// needs a small buffer besides the caller's own memory. Pickled checkpoints are refused: opening one runs its author's code.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/core/dtype.hpp"
#include "engine/io/gguf.hpp"
#include "engine/models/gguf_model.hpp"
#include "engine/models/model_config.hpp"

namespace pgtrain::engine::models {

// The chat template that lies in a folder: in its own file, or in tokenizer_config.json. Nothing where there is none. Errors: model_invalid.
std::optional<std::string> chat_template_in(const std::string& folder);

struct SourceTensor {
  std::string name;  // transformers'
  std::vector<std::uint64_t> shape;
  std::string stored_type;  // "BF16", "Q4_K", ... of the file
  std::uint64_t elements = 0;
};

class CheckpointSource {
 public:
  // path is a folder or a GGUF file. Errors: model_invalid, io_error.
  static std::unique_ptr<CheckpointSource> open(const std::string& path);
  virtual ~CheckpointSource() = default;

  const ModelConfig& config() const { return config_; }
  const std::vector<SourceTensor>& tensors() const { return tensors_; }  // in the order of parameter_shapes()
  std::size_t index_of(std::string_view name) const;                     // of a name in tensors()
  // Whole tensors; out holds `elements` values.
  void read_f32(std::size_t index, float* out) const;
  void read_bf16(std::size_t index, core::Bf16* out) const;

  // What the tokenizer and the chat template are made of: the texts of files beside a folder's weights, empty when absent. A GGUF
  // file has its vocabulary in its metadata.
  virtual std::string tokenizer_json() const { return {}; }
  virtual std::string tokenizer_config_json() const { return {}; }
  virtual std::string chat_template() const = 0;
  virtual const io::GgufHeader* gguf() const { return nullptr; }

 protected:
  struct Layout {
    GgufLayout kind = GgufLayout::Same;
    std::uint64_t rows = 0, columns = 0;  // in the file
  };
  virtual Layout layout(std::size_t index) const = 0;
  virtual std::uint64_t piece(std::size_t index) const = 0;  // reads begin and end at multiples of it
  virtual void read(std::size_t index, std::uint64_t first, std::uint64_t count, float* out) const = 0;

  // One error for all tensors that are missing, of another shape or not of the model.
  struct Found {
    std::string name;  // as messages call it
    std::vector<std::uint64_t> shape;
  };
  struct Wanted {
    std::string name;
    std::vector<std::uint64_t> shape;
  };
  static void compare(const std::string& path, const std::string& model_type, const std::vector<Wanted>& wanted,
                      const std::unordered_map<std::string, Found>& found);

  ModelConfig config_;
  std::vector<SourceTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> by_name_;
  void index_tensors();

 private:
  template <typename T>
  void read_as(std::size_t index, T* out) const;
};

}  // namespace pgtrain::engine::models
