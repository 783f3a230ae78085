// What both kinds of sources share: choosing one, comparing tensors with the configuration, and reading in pieces.
#include "engine/models/checkpoint_source.hpp"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <type_traits>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/safetensors_set.hpp"
#include "engine/models/checkpoint_kinds.hpp"

namespace pgtrain::engine::models {
namespace {

constexpr std::uint64_t kElementsAtOnce = 65536;
constexpr std::size_t kNamedAtMost = 8;

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

// "a, b and 7 others"
std::string list(const std::vector<std::string>& names) {
  std::string out;
  for (std::size_t i = 0; i < std::min(names.size(), kNamedAtMost); ++i) out += (i > 0 ? ", " : "") + names[i];
  return names.size() > kNamedAtMost ? out + " and " + std::to_string(names.size() - kNamedAtMost) + " others" : out;
}

}  // namespace

std::unique_ptr<CheckpointSource> CheckpointSource::open(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return open_hf_folder(path);
  io::refuse_pickle(path);
  const std::string_view end = ".safetensors";
  if (path.size() > end.size() && path.compare(path.size() - end.size(), end.size(), end) == 0)
    throw core::Error("model_invalid", path + ": a safetensors file alone has weights but no configuration", "",
                      "Give its folder, with config.json and the tokenizer in it.");
  return open_gguf_file(path);
}

std::size_t CheckpointSource::index_of(std::string_view name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) throw std::logic_error("the model has no tensor " + std::string(name));
  return found->second;
}

void CheckpointSource::index_tensors() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    tensors_[i].elements = 1;
    for (const std::uint64_t extent : tensors_[i].shape) tensors_[i].elements *= extent;
    by_name_.emplace(tensors_[i].name, i);
  }
}

void CheckpointSource::compare(const std::string& path, const std::string& model_type, const std::vector<Wanted>& wanted,
                               const std::unordered_map<std::string, Found>& found) {
  std::vector<std::string> missing, misshaped, extra;
  std::unordered_map<std::string_view, bool> is_wanted;
  for (const Wanted& tensor : wanted) {
    is_wanted.emplace(tensor.name, true);
    const auto here = found.find(tensor.name);
    if (here == found.end())
      missing.push_back(tensor.name);
    else if (here->second.shape != tensor.shape)
      misshaped.push_back(here->second.name + " has " + shape_text(here->second.shape) + ", " + shape_text(tensor.shape) + " is needed");
  }
  for (const auto& [name, tensor] : found)
    if (is_wanted.find(name) == is_wanted.end()) extra.push_back(core::printable(tensor.name));
  if (missing.empty() && misshaped.empty() && extra.empty()) return;
  std::sort(extra.begin(), extra.end());
  std::string problem, detail;
  const auto add = [&](const std::vector<std::string>& names, const char* what) {
    if (names.empty()) return;
    problem += (problem.empty() ? "" : ", ") + std::to_string(names.size()) + " " + what;
    detail += (detail.empty() ? "" : "; ") + std::string(what) + ": " + list(names);
  };
  add(missing, "missing"), add(misshaped, "of another shape"), add(extra, "not known");
  throw core::Error("model_invalid",
                    path + ": the tensors are not those of the configuration, a " + model_type + " model: " + problem + " (" + detail + ")",
                    detail,
                    "Weights and configuration belong to different models, or the file is not complete; get both again from one place.");
}

// Places of a file's rows in the parameter: moved as a whole, or, transposed, spread over its columns.
template <typename T>
void CheckpointSource::read_as(std::size_t index, T* out) const {
  const std::uint64_t count = tensors_.at(index).elements, whole_blocks = piece(index);
  const Layout place = layout(index);
  if constexpr (std::is_same_v<T, float>)
    if (place.kind == GgufLayout::Same) return read(index, 0, count, out);
  const auto store = [](T& to, float value) {
    if constexpr (std::is_same_v<T, float>)
      to = value;
    else
      to = core::to_bf16(value);
  };
  std::vector<float> buffer(std::min(count, kElementsAtOnce / whole_blocks * whole_blocks));
  const auto head = static_cast<std::uint64_t>(config_.head_width);
  for (std::uint64_t first = 0; first < count; first += buffer.size()) {
    const std::uint64_t now = std::min<std::uint64_t>(buffer.size(), count - first);
    read(index, first, now, buffer.data());
    for (std::uint64_t i = 0; i < now;) {
      const std::uint64_t row = (first + i) / place.columns, column = (first + i) % place.columns,
                          run = std::min(now - i, place.columns - column);
      const bool is_turned = place.kind == GgufLayout::Transposed;
      T* to = is_turned ? out + column * place.rows + row : out + parameter_row(place.kind, row, head) * place.columns + column;
      const std::uint64_t step = is_turned ? place.rows : 1;
      for (std::uint64_t k = 0; k < run; ++k) store(to[k * step], buffer[i + k]);
      i += run;
    }
  }
}

void CheckpointSource::read_f32(std::size_t index, float* out) const { read_as(index, out); }
void CheckpointSource::read_bf16(std::size_t index, core::Bf16* out) const { read_as(index, out); }

}  // namespace pgtrain::engine::models
