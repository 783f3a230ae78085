// What a run minimises, and the data that it does so on. Internal to train/.
//
// An objective owns its stream of batches and knows how losses of rows become gradients. Everything random in it is a function of the
// seed and the step, so that a cursor is all that a checkpoint needs of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/data/load.hpp"
#include "engine/graph/executor.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

struct StepOutcome {
  double loss = 0, accuracy = 0;
  std::uint64_t tokens = 0;  // that the model looked at
};

class Objective {
 public:
  virtual ~Objective() = default;

  // What the rule for long samples does to the data, and the steps that the run takes; known before there is a model.
  virtual DataFacts facts() const = 0;

  // Before the first step of a new run, with the weights that it begins with; what it notes belongs to the checkpoint.
  virtual void begin(graph::Executor& executor, const std::function<void()>& poll) { (void)executor, (void)poll; }
  virtual const std::vector<float>& notes() const;
  virtual void restore_notes(std::vector<float> notes) { (void)notes; }

  // Adds the gradient of a step's mean loss to the store; poll is called between micro-batches and may throw, after which the step
  // counts as not taken.
  virtual StepOutcome accumulate(graph::Executor& executor, std::int64_t step, const std::function<void()>& poll) = 0;
  virtual std::vector<std::int64_t> cursor() const = 0;
  virtual void restore(const std::vector<std::int64_t>& cursor) = 0;

  // Nothing where nothing is held out.
  virtual std::optional<Evaluation> evaluate(graph::Executor& executor, const std::function<void()>& poll) = 0;
};

// `tokens` must outlive the objective. options.steps or epochs is set.
std::unique_ptr<Objective> make_objective(const TrainingOptions& options, const data::SplitTokens& tokens);

}  // namespace pgtrain::engine::train
