// The formats behind exports.hpp. Called by exports.cpp, and by adapter_files.cpp for the types of numbers.
#pragma once

#include <string>
#include <vector>

#include "engine/io/safetensors.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/merged_weights.hpp"

namespace pgtrain::engine::train {

[[noreturn]] void fail_export_check(const std::string& path, const std::string& reason);
inline void poll_export(const ExportRequest& request) {
  if (request.poll) request.poll();
}

// Values as a file has them in F32, BF16 or F16. model_invalid where F16 cannot hold one; `setting` is what the user can change.
void store_values(io::StoredType type, const float* values, std::size_t count, const std::string& name, const char* setting, char* to);

// model.safetensors or its shards, config.json and generation_config.json.
void write_merged(const ExportRequest& request, const MergedWeights& weights, std::vector<Artifact>& out);
void check_merged(const ExportRequest& request, const MergedWeights& weights);

// tokenizer.json, tokenizer_config.json and chat_template.jinja.
void write_tokenizer(const ExportRequest& request, std::vector<Artifact>& out);
void check_tokenizer(const ExportRequest& request);

void write_gguf(const ExportRequest& request, const MergedWeights& weights, ExportKind kind, std::vector<Artifact>& out);
void check_gguf(const ExportRequest& request, const MergedWeights& weights, ExportKind kind);

void check_adapter(const ExportRequest& request);

}  // namespace pgtrain::engine::train
