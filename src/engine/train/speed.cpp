// How fast a run would be, tried out: the same model with few layers takes steps on tokens by chance, and what a layer takes more of
// is counted as often as the model has layers. Everything that a step does is in it (products, attention, loss, optimiser) at the
// run's own shapes; what comes before and after the steps is not.
#include <algorithm>
#include <chrono>
#include <random>

#include "engine/core/error.hpp"
#include "engine/models/model.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/options.hpp"
#include "engine/train/training_run.hpp"

namespace pgtrain::engine::train {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int most_layers_tried = 3;
constexpr std::int64_t most_tokens_tried = 1024;  // at once, on a CPU, where more of them are not faster
// Of each thing that is timed: so long, and so often that one disturbance does not count, unless that takes too long.
constexpr double least_seconds = 0.1, longest_seconds = 2;
constexpr std::size_t least_times = 3;
constexpr std::uint64_t most_host_bytes = std::uint64_t{2} << 30;
constexpr double patience_seconds = 20;  // with all of it: somebody waits for a plan

bool is_cpu(const backend::Backend& backend) { return backend.info().name == "cpu"; }

struct Times {
  double forward = 0, both = 0, update = 0;  // of a micro-batch; of the optimiser
};

template <class Work>
double median_seconds(const std::function<void()>& poll, const Work& work) {
  std::vector<double> seconds;
  double total = 0;
  while (total < least_seconds || (seconds.size() < least_times && total < longest_seconds)) {
    poll();
    const Clock::time_point began = Clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - began).count());
    total += seconds.back();
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

void fill(graph::ParameterStore& store, const std::function<void()>& poll) {
  std::mt19937 bits(1);
  std::vector<float> block(1 << 16), host;
  for (float& value : block) value = 0.02f * (static_cast<float>(bits() >> 8) / static_cast<float>(1 << 23) - 1.0f);
  const auto values_of = [&](const graph::Parameter& parameter) {
    poll();
    host.resize(static_cast<std::size_t>(parameter.count));
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = block[i & (block.size() - 1)];
    return host.data();
  };
  for (const graph::Parameter& parameter : store.parameters()) store.upload_weight(parameter, values_of(parameter));
  for (const graph::Parameter& parameter : store.frozen()) store.upload_frozen(parameter, values_of(parameter));
}

void set_tokens(graph::Executor& executor, int vocab_size, int sequences, int context) {
  std::mt19937 bits(2);
  const auto cells = static_cast<std::size_t>(sequences) * static_cast<std::size_t>(context);
  std::vector<std::int32_t> tokens(cells), positions(cells), segments(cells), targets(cells);
  for (std::size_t i = 0; i < cells; ++i) {
    tokens[i] = static_cast<std::int32_t>(bits() % static_cast<unsigned>(vocab_size));
    targets[i] = static_cast<std::int32_t>(bits() % static_cast<unsigned>(vocab_size));
    positions[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(context));
  }
  executor.set_input("tokens", tokens.data());
  executor.set_input("positions", positions.data());
  executor.set_input("segments", segments.data());
  executor.set_input("targets", targets.data());
}

Times time_model(const TrainingOptions& options, const models::ModelConfig& config, core::DType compute, backend::Backend& backend, const std::function<void()>& poll) {
  const MemoryPlan plan = plan_model(options, config, compute, backend);
  // Others may be at work on the device, several may ask at once, and this is no run that anybody made room for.
  const std::uint64_t share = backend.info().memory_bytes > 0 ? backend.info().memory_bytes / 4 : UINT64_MAX;
  if (plan.peak_bytes > (is_cpu(backend) ? std::min(share, most_host_bytes) : share))
    throw core::Error("out_of_memory", "the model is too large to be tried out", std::to_string(plan.peak_bytes) + " bytes for " + std::to_string(config.layers) + " of its layers.",
                      "Its first run will tell how fast it is.");
  const graph::Graph graph = models::build_model(config, tuning_of(options), compute, options.batch_size, options.context);
  const graph::Gradients gradients = gradients_of(options);
  graph::ParameterStore store(graph, backend, graph::Mode::Train, gradients);
  graph::Executor executor(graph, store, graph::Mode::Train, recompute_of(plan), gradients);
  Optimizer optimizer(store, optimizer_of(options));
  fill(store, poll);
  set_tokens(executor, config.vocab_size, options.batch_size, options.context);
  executor.set_dropout(options.seed, 0);
  const float scale = 1.0f / static_cast<float>(options.batch_size * options.context);
  const auto forward = [&] {
    executor.forward();
    (void)executor.loss_sum();
  };
  const auto both = [&] {
    executor.forward_backward(scale);
    (void)executor.loss_sum();
  };
  const auto update = [&] {
    (void)optimizer.gradient_norm();
    optimizer.update(0, options.learning_rate);
    if (gradients == graph::Gradients::Added) store.zero_gradients();
    backend.synchronize();
  };
  if (gradients == graph::Gradients::Added) store.zero_gradients();
  // The first of each touches its memory for the first time.
  both();
  update();
  Times times;
  times.both = median_seconds(poll, both);
  times.forward = median_seconds(poll, forward);
  both();  // gradients may lie where a forward pass puts other things
  times.update = median_seconds(poll, update);
  return times;
}

}  // namespace

Speed measure_speed(const TrainingOptions& given, backend::Backend& backend, const std::function<void()>& asked) {
  const Clock::time_point began = Clock::now();
  const auto poll = [&] {
    asked();
    if (std::chrono::duration<double>(Clock::now() - began).count() > patience_seconds)
      throw core::Error("config_invalid", "the model is too slow here to be tried out in " + std::to_string(static_cast<int>(patience_seconds)) + " seconds", "",
                        "Its first run will tell how fast it is.");
  };
  TrainingOptions options = resolve(given);
  const models::ModelConfig config = planned_model(options);
  const core::DType compute = choose_precision(options, backend);
  options.recompute = plan_model(options, config, compute, backend).recompute;
  const int batch_size = options.batch_size;
  if (is_cpu(backend))
    options.batch_size = static_cast<int>(std::clamp<std::int64_t>(most_tokens_tried / options.context, 1, batch_size));
  const double micro_batches = static_cast<double>(batch_size) / options.batch_size;

  Speed speed;
  speed.layers = std::min(config.layers, most_layers_tried);
  const auto try_out = [&](int layers) {
    models::ModelConfig few = config;
    few.layers = layers;
    return time_model(options, few, compute, backend, poll);
  };
  // The shallow one first, which shows sooner that it takes too long.
  const Times shallow = try_out(speed.layers < config.layers ? 1 : speed.layers);
  const Times deep = speed.layers < config.layers ? try_out(speed.layers) : shallow;
  const auto of_all = [&](double Times::*part) {
    return deep.*part + (config.layers > speed.layers ? std::max(0.0, deep.*part - shallow.*part) * (config.layers - speed.layers) / (speed.layers - 1) : 0.0);
  };
  const double forward = of_all(&Times::forward) * micro_batches, both = of_all(&Times::both) * micro_batches;
  // Preferences are looked at before the gradient is taken.
  speed.step_seconds = options.gradient_accumulation * (both + (options.objective == "dpo" ? forward : 0)) + of_all(&Times::update);
  speed.evaluation_seconds = forward;
  return speed;
}

}  // namespace pgtrain::engine::train
