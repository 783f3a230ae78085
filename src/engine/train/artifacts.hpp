// The files a model lives in: written, read back and compared before a run may call itself complete; and opened again.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/models/model_config.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

// stored_precision: fp32 | bf16 (rounded to nearest).
std::vector<Artifact> write_artifacts(const std::string& folder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                                      const graph::ParameterStore& store, const std::string& stored_precision);

// Reads the files as a stranger would and compares all weights, the configuration and the tokenizer with what was trained.
void check_artifacts(const std::string& folder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                     const graph::ParameterStore& store, const std::string& stored_precision);

struct LoadedModel {
  models::ModelConfig config;
  tokenizers::Tokenizer tokenizer;
  std::unique_ptr<graph::ParameterStore> store;  // weights only, fp32
};
// From the three files; tensor names with or without "transformer." in front.
LoadedModel load_model(const std::string& folder, backend::Backend& backend);

}  // namespace pgtrain::engine::train
