// What a model's loss and accuracy are on samples. Called by the trainer.
#pragma once

#include <functional>
#include <string>

#include "engine/train/open_model.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

// options: of the run that made the model; its batch_size, context, loss_on, long_samples and chat_template say how samples become
// losses of the next token, whatever its objective was; preferences are refused. Every sample counts. Writes the tokens into work_folder. Errors as of train().
Evaluation evaluate(const ModelFiles& files, const TrainingOptions& options, bool are_records, const std::string& documents_path, const std::string& work_folder,
                    backend::Backend& backend, const std::function<void()>& poll);

}  // namespace pgtrain::engine::train
