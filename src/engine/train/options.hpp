// What the parts of train/ ask of the options besides resolve() of training.hpp.
#pragma once

#include <string>

#include "engine/models/model.hpp"
#include "engine/train/optimizer.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

bool has_base(const TrainingOptions& options);
// Of a new model.
models::ModelConfig model_config(const TrainingOptions& resolved, int vocab_size, int end_of_text);
models::Tuning tuning_of(const TrainingOptions& options);
OptimizerOptions optimizer_of(const TrainingOptions& options);
int default_warmup(std::int64_t steps);

// Every option that changes the numbers of a run, as text: a checkpoint of other numbers is refused by the field that differs.
// Precision is kept beside it, since auto follows the checkpoint.
std::string describe_for_resume(const TrainingOptions& resolved);

}  // namespace pgtrain::engine::train
