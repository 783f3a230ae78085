// The door's functions: plan_training, train, generate.
#include "engine/train/training.hpp"

#include "engine/core/error.hpp"
#include "engine/models/decoder.hpp"
#include "engine/models/gguf_model.hpp"
#include "engine/models/model.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/generation.hpp"
#include "engine/train/options.hpp"
#include "engine/train/training_run.hpp"

namespace pgtrain::engine::train {
namespace {

std::string mebibytes(std::uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

core::DType choose_precision(const TrainingOptions& options, const backend::Backend& backend) {
  if (options.precision == "auto") return backend.info().best_dtype;
  return options.precision == "bf16" ? core::DType::Bf16 : core::DType::F32;
}

graph::Recompute recompute_of(const MemoryPlan& plan) {
  return plan.recompute == "blocks" ? graph::Recompute::Blocks : plan.recompute == "cheap" ? graph::Recompute::Cheap : graph::Recompute::None;
}
graph::Gradients gradients_of(const TrainingOptions& options) { return options.gradient_accumulation == 1 ? graph::Gradients::Replaced : graph::Gradients::Added; }

namespace {

MemoryPlan plan_with(const TrainingOptions& resolved, const models::ModelConfig& config, core::DType compute, const backend::Backend& backend, const std::string& recompute) {
  if (resolved.context > config.context)
    throw core::Error("config_invalid", "context: " + std::to_string(resolved.context) + " is more than the " + std::to_string(config.context) + " tokens that the model sees", "",
                      "Give at most " + std::to_string(config.context) + ".");
  for (const std::string& form : resolved.exports)
    if (const std::string obstacle = models::gguf_obstacle(config); form.starts_with("gguf_") && !obstacle.empty())
      throw core::Error("config_invalid", "exports: " + form + ": " + obstacle, "", "Choose merged or peft.");
  const models::Tuning tuning = tuning_of(resolved);
  const graph::Graph graph = models::build_model(config, tuning, compute, resolved.batch_size, resolved.context);
  MemoryPlan plan;
  plan.recompute = recompute;
  const graph::MemoryUse use =
      graph::plan_memory(graph, graph::Mode::Train, backend, optimizer_memory(graph, optimizer_of(resolved), backend), recompute_of(plan),
                         gradients_of(resolved));
  plan.parameters = models::count_parameters(config);
  plan.trained_parameters = static_cast<std::uint64_t>(graph.parameter_count());
  plan.weight_bytes = use.weight_bytes;
  plan.gradient_bytes = use.gradient_bytes;
  plan.optimizer_bytes = use.optimizer_bytes;
  plan.activation_bytes = use.activation_bytes;
  plan.workspace_bytes = use.workspace_bytes;
  // The decoder's caches, while samples are drawn.
  if (resolved.samples > 0) plan.workspace_bytes += models::Decoder::planned_bytes(config, tuning, compute, {.positions = resolved.context});
  // One micro-batch of ids lies in the activations; on the host another one waits.
  plan.data_bytes = 4 * sizeof(std::int32_t) * static_cast<std::uint64_t>(resolved.batch_size) * static_cast<std::uint64_t>(resolved.context);
  plan.peak_bytes = plan.weight_bytes + plan.gradient_bytes + plan.optimizer_bytes + plan.activation_bytes + plan.workspace_bytes + plan.data_bytes;
  plan.tokens_per_step = static_cast<std::uint64_t>(resolved.batch_size) * static_cast<std::uint64_t>(resolved.context) *
                         static_cast<std::uint64_t>(resolved.gradient_accumulation);
  plan.precision = compute == core::DType::Bf16 ? "bf16" : "fp32";
  return plan;
}

std::uint64_t memory_limit(const TrainingOptions& resolved, const backend::Backend& backend) {
  const std::uint64_t device = backend.info().memory_bytes;
  const bool is_limited = resolved.memory_limit_bytes > 0 && (device == 0 || resolved.memory_limit_bytes < device);
  return is_limited ? resolved.memory_limit_bytes : device;
}

}  // namespace

MemoryPlan plan_model(const TrainingOptions& resolved, const models::ModelConfig& config, core::DType compute, const backend::Backend& backend) {
  if (resolved.recompute != "auto") return plan_with(resolved, config, compute, backend, resolved.recompute);
  // The least that fits.
  const std::uint64_t limit = memory_limit(resolved, backend);
  for (const char* recompute : {"none", "cheap"})
    if (MemoryPlan plan = plan_with(resolved, config, compute, backend, recompute); limit == 0 || plan.peak_bytes <= limit) return plan;
  return plan_with(resolved, config, compute, backend, "blocks");
}

void check_fits(const TrainingOptions& resolved, const MemoryPlan& plan, const backend::Backend& backend) {
  const std::uint64_t limit = memory_limit(resolved, backend);
  const bool is_limited = resolved.memory_limit_bytes > 0 && limit == resolved.memory_limit_bytes;
  if (limit == 0 || plan.peak_bytes <= limit) return;
  throw core::Error("out_of_memory", "the run needs " + mebibytes(plan.peak_bytes) + ", " + backend.info().name + " has " + mebibytes(limit) + (is_limited ? " allowed" : ""),
                    "weights " + mebibytes(plan.weight_bytes) + ", gradients " + mebibytes(plan.gradient_bytes) + ", optimiser " + mebibytes(plan.optimizer_bytes) +
                        ", activations " + mebibytes(plan.activation_bytes) + ", workspace " + mebibytes(plan.workspace_bytes),
                    "Choose a smaller batch_size (with more gradient_accumulation), context or size.");
}

models::ModelConfig planned_model(const TrainingOptions& resolved) {
  if (!resolved.base_config.empty()) return models::ModelConfig::from_json(resolved.base_config, "base_config");
  if (!resolved.base_folder.empty()) return open_base(resolved.base_folder)->config();
  return model_config(resolved, resolved.vocab_size, 256);
}

MemoryPlan plan_training(const TrainingOptions& options, const backend::Backend& backend) {
  const TrainingOptions resolved = resolve(options);
  return plan_model(resolved, planned_model(resolved), choose_precision(resolved, backend), backend);
}

TrainingResult train(const TrainingOptions& options, const std::string& documents_path, const std::string& checkpoint_path,
                     const std::string& work_folder, backend::Backend& backend, Observer& observer) {
  return TrainingRun(resolve(options), documents_path, checkpoint_path, work_folder, backend, observer).run();
}

}  // namespace pgtrain::engine::train
