// What the objectives share; included by their own files only.
#pragma once

#include "engine/core/error.hpp"
#include "engine/data/packing.hpp"
#include "engine/data/pairs.hpp"
#include "engine/train/objective.hpp"

namespace pgtrain::engine::train {

std::unique_ptr<Objective> make_preferences(const TrainingOptions& options, const data::SplitTokens& tokens);

void set_inputs(graph::Executor& executor, const data::Batch& batch);
// Loss and accuracy over at most so many batches, means per token that is learned; samples are not counted.
Evaluation measure(graph::Executor& executor, data::EvaluationStream& stream, std::uint64_t most_batches, const std::function<void()>& poll);
// Of each sequence of a batch of pairs that was just set as input and run forward, in nats; `losses` is room for what is downloaded.
std::vector<double> log_probabilities(graph::Executor& executor, const data::PairBatch& batch, std::vector<float>& losses);
// -log sigmoid(margin), and whether the chosen answer is preferred.
void add_margin(double margin, double& loss, double& accuracy);
// Steps of the run; whole(n) says how many micro-batches n epochs take.
std::int64_t steps_of(const TrainingOptions& options, const std::function<std::uint64_t(std::uint64_t epochs)>& whole);
// What both say of their data.
DataFacts data_facts(const data::SplitTokens& tokens, const data::Fit& fit, std::int64_t steps);
// Micro-batches that an evaluation may take.
std::uint64_t most_evaluation_batches(const TrainingOptions& options);
// Epochs after which the stream of batches ends. 0 = without end: steps count, or parts of an epoch.
std::uint64_t whole_epochs(const TrainingOptions& options);

}  // namespace pgtrain::engine::train
