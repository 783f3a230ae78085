// Fills a store of build_llama's graph from a checkpoint, and draws fresh adapters. One weight at a time is in memory besides.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "engine/graph/executor.hpp"
#include "engine/models/adapters.hpp"
#include "engine/models/checkpoint_source.hpp"

namespace pgtrain::engine::models {

// Every weight from `source`; with adapters theirs as PEFT draws them: A uniform within 1 / sqrt(in), B zero, so that the model begins
// as it was. `poll` is called between weights. Errors: model_invalid, io_error.
void load_llama(const CheckpointSource& source, const std::optional<AdapterOptions>& adapters, std::uint64_t seed, graph::ParameterStore& store,
                const std::function<void()>& poll = {});

}  // namespace pgtrain::engine::models
