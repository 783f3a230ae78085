// A model's files in a folder, as a run leaves them there, and one answer of it: what the tests of writing begin with.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/io/file.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/train/generation.hpp"

namespace pgtrain::engine::train {

// Whole weights in 32 bits, whatever they are, with the tokenizer of bytes.
inline void write_model(const std::string& folder, const models::ModelConfig& config, const graph::ParameterStore& store) {
  std::vector<float> weights(static_cast<std::size_t>(store.count()));
  store.download_weights(weights.data());
  std::vector<io::TensorToWrite> tensors;
  for (const graph::Parameter& parameter : store.parameters())
    tensors.push_back({parameter.name, io::StoredType::F32, {parameter.shape.begin(), parameter.shape.end()}, weights.data() + parameter.offset});
  io::write_safetensors(folder + "/" + kModelFile, std::move(tensors));
  models::ModelConfig stored = config;
  stored.stored_type = "float32";  // so that it is computed with in float, whatever the device would rather
  io::write_file(folder + "/" + kConfigFile, stored.to_json());
  io::write_file(folder + "/" + kTokenizerFile, tokenizers::Tokenizer::bytes().to_json());
}

struct Ask : GenerateOptions {
  std::string prompt;
};

inline GenerateResult answer(const std::string& folder, const Ask& ask, backend::Backend& device, const std::function<bool()>& stop = {}) {
  return generate({folder, ""}, {ask.prompt}, ask, device, stop)[0];
}

}  // namespace pgtrain::engine::train
