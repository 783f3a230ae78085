// The two kinds of checkpoint sources, for CheckpointSource::open alone.
#pragma once

#include <memory>
#include <string>

#include "engine/models/checkpoint_source.hpp"

namespace pgtrain::engine::models {

std::unique_ptr<CheckpointSource> open_hf_folder(const std::string& folder);
std::unique_ptr<CheckpointSource> open_gguf_file(const std::string& path);

}  // namespace pgtrain::engine::models
