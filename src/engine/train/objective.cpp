// The next token as the objective; which one a run has is chosen here too.
#include "engine/train/objective.hpp"

#include <algorithm>
#include <cmath>

#include "engine/train/objective_kinds.hpp"

namespace pgtrain::engine::train {

const std::vector<float>& Objective::notes() const {
  static const std::vector<float> none;
  return none;
}

std::int64_t steps_of(const TrainingOptions& options, const std::function<std::uint64_t(std::uint64_t epochs)>& whole) {
  if (options.steps > 0) return options.steps;
  const auto accumulation = static_cast<std::uint64_t>(options.gradient_accumulation);
  const bool is_whole = options.epochs == std::floor(options.epochs);
  const std::uint64_t batches = is_whole ? whole(static_cast<std::uint64_t>(options.epochs))
                                         : static_cast<std::uint64_t>(std::ceil(options.epochs * static_cast<double>(whole(1))));
  return static_cast<std::int64_t>(std::max<std::uint64_t>(1, (batches + accumulation - 1) / accumulation));
}

DataFacts data_facts(const data::SplitTokens& tokens, const data::Fit& fit, std::int64_t steps) {
  DataFacts facts;
  facts.held_out_samples = tokens.held_out_samples;
  facts.tokens = fit.predictions, facts.learned_tokens = fit.learned;
  facts.truncated_samples = fit.documents, facts.truncated_tokens = fit.tokens;
  facts.steps = steps;
  return facts;
}

std::uint64_t whole_epochs(const TrainingOptions& options) {
  return options.steps == 0 && options.epochs == std::floor(options.epochs) ? static_cast<std::uint64_t>(options.epochs) : 0;
}

std::uint64_t most_evaluation_batches(const TrainingOptions& options) {
  return options.evaluation_batches == 0 ? UINT64_MAX : static_cast<std::uint64_t>(options.evaluation_batches);
}

void set_inputs(graph::Executor& executor, const data::Batch& batch) {
  executor.set_input("tokens", batch.inputs.data());
  executor.set_input("positions", batch.positions.data());
  executor.set_input("segments", batch.segments.data());
  executor.set_input("targets", batch.targets.data());
}

Evaluation measure(graph::Executor& executor, data::EvaluationStream& stream, std::uint64_t most_batches, const std::function<void()>& poll) {
  Evaluation found;
  data::Batch batch;
  for (std::uint64_t i = 0; i < most_batches && stream.next(batch); ++i) {
    poll();
    set_inputs(executor, batch);
    executor.forward();
    found.loss += executor.loss_sum();
    found.accuracy += executor.hit_sum();
    found.tokens += batch.predictions;
  }
  if (found.tokens > 0) found.loss /= static_cast<double>(found.tokens), found.accuracy /= static_cast<double>(found.tokens);
  return found;
}

namespace {

data::StreamOptions stream_options(const TrainingOptions& options, std::uint64_t epochs) {
  return {options.batch_size, options.context, options.seed, data::parse_long_samples(options.long_samples), epochs};
}

class NextToken final : public Objective {
 public:
  NextToken(const TrainingOptions& options, const data::SplitTokens& tokens)
      : options_(options), tokens_(tokens), fit_(data::fit_samples(tokens.training, options.context, data::parse_long_samples(options.long_samples))),
        steps_(steps_of(options, [&](std::uint64_t epochs) { return data::count_batches(tokens.training, stream_options(options, epochs)); })),
        stream_(tokens.training, stream_options(options, whole_epochs(options))) {
    if (options.validation_path.empty()) return;
    data::about_validation([&] { data::fit_samples(tokens.held_out, options.context, data::parse_long_samples(options.long_samples)); });
  }

  DataFacts facts() const override { return data_facts(tokens_, fit_, steps_); }

  StepOutcome accumulate(graph::Executor& executor, std::int64_t step, const std::function<void()>& poll) override {
    // All batches of the step first: the mean is over what is learned in them together.
    batches_.resize(static_cast<std::size_t>(options_.gradient_accumulation));
    std::uint64_t learned = 0;
    StepOutcome out;
    for (data::Batch& batch : batches_) {
      stream_.next(batch);
      learned += batch.predictions;
      out.tokens += batch.tokens;
    }
    const double share = learned > 0 ? 1.0 / static_cast<double>(learned) : 0;
    for (std::size_t micro = 0; micro < batches_.size(); ++micro) {
      poll();
      if (batches_[micro].predictions == 0 && batches_.size() > 1) continue;  // the only one makes the gradients, zeros
      set_inputs(executor, batches_[micro]);
      executor.set_dropout(options_.seed, static_cast<std::uint64_t>(step) * batches_.size() + micro);
      executor.forward_backward(static_cast<float>(share));
      out.loss += executor.loss_sum();
      out.accuracy += executor.hit_sum();
    }
    out.loss *= share, out.accuracy *= share;
    return out;
  }

  std::vector<std::int64_t> cursor() const override { return stream_.cursor(); }
  void restore(const std::vector<std::int64_t>& cursor) override { stream_.restore(cursor); }

  std::optional<Evaluation> evaluate(graph::Executor& executor, const std::function<void()>& poll) override {
    data::EvaluationStream stream(tokens_.held_out, options_.batch_size, options_.context, data::parse_long_samples(options_.long_samples));
    Evaluation found = measure(executor, stream, most_evaluation_batches(options_), poll);
    if (found.tokens == 0) return std::nullopt;
    found.samples = stream.samples();
    return found;
  }

 private:
  const TrainingOptions& options_;
  const data::SplitTokens& tokens_;
  const data::Fit fit_;
  const std::int64_t steps_;
  data::TrainingStream stream_;
  std::vector<data::Batch> batches_;
};

}  // namespace

std::unique_ptr<Objective> make_objective(const TrainingOptions& options, const data::SplitTokens& tokens) {
  if (options.objective == "dpo") return make_preferences(options, tokens);
  return std::make_unique<NextToken>(options, tokens);
}

}  // namespace pgtrain::engine::train
