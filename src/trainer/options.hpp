// options.hpp: from the frozen configuration of a run to the engine's options.
#pragma once

#include "engine/train/training.hpp"
#include "protocol/run_config.hpp"

namespace pgtrain::trainer {

/// Every field of the configuration has its option; the memory limit comes from the job.
engine::train::TrainingOptions training_options(const protocol::RunConfig& config, uint64_t memory_limit_bytes);

}  // namespace pgtrain::trainer
