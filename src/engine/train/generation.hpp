// Answers of a model to prompts, whatever it is: a folder that a run left behind, a base model alone, an adapter over a base model.
//
// Called by the trainer (generate and evaluate) and by tests. Errors: model_invalid, config_invalid, io_error, out_of_memory.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/train/open_model.hpp"
#include "engine/train/training.hpp"
#include "engine/train/writer.hpp"

namespace pgtrain::engine::train {

std::vector<GenerateResult> generate(const ModelFiles& files, const std::vector<std::string>& prompts, const GenerateOptions& options, backend::Backend& backend,
                                     const std::function<bool()>& stop = {}, const PieceObserver& observer = {});

}  // namespace pgtrain::engine::train
