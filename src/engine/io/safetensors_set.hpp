// The safetensors of one model in one folder: model.safetensors, or the shards that model.safetensors.index.json names.
//
// The index is checked against the shards: each tensor lies in the one shard that the index says, and no shard has others.
// Names of shards are names of files in this folder and nothing else. Called by models/checkpoint_source.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/io/safetensors.hpp"

namespace pgtrain::engine::io {

class SafetensorsSet {
 public:
  // model_invalid when there is neither; pickled weights found in their place are refused with the reason.
  explicit SafetensorsSet(const std::string& folder);

  struct Entry {
    const SafetensorsFile* file;
    const StoredTensor* tensor;
  };
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  void open_shards(const std::string& folder, const std::string& index);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Entry> entries_;
};

// Says why pickled checkpoints are not read when a folder or path holds one; nothing otherwise.
void refuse_pickle(const std::string& path);

}  // namespace pgtrain::engine::io
