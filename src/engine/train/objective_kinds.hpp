// What the objectives share; included by their own files only.
#pragma once

#include "engine/core/error.hpp"
#include "engine/data/packing.hpp"
#include "engine/train/objective.hpp"

namespace pgtrain::engine::train {

std::unique_ptr<Objective> make_preferences(const TrainingOptions& options, const data::SplitTokens& tokens);

void set_inputs(graph::Executor& executor, const data::Batch& batch);
// Loss and accuracy over at most so many batches, means per token that is learned; samples are not counted.
Evaluation measure(graph::Executor& executor, data::EvaluationStream& stream, std::uint64_t most_batches, const std::function<void()>& poll);
// Steps of the run; whole(n) says how many micro-batches n epochs take.
std::int64_t steps_of(const TrainingOptions& options, const std::function<std::uint64_t(std::uint64_t epochs)>& whole);
// Epochs after which the stream of batches ends. 0 = without end: steps count, or parts of an epoch.
std::uint64_t whole_epochs(const TrainingOptions& options);

}  // namespace pgtrain::engine::train
