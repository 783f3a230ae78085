// Shards and their index.
#include "engine/io/safetensors_set.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"

namespace pgtrain::engine::io {
namespace {

constexpr const char* kWhole = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr std::uint64_t kMostIndexBytes = std::uint64_t{64} << 20;
constexpr std::size_t kMostShards = 1024;

[[noreturn]] void refuse(const std::string& where, const std::string& reason,
                         const std::string& hint = "The download is not complete or damaged; get the folder again.") {
  throw core::Error("model_invalid", where + ": " + reason, "", hint);
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

bool is_pickle_name(const std::string& name) {
  for (const char* end : {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin.index.json"})
    if (ends_with(name, end)) return true;
  return false;
}

// The name of a file in this folder: nothing that leads elsewhere.
bool is_plain_name(const std::string& name) {
  return ends_with(name, ".safetensors") && name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos && name[0] != '.';
}

// Tensor -> shard, as the index has it.
std::unordered_map<std::string, std::string> read_index(const std::string& path) {
  const std::string text = read_small_file(path, kMostIndexBytes);
  core::JsonReader reader(text, path);
  std::unordered_map<std::string, std::string> out;
  bool has_map = false;
  std::string key;
  reader.begin_object();
  while (reader.next_member(key)) {
    if (key != "weight_map") {
      reader.skip();
      continue;
    }
    if (has_map) refuse(path, "weight_map appears twice");
    has_map = true;
    reader.begin_object();
    std::string tensor;
    while (reader.next_member(tensor)) {
      const std::string shard = reader.read_string();
      if (!is_plain_name(shard))
        refuse(path, "weight_map: \"" + core::printable(shard) + "\" is not the name of a safetensors file in this folder");
      if (!out.emplace(tensor, shard).second) refuse(path, "weight_map: tensor \"" + core::printable(tensor) + "\" appears twice");
    }
  }
  reader.expect_end();
  if (out.empty()) refuse(path, "weight_map is missing or empty");
  return out;
}

}  // namespace

void refuse_pickle(const std::string& path) {
  const auto refuse_file = [](const std::string& file) {
    refuse(file, "pickled weights are not read",
           "A pickle runs code of its author when it is opened. Take the model's safetensors, or make them: load it where you trust it and "
           "call save_pretrained.");
  };
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    if (is_pickle_name(path)) refuse_file(path);
    return;
  }
  std::string found;
  for (std::filesystem::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    // training_args.bin, optimizer.pt and the like lie beside weights of any form.
    const bool is_weights = name.rfind("pytorch_model", 0) == 0 || name.rfind("consolidated", 0) == 0 || name.rfind("model", 0) == 0;
    if (is_pickle_name(name) && (is_weights || found.empty())) found = name;
  }
  if (!found.empty()) refuse_file(path + "/" + found);
}

SafetensorsSet::SafetensorsSet(const std::string& folder) {
  const std::string whole = folder + "/" + kWhole, index = folder + "/" + kIndex;
  if (file_exists(whole)) {
    files_.push_back(std::make_unique<SafetensorsFile>(whole));
    for (const StoredTensor& tensor : files_[0]->tensors()) entries_.push_back({files_[0].get(), &tensor});
    return;
  }
  if (file_exists(index)) {
    open_shards(folder, index);
    return;
  }
  refuse_pickle(folder);
  refuse(folder, std::string("has neither ") + kWhole + " nor " + kIndex,
         "Give the folder of a model as Hugging Face's tools save it, or a GGUF file.");
}

void SafetensorsSet::open_shards(const std::string& folder, const std::string& index) {
  const auto places = read_index(index);
  std::map<std::string, std::size_t> shards;
  for (const auto& place : places) shards.emplace(place.second, 0);
  if (shards.size() > kMostShards)
    refuse(index, "names " + std::to_string(shards.size()) + " files, " + std::to_string(kMostShards) + " are allowed");
  for (const auto& shard : shards)
    if (!file_exists(folder + "/" + shard.first))
      refuse(folder + "/" + shard.first, "is missing, but " + std::string(kIndex) + " names it");
  for (const auto& shard : shards) {
    files_.push_back(std::make_unique<SafetensorsFile>(folder + "/" + shard.first));
    for (const StoredTensor& tensor : files_.back()->tensors()) {
      const auto place = places.find(tensor.name);
      if (place == places.end() || place->second != shard.first)
        refuse(files_.back()->path(), "tensor \"" + core::printable(tensor.name) + "\" is not where " + kIndex + " says");
      entries_.push_back({files_.back().get(), &tensor});
    }
  }
  if (entries_.size() == places.size()) return;
  // Every tensor found is in the index, so some of the index were not found.
  std::unordered_set<std::string_view> found;
  for (const Entry& entry : entries_) found.insert(entry.tensor->name);
  for (const auto& [tensor, shard] : places)
    if (found.count(tensor) == 0)
      refuse(folder + "/" + shard, "tensor \"" + core::printable(tensor) + "\" is missing, which " + kIndex + " has there");
}

}  // namespace pgtrain::engine::io
