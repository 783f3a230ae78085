// More forms of a model that lies in files already, or in a checkpoint: the exports that its run did not make, written and checked as a
// run does.
//
// The base model is read a tensor at a time and only what an adapter holds is in memory besides. Called by the trainer.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/train/exports.hpp"
#include "engine/train/open_model.hpp"

namespace pgtrain::engine::train {

// Into `folder`, which is not the model's own. The precisions are as in ExportRequest; `poll` is called between tensors and may throw.
// Errors: those of write_exports() and check_exports(), model_invalid.
std::vector<Artifact> export_model(const ModelFiles& files, const std::vector<ExportKind>& kinds, const std::string& stored_precision, const std::string& adapter_precision, const std::string& folder,
                                   backend::Backend& backend, const std::function<void()>& poll);

}  // namespace pgtrain::engine::train
