// What a model's loss and accuracy are on samples. Called by the trainer.
#pragma once

#include <functional>
#include <string>

#include "engine/train/open_model.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

// options: of the run that made the model; its batch_size, context, loss_on, long_samples and chat_template say how samples become
// losses of the next token; preferences are refused. Every sample counts. Writes the tokens into work_folder. Errors as of train().
Evaluation evaluate(const ModelFiles& files, const TrainingOptions& options, bool are_records, const std::string& documents_path, const std::string& work_folder,
                    backend::Backend& backend, const std::function<void()>& poll);

// Of preferences, by which DPO goes: the loss and the accuracy are those of its objective, against the base model.
struct PreferenceEvaluation : Evaluation {
  double margin = 0;          // mean of beta times how much more the chosen answer has gained over the base model than the rejected one
  double chosen_likelier = 0; // share of pairs whose chosen answer the model itself finds the likelier one
};

// As evaluate(), of records that are all preferences; files.base_folder is the reference, and alone it is measured against itself. Pairs
// that do not fit into the context are cut, unless long_samples refuses them; samples counts those of which both answers are left.
PreferenceEvaluation evaluate_preferences(const ModelFiles& files, const TrainingOptions& options, const std::string& documents_path, const std::string& work_folder,
                                          backend::Backend& backend, const std::function<void()>& poll);

}  // namespace pgtrain::engine::train
