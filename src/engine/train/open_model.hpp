// A model opened for use, whatever it is: a folder that a run left behind or Hugging Face's tools saved, a GGUF file, an adapter over
// a base model, or a checkpoint of a run. Called by generation and evaluation.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/graph/executor.hpp"
#include "engine/models/model.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/checkpoint.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

struct ModelFiles {
  std::string folder;       // a whole model, or an adapter; empty: the base model itself
  std::string base_folder;  // what the adapter was trained on; not looked at for whole models
  // In place of a folder: a checkpoint of a run with these options, which resolve() has seen. Adapters lie over the base model; of a
  // run that trained the whole of it, tokenizer and architecture are taken from there.
  std::string checkpoint = {};
  TrainingOptions trained_with = {};
};

// What the files are; of their weights nothing is read yet.
struct FoundModel {
  std::unique_ptr<models::CheckpointSource> source;  // the base model where the files are an adapter's
  std::unique_ptr<AdapterFolder> adapter;
  models::Tuning tuning;                             // everything frozen but adapters
  std::string chat_template;                         // its text, empty where there is none
};
// chat_template: empty for the one that lies beside the adapter or the model. Errors: model_invalid, io_error.
FoundModel find_model(const ModelFiles& files, const std::string& chat_template);

// The same of files.checkpoint.
struct FoundCheckpoint {
  std::unique_ptr<CheckpointReader> reader;
  std::unique_ptr<models::CheckpointSource> base;  // nothing: made from scratch
  models::ModelConfig config;
  tokenizers::Tokenizer tokenizer;
  std::optional<models::AdapterOptions> adapters;  // else the whole model trained
  std::string chat_template;
};
FoundCheckpoint find_checkpoint(const ModelFiles& files, const std::string& chat_template);

struct OpenModel {
  models::ModelConfig config;
  models::Tuning tuning;  // everything frozen but adapters
  tokenizers::Tokenizer tokenizer;
  std::string chat_template;  // its text, empty where there is none
  graph::Graph graph;         // over `batch` rows of `length`
  std::int64_t length = 0;    // as asked for, or what the model sees
  std::unique_ptr<graph::ParameterStore> store;
};

// precision: auto | fp32 | bf16; auto is fp32 for weights that are stored so, else what the device is best at. `poll` is called between
// weights. Errors: model_invalid, config_invalid, io_error.
OpenModel open_model(const ModelFiles& files, const std::string& chat_template, const std::string& precision, std::int64_t batch, std::int64_t length, backend::Backend& backend,
                     const std::function<void()>& poll = {});

}  // namespace pgtrain::engine::train
