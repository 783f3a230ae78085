// run.cpp: from a job to the engine's calls, and from the engine's exceptions to one Failed message.
#include "trainer/run.hpp"

#include <sys/stat.h>

#include <cstdio>
#include <new>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/evaluation.hpp"
#include "engine/train/generation.hpp"
#include "trainer/options.hpp"
#include "trainer/report.hpp"
#include "trainer/sandbox.hpp"

namespace pgtrain::trainer {

using namespace protocol;
using engine::core::Error;
namespace train = engine::train;
namespace backend = engine::backend;

namespace {

// Thrown to leave a long file check when the run is told to stop.
struct Stopped {};

std::string sha256_of_file(const std::string& name, Channel& channel) {
  std::FILE* file = std::fopen(name.c_str(), "rb");
  if (file == nullptr) throw Error("io_error", "cannot open " + name, "", "The job folder must not be touched while the run works.");
  engine::core::Sha256 sum;
  std::string block(1 << 20, '\0');
  size_t count = 0;
  while ((count = std::fread(block.data(), 1, block.size(), file)) > 0) {
    sum.update(block.data(), count);
    channel.worked();
    if (channel.stop_requested() != Stop::None) break;
  }
  std::fclose(file);
  if (channel.stop_requested() != Stop::None) throw Stopped{};
  return sum.hex();
}

// Checks that a file of the job is what the worker said; `code` is what a difference counts as.
void check_input(const InputFile& file, const char* code, Channel& channel) {
  struct stat about;
  if (stat(file.name.c_str(), &about) != 0)
    throw Error("io_error", "the job names the file " + file.name + ", which is not in the job folder", "",
                "Run it again; if it happens again, look at the space under the job folders.");
  if (static_cast<uint64_t>(about.st_size) != file.bytes)
    throw Error(code, file.name + " has " + std::to_string(about.st_size) + " bytes, the job says " + std::to_string(file.bytes), "",
                "Run it again; if it happens again, look at the space under the job folders.");
  if (file.sha256.empty()) return;
  const std::string found = sha256_of_file(file.name, channel);
  if (found != file.sha256)
    throw Error(code, file.name + " is not the file that was stored: its content changed",
                "sha256 is " + found + ", expected " + file.sha256, "Restore the stored file or start the run anew.");
}

// The files of the base model are in the folder `base`.
void check_base(const down::Job& job, Channel& channel) {
  for (InputFile file : job.base) {
    file.name = kBaseFolder + ("/" + file.name);
    check_input(file, "model_invalid", channel);
  }
}

std::unique_ptr<backend::Backend> open_device(const down::Job& job) {
  constexpr uint32_t most_threads = 1024;
  if (job.threads > most_threads)
    throw Error("config_invalid", std::to_string(job.threads) + " threads are more than the " + std::to_string(most_threads) + " that are supported", "",
                "Give the number of processors, or 0 for all of them.");
  backend::OpenOptions options;
  options.threads = static_cast<int>(job.threads);
  options.memory_limit_bytes = job.memory_limit_bytes;
  try {
    return backend::open(job.device, options);
  } catch (Error& error) {
    if (error.code == "device_fault" && is_in_sandbox())
      error.hint += (error.hint.empty() ? "" : " ") +
                    std::string("If \"pgtrain-trainer devices\", started under the server's account, finds the device usable, then the trainer's sandbox "
                                "is in the driver's way: pgtrain.trainer_environment = 'PGTRAIN_SANDBOX=files' leaves out its call filter, "
                                "'PGTRAIN_SANDBOX=calls' its file rules, 'PGTRAIN_SANDBOX=off' both.");
    throw;
  }
}

up::Plan plan_message(const train::MemoryPlan& plan, const RunConfig& config, uint64_t data_bytes, const backend::DeviceInfo& device) {
  up::Plan message;
  message.parameters = plan.parameters;
  message.weight_bytes = plan.weight_bytes;
  message.gradient_bytes = plan.gradient_bytes;
  message.optimizer_bytes = plan.optimizer_bytes;
  message.activation_bytes = plan.activation_bytes;
  message.workspace_bytes = plan.workspace_bytes;
  message.data_bytes = plan.data_bytes;
  message.peak_bytes = plan.peak_bytes;
  message.tokens_per_step = plan.tokens_per_step;
  message.planned_tokens = config.planned_tokens(data_bytes);
  message.device_memory_bytes = device.memory_bytes;
  message.device = device.description;
  message.precision = plan.precision;
  message.recompute = plan.recompute;
  message.trained_parameters = plan.trained_parameters;
  message.steps = config.planned_steps(data_bytes);
  return message;
}

void refuse_beyond_memory(const train::MemoryPlan& plan, const down::Job& job, const backend::DeviceInfo& device) {
  const bool is_limited = job.memory_limit_bytes > 0 && (device.memory_bytes == 0 || job.memory_limit_bytes < device.memory_bytes);
  const uint64_t limit = is_limited ? job.memory_limit_bytes : device.memory_bytes;
  if (limit == 0 || plan.peak_bytes <= limit) return;
  throw Error("out_of_memory",
              "the run needs " + show_bytes(plan.peak_bytes) + " on " + job.device + ", which " + (is_limited ? "is limited to " : "has ") +
                  show_bytes(limit),
              "weights " + show_bytes(plan.weight_bytes) + ", gradients " + show_bytes(plan.gradient_bytes) + ", optimizer " +
                  show_bytes(plan.optimizer_bytes) + ", activations " + show_bytes(plan.activation_bytes) + ", workspace " +
                  show_bytes(plan.workspace_bytes) + ", data " + show_bytes(plan.data_bytes),
              "Choose a smaller batch_size with more gradient_accumulation, a smaller context or a smaller size.");
}

RunConfig frozen_config(const down::Job& job) {
  RunConfig config;
  ConfigError error;
  if (!freeze_config(job.config, config, error)) throw Error("config_invalid", error.message, "", error.hint);
  return config;
}

void train_or_plan(const down::Job& job, Channel& channel) {
  const RunConfig config = frozen_config(job);
  if (config.has_base_model() && job.base.empty() && job.base_config.empty())
    throw Error("model_missing", "the job brings no files of base model " + config.text("base_model"), "", "Import the model again, or choose another.");
  const train::TrainingOptions options = training_options(config, job);
  const auto device = open_device(job);
  channel.worked();
  const train::MemoryPlan plan = train::plan_training(options, *device);
  channel.send(plan_message(plan, config, job.data.bytes, device->info()));
  refuse_beyond_memory(plan, job, device->info());
  if (job.kind == JobKind::Plan) return channel.send(up::Done{});
  check_input(job.data, "data_invalid", channel);
  if (!job.resume.name.empty()) check_input(job.resume, "model_invalid", channel);
  check_base(job, channel);
  Reporter reporter(channel, config.tokens_per_step());
  const auto result = train::train(options, job.data.name, job.resume.name, ".", *device, reporter);
  report_result(channel, result);
}

// The files of a trained model, or those of the base model, or both.
train::ModelFiles model_files(const down::Job& job, Channel& channel) {
  if (job.model.empty() && job.base.empty()) throw Error("model_missing", "the job names no model files", "", "Give a run or model that has been trained.");
  for (const InputFile& file : job.model) check_input(file, "model_invalid", channel);
  check_base(job, channel);
  train::ModelFiles files;
  if (!job.base.empty()) files.base_folder = kBaseFolder;
  if (job.model.empty()) return files;
  const std::string& first = job.model.front().name;
  const size_t slash = first.rfind('/');
  files.folder = slash == std::string::npos ? "." : first.substr(0, slash);
  return files;
}

void generate(const down::Job& job, Channel& channel) {
  const RunConfig config = frozen_config(job);
  const train::ModelFiles files = model_files(job, channel);
  const auto device = open_device(job);
  train::GenerateOptions options;
  options.is_chat = job.generate.kind == PromptKind::Messages;
  options.chat_template = config.text("chat_template");
  options.max_tokens = static_cast<int>(job.generate.max_tokens);
  options.temperature = job.generate.temperature;
  options.top_k = static_cast<int>(job.generate.top_k);
  options.top_p = job.generate.top_p;
  options.min_p = job.generate.min_p;
  options.repetition_penalty = job.generate.repetition_penalty;
  options.stop = job.generate.stop;
  options.seed = job.generate.seed;
  const auto is_stopped = [&channel] {
    channel.worked();
    return channel.stop_requested() != Stop::None;
  };
  const auto tell = [&channel](size_t prompt, const std::string& text, const train::GenerateResult& so_far) {
    channel.send(up::Piece{static_cast<uint32_t>(prompt), text, so_far.end_reason, static_cast<uint32_t>(so_far.prompt_tokens), static_cast<uint32_t>(so_far.tokens)});
  };
  up::Done done;
  for (const train::GenerateResult& answer : train::generate(files, job.generate.prompts, options, *device, is_stopped, tell)) done.tokens += static_cast<uint64_t>(answer.tokens);
  done.status = is_stopped() ? DoneStatus::Cancelled : DoneStatus::Completed;
  channel.send(done);
}

void evaluate(const down::Job& job, Channel& channel) {
  const RunConfig config = frozen_config(job);
  const train::ModelFiles files = model_files(job, channel);
  check_input(job.data, "data_invalid", channel);
  const auto device = open_device(job);
  const bool are_records = config.has_base_model() || job.model.empty();
  train::TrainingOptions options = training_options(config, job);
  // A model that was trained whole needs its base no more; its samples are read as they were then.
  if (config.has_base_model()) options.base_folder = kBaseFolder;
  const train::Evaluation found = train::evaluate(files, train::resolve(options), are_records, job.data.name, ".", *device, [&channel] {
    channel.worked();
    if (channel.stop_requested() != Stop::None) throw Stopped{};
  });
  channel.send(up::Evaluation{EvaluationPhase::After, 0, found.loss, found.tokens, found.accuracy, found.samples});
  up::Done done;
  done.tokens = found.tokens;
  channel.send(done);
}

void describe(const down::Job& job, Channel& channel) {
  if (job.base.empty()) throw Error("model_missing", "the job names no files of a model", "", "Give a folder or a GGUF file.");
  check_base(job, channel);
  channel.send(up::Description{train::describe_base(kBaseFolder)});
  channel.send(up::Done{});
}

ExitCode fail(Channel& channel, FailureCode code, const std::string& message, const std::string& detail, const std::string& hint) {
  channel.send(up::Failed{code, message, detail, hint});
  return ExitCode::Failed;
}

}  // namespace

ExitCode execute(const down::Job& job, Channel& channel) {
  try {
    switch (job.kind) {
      case JobKind::Train:
      case JobKind::Plan: train_or_plan(job, channel); break;
      case JobKind::Generate: generate(job, channel); break;
      case JobKind::Import: describe(job, channel); break;
      case JobKind::Evaluate: evaluate(job, channel); break;
    }
    return ExitCode::Done;
  } catch (const Stopped&) {
    up::Done done;
    done.status = channel.stop_requested() == Stop::Cancel ? DoneStatus::Cancelled : DoneStatus::Paused;
    channel.send(done);
    return ExitCode::Done;
  } catch (const Error& error) {
    return fail(channel, failure_code(error.code), error.message, error.detail, error.hint);
  } catch (const std::bad_alloc&) {
    return fail(channel, FailureCode::OutOfMemory, "the machine has no memory left for this run", "the system refused an allocation",
                "Choose a smaller batch_size, context or size, or let fewer runs work at once.");
  } catch (const std::exception& error) {
    return fail(channel, FailureCode::InternalError, "the trainer met an error that it does not know", error.what(),
                "Please report it with the run's configuration.");
  }
}

}  // namespace pgtrain::trainer
