// What a finished run leaves behind, in the formats of others: a PEFT adapter, a merged checkpoint as transformers saves it, GGUF files
// as llama.cpp runs them; and the tokenizer and chat template beside them.
//
// write_exports() writes into one folder, under flat names. check_exports() then opens every file as a stranger would, through the
// readers that read other people's files: no name unknown, none missing, every value what it should be. A run has not succeeded before
// that. Needs memory for a few tensors at a time. Called by training runs and by tests.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/models/adapters.hpp"
#include "engine/models/checkpoint_source.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

enum class ExportKind { Peft, Merged, GgufF16, GgufQ8_0, GgufQ4_K };
// "peft,gguf_q8_0", each once, in this order; config_invalid with the names that there are.
std::vector<ExportKind> parse_exports(std::string_view list);

inline constexpr const char* kIndexFile = "model.safetensors.index.json";
inline constexpr const char* kGenerationConfigFile = "generation_config.json";
inline constexpr const char* kTokenizerConfigFile = "tokenizer_config.json";
inline constexpr const char* kChatTemplateFile = "chat_template.jinja";
const char* gguf_file_name(ExportKind kind);  // model-f16.gguf, model-q8_0.gguf, model-q4_k.gguf

struct ExportRequest {
  std::string folder;
  const models::ModelConfig& config;
  const models::Tuning& tuning;
  const models::CheckpointSource* base = nullptr;  // null: the model was made from nothing
  const graph::ParameterStore& store;
  const tokenizers::Tokenizer& tokenizer;
  std::string chat_template = {};  // empty: none
  std::string base_name = {};      // what others load the base model by; stands in adapter_config.json
  std::string model_name = {};     // stands in GGUF files
  // Of merged safetensors: fp32 | bf16 | fp16; auto: the base's own, bf16 for a GGUF base, else fp32.
  std::string stored_precision = "auto";
  std::string adapter_precision = "fp32";  // fp32 | bf16 | fp16; of adapters and of what trained beside them
  std::vector<ExportKind> kinds = {};
  std::uint64_t shard_bytes = 5'000'000'000;  // a merged checkpoint above it is cut, as transformers does
  std::function<void()> poll = {};            // between tensors; may throw
};

// config_invalid for an adapter that does not exist, model_invalid for what a format cannot hold, non_finite_loss, io_error.
std::vector<Artifact> write_exports(const ExportRequest& request);
// io_error when a file does not read back as what was trained.
void check_exports(const ExportRequest& request);

}  // namespace pgtrain::engine::train
