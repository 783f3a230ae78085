// Direct preference optimisation (Rafailov and others 2023) as the objective: chosen answers over rejected ones, measured against the
// model that the run begins with. What that model says of each pair is computed before the first step and kept as notes.
#include <algorithm>
#include <cmath>

#include "engine/train/objective_kinds.hpp"

namespace pgtrain::engine::train {

std::vector<double> log_probabilities(graph::Executor& executor, const data::PairBatch& batch, std::vector<float>& losses) {
  executor.download_losses(losses);
  std::vector<double> out(2 * batch.pairs.size(), 0.0);
  for (std::size_t cell = 0; cell < batch.sequences.size(); ++cell)
    if (batch.sequences[cell] >= 0) out[static_cast<std::size_t>(batch.sequences[cell])] -= static_cast<double>(losses[cell]);
  return out;
}

void add_margin(double margin, double& loss, double& accuracy) {
  loss += std::max(-margin, 0.0) + std::log1p(std::exp(-std::abs(margin)));
  accuracy += margin > 0 ? 1 : 0;
}

namespace {

class Preferences final : public Objective {
 public:
  Preferences(const TrainingOptions& options, const data::SplitTokens& tokens)
      : options_(options), tokens_(tokens), fit_(data::fit_pairs(tokens.training, pair_options(0))),
        steps_(steps_of(options, [&](std::uint64_t epochs) { return data::count_batches(tokens.training, pair_options(epochs)); })),
        stream_(tokens.training, pair_options(whole_epochs(options))) {
    if (options.validation_path.empty()) return;
    data::about_validation([&] { data::fit_pairs(tokens.held_out, held_out_options()); });
  }

  DataFacts facts() const override { return data_facts(tokens_, fit_, steps_); }

  void begin(graph::Executor& executor, const std::function<void()>& poll) override {
    notes_.assign(tokens_.training.size() + tokens_.held_out.size(), 0.0f);
    data::PairStream training(tokens_.training, pair_options(1)), held_out(tokens_.held_out, held_out_options());
    data::PairBatch batch;
    // Of what the run will see: one epoch, or fewer batches.
    const std::int64_t most = steps_ * options_.gradient_accumulation;
    for (std::int64_t i = 0; i < most && training.next(batch); ++i) note(executor, batch, 0, poll);
    for (std::uint64_t i = 0; i < most_evaluation_batches(options_) && tokens_.held_out.size() > 0 && held_out.next(batch); ++i) note(executor, batch, tokens_.training.size(), poll);
  }
  const std::vector<float>& notes() const override { return notes_; }
  void restore_notes(std::vector<float> notes) override {
    if (notes.size() != tokens_.training.size() + tokens_.held_out.size())
      throw core::Error("model_invalid", "the checkpoint has notes of " + std::to_string(notes.size()) + " sequences, the data has " +
                        std::to_string(tokens_.training.size() + tokens_.held_out.size()), "", "Resume from a checkpoint that this run wrote.");
    notes_ = std::move(notes);
  }

  StepOutcome accumulate(graph::Executor& executor, std::int64_t step, const std::function<void()>& poll) override {
    batches_.resize(static_cast<std::size_t>(options_.gradient_accumulation));
    std::uint64_t pairs = 0;
    StepOutcome out;
    for (data::PairBatch& batch : batches_) {
      stream_.next(batch);
      pairs += batch.pairs.size();
      out.tokens += batch.tokens;
    }
    const double share = pairs > 0 ? 1.0 / static_cast<double>(pairs) : 0;
    for (std::size_t micro = 0; micro < batches_.size(); ++micro) {
      const data::PairBatch& batch = batches_[micro];
      poll();
      if (batch.pairs.empty() && batches_.size() > 1) continue;  // the only one makes the gradients, zeros
      set_inputs(executor, batch);
      executor.set_dropout(options_.seed, static_cast<std::uint64_t>(step) * batches_.size() + micro);
      executor.forward(true);
      const std::vector<double> margins = margins_of(batch, log_probabilities(executor, batch, losses_), 0);
      // How the loss of each row moves the loss of its pair.
      weights_.assign(batch.sequences.size(), 0.0f);
      for (std::size_t cell = 0; cell < weights_.size(); ++cell) {
        const std::int32_t sequence = batch.sequences[cell];
        if (sequence < 0) continue;
        const double slope = options_.dpo_beta / (1 + std::exp(margins[static_cast<std::size_t>(sequence / 2)])) * share;
        weights_[cell] = static_cast<float>(sequence % 2 == 0 ? slope : -slope);
      }
      poll();
      executor.set_row_weights(weights_.data());
      executor.forward_backward(1.0f);
      for (const double margin : margins) add_margin(margin, out.loss, out.accuracy);
    }
    executor.set_row_weights(nullptr);
    out.loss *= share, out.accuracy *= share;
    return out;
  }

