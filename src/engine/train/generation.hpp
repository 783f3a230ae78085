// Answers of a model to prompts, whatever it is: a folder that a run left behind, a base model alone, an adapter over a base model.
//
// Called by the trainer (generate and evaluate) and by tests. Errors: model_invalid, config_invalid, io_error, out_of_memory.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/train/training.hpp"
#include "engine/train/writer.hpp"

namespace pgtrain::engine::train {

struct ModelFiles {
  std::string folder;       // a whole model, as a run leaves it or Hugging Face's tools save it, or one GGUF file, or an adapter
  std::string base_folder;  // what the adapter was trained on; not looked at for whole models. With an empty `folder`: the model itself
};

std::vector<GenerateResult> generate(const ModelFiles& files, const std::vector<std::string>& prompts, const GenerateOptions& options, backend::Backend& backend,
                                     const std::function<bool()>& stop = {}, const PieceObserver& observer = {});

}  // namespace pgtrain::engine::train
