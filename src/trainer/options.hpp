// options.hpp: from the frozen configuration of a run to the engine's options.
#pragma once

#include "engine/train/training.hpp"
#include "protocol/message.hpp"
#include "protocol/run_config.hpp"

namespace pgtrain::trainer {

/// Folder of the job folder that the files of the base model are in.
inline constexpr const char* kBaseFolder = "base";

/// Every field of the configuration has its option; the base model, the date and the memory limit come from the job.
engine::train::TrainingOptions training_options(const protocol::RunConfig& config, const protocol::down::Job& job);

}  // namespace pgtrain::trainer
