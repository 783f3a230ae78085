// Fills a store of build_model's graph: from a checkpoint, or by chance. One weight at a time is in memory besides.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/graph/executor.hpp"
#include "engine/models/adapters.hpp"
#include "engine/models/checkpoint_source.hpp"

namespace pgtrain::engine::models {

// Every weight from `source`; adapters as PEFT draws them: A uniform within 1 / sqrt(in), B zero, so that the model begins as it was.
// `poll` is called between weights. Errors: model_invalid, io_error.
void load_weights(const CheckpointSource& source, const Tuning& tuning, std::uint64_t seed, graph::ParameterStore& store, const std::function<void()>& poll = {});

// A model from nothing, all of which trains: matrices normal with deviation initializer_range, those of GPT-2 into the residual stream
// divided by sqrt(2 layers); norms one, biases zero.
void draw_weights(const ModelConfig& config, std::uint64_t seed, graph::ParameterStore& store, const std::function<void()>& poll = {});
// One of them; index is its place in model_weights(), out holds its elements.
void draw_weight(const ModelConfig& config, const ModelWeight& weight, std::size_t index, std::uint64_t seed, float* out);

}  // namespace pgtrain::engine::models