  std::vector<std::int64_t> cursor() const override { return stream_.cursor(); }
  void restore(const std::vector<std::int64_t>& cursor) override { stream_.restore(cursor); }

  std::optional<Evaluation> evaluate(graph::Executor& executor, const std::function<void()>& poll) override {
    if (tokens_.held_out.size() == 0) return std::nullopt;
    data::PairStream stream(tokens_.held_out, held_out_options());
    data::PairBatch batch;
    Evaluation found;
    for (std::uint64_t i = 0; i < most_evaluation_batches(options_) && stream.next(batch); ++i) {
      poll();
      set_inputs(executor, batch);
      executor.forward();
      for (const double margin : margins_of(batch, log_probabilities(executor, batch, losses_), tokens_.training.size())) add_margin(margin, found.loss, found.accuracy);
      found.tokens += batch.pairs.size();
    }
    if (found.tokens == 0) return std::nullopt;
    found.loss /= static_cast<double>(found.tokens), found.accuracy /= static_cast<double>(found.tokens);
    found.samples = found.tokens;
    return found;
  }

 private:
  data::PairOptions pair_options(std::uint64_t epochs) const {
    return {options_.batch_size, options_.context, options_.seed, data::parse_long_samples(options_.long_samples), epochs, false};
  }
  data::PairOptions held_out_options() const {
    data::PairOptions out = pair_options(1);
    out.keeps_order = true;
    return out;
  }

  void note(graph::Executor& executor, const data::PairBatch& batch, std::size_t first, const std::function<void()>& poll) {
    poll();
    set_inputs(executor, batch);
    executor.forward();
    const std::vector<double> found = log_probabilities(executor, batch, losses_);
    for (std::size_t k = 0; k < batch.pairs.size(); ++k)
      for (std::size_t side = 0; side < 2; ++side) notes_[first + 2 * batch.pairs[k] + side] = static_cast<float>(found[2 * k + side]);
  }

  // beta times how much more the chosen answer has gained over the reference than the rejected one, of each pair.
  std::vector<double> margins_of(const data::PairBatch& batch, const std::vector<double>& found, std::size_t first) const {
    std::vector<double> out(batch.pairs.size());
    for (std::size_t k = 0; k < out.size(); ++k) {
      const std::size_t at = first + 2 * batch.pairs[k];
      // Rounded as the notes are: a model that has not moved has gained nothing.
      const auto gained = [&](std::size_t side) { return static_cast<double>(static_cast<float>(found[2 * k + side])) - static_cast<double>(notes_[at + side]); };
      out[k] = options_.dpo_beta * (gained(0) - gained(1));
    }
    return out;
  }

  const TrainingOptions& options_;
  const data::SplitTokens& tokens_;
  const data::Fit fit_;
  const std::int64_t steps_;
  data::PairStream stream_;
  std::vector<data::PairBatch> batches_;
  std::vector<float> notes_, losses_, weights_;
};

}  // namespace

std::unique_ptr<Objective> make_preferences(const TrainingOptions& options, const data::SplitTokens& tokens) { return std::make_unique<Preferences>(options, tokens); }

}  // namespace pgtrain::engine::train
