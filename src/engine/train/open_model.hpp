// A model opened for use, whatever it is: a folder that a run left behind or Hugging Face's tools saved, a GGUF file, or an adapter over
// a base model. Called by generation and evaluation.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/graph/executor.hpp"
#include "engine/models/checkpoint_source.hpp"
#include "engine/models/model.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::train {

struct ModelFiles {
  std::string folder;       // a whole model, or an adapter; empty: the base model itself
  std::string base_folder;  // what the adapter was trained on; not looked at for whole models
};

struct OpenModel {
  std::unique_ptr<models::CheckpointSource> source;
  models::Tuning tuning;  // everything frozen but adapters
  tokenizers::Tokenizer tokenizer;
  std::string chat_template;  // its text, empty where there is none
  graph::Graph graph;         // over `batch` rows of `length`
  std::int64_t length = 0;    // as asked for, or what the model sees
  std::unique_ptr<graph::ParameterStore> store;

  const models::ModelConfig& config() const { return source->config(); }
};

// chat_template: empty for the one that lies beside the adapter or the model.
// precision: auto | fp32 | bf16; auto is fp32 for weights that are stored so, else what the device is best at. `poll` is called between
// weights. Errors: model_invalid, config_invalid, io_error.
OpenModel open_model(const ModelFiles& files, const std::string& chat_template, const std::string& precision, std::int64_t batch, std::int64_t length, backend::Backend& backend,
                     const std::function<void()>& poll = {});

}  // namespace pgtrain::engine::train
