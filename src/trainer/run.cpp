// run.cpp: from a job to the engine's calls, and from the engine's exceptions to one Failed message.
#include "trainer/run.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <new>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/evaluation.hpp"
#include "engine/train/export_model.hpp"
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

// Whether there is something to evaluate on is asked where samples come: a plan, or the configuration of a model that is done, brings none.
RunConfig frozen_config(const down::Job& job) {
  RunConfig config;
  ConfigError error;
  RunFacts facts;
  if (job.kind == JobKind::Train) facts.has_validation = !job.validation.name.empty();
  else facts.has_validation.reset();
  if (!freeze_config(job.config, config, error, facts)) throw Error("config_invalid", error.message, "", error.hint);
  return config;
}

void measure(const train::TrainingOptions& options, backend::Backend& device, Channel& channel) {
  const train::Speed speed = train::measure_speed(options, device, [&channel] {
    channel.worked();
    if (channel.stop_requested() != Stop::None) throw Stopped{};
  });
  channel.send(up::Speed{speed.step_seconds, speed.evaluation_seconds, static_cast<uint32_t>(speed.layers)});
  channel.send(up::Done{});
}

// Train, Plan or Measure, which all begin with the plan.
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
  if (job.kind == JobKind::Measure) return measure(options, *device, channel);
  check_input(job.data, "data_invalid", channel);
  if (!job.validation.name.empty()) check_input(job.validation, "data_invalid", channel);
  if (!job.resume.name.empty()) check_input(job.resume, "model_invalid", channel);
  check_base(job, channel);
  Reporter reporter(channel, config.tokens_per_step(), config.real("held_out_fraction") > 0);
  const auto result = train::train(options, job.data.name, job.resume.name, ".", *device, reporter);
  report_result(channel, result);
}

// The files of a trained model, or those of the base model, or both; or a checkpoint of a run, with its base model where it has one.
train::ModelFiles model_files(const down::Job& job, const RunConfig& config, Channel& channel) {
  const bool is_checkpoint = !job.resume.name.empty();
  if (job.model.empty() && job.base.empty() && !is_checkpoint) throw Error("model_missing", "the job names no model files", "", "Give a run or model that has been trained.");
  for (const InputFile& file : job.model) check_input(file, "model_invalid", channel);
  check_base(job, channel);
  train::ModelFiles files;
  if (!job.base.empty()) files.base_folder = kBaseFolder;
  if (is_checkpoint) {
    if (config.has_base_model() && job.base.empty())
      throw Error("model_missing", "the job brings no files of base model " + config.text("base_model"), "", "Import the model again, or choose another.");
    check_input(job.resume, "model_invalid", channel);
    files.checkpoint = job.resume.name;
    files.trained_with = train::resolve(training_options(config, job));
  } else if (!job.model.empty()) {
    const std::string& first = job.model.front().name;
    const size_t slash = first.rfind('/');
    files.folder = slash == std::string::npos ? "." : first.substr(0, slash);
  }
  return files;
}

void generate(const down::Job& job, Channel& channel) {
  const RunConfig config = frozen_config(job);
  const train::ModelFiles files = model_files(job, config, channel);
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
  const auto answers = train::generate(files, job.generate.prompts, options, *device, is_stopped, tell);
  for (size_t i = 0; i < answers.size(); ++i) {
    done.tokens += static_cast<uint64_t>(answers[i].tokens);
    if (answers[i].left_out > 0)
      channel.send(up::Log{LogLevel::Warning, "prompt " + std::to_string(i + 1) + " is longer than the model sees: its first " + std::to_string(answers[i].left_out) + " tokens were left out"});
  }
  done.status = is_stopped() ? DoneStatus::Cancelled : DoneStatus::Completed;
  channel.send(done);
}

void evaluate(const down::Job& job, Channel& channel) {
  const RunConfig config = frozen_config(job);
  const train::ModelFiles files = model_files(job, config, channel);
  check_input(job.data, "data_invalid", channel);
  const auto device = open_device(job);
  const bool are_records = config.has_base_model() || (job.model.empty() && job.resume.name.empty());
  train::TrainingOptions options = training_options(config, job);
  // A model that was trained whole needs its base no more; its samples are read as they were then.
  if (config.has_base_model()) options.base_folder = kBaseFolder;
  options = train::resolve(options);
  const auto poll = [&channel] {
    channel.worked();
    if (channel.stop_requested() != Stop::None) throw Stopped{};
  };
  up::Done done;
  const auto tell = [&](const train::Evaluation& found) {
    channel.send(up::Evaluation{EvaluationPhase::After, 0, found.loss, found.tokens, found.accuracy, found.samples});
    done.tokens = found.tokens;
  };
  if (options.objective == "dpo") {
    const train::PreferenceEvaluation found = train::evaluate_preferences(files, options, job.data.name, ".", *device, poll);
    tell(found);
    channel.send(up::Metric{0, "reward_margin", found.margin, found.samples});
    channel.send(up::Metric{0, "chosen_likelier", found.chosen_likelier, found.samples});
  } else {
    tell(train::evaluate(files, options, are_records, job.data.name, ".", *device, poll));
  }
  channel.send(done);
}

void describe(const down::Job& job, Channel& channel) {
  if (job.base.empty()) throw Error("model_missing", "the job names no files of a model", "", "Give a folder or a GGUF file.");
  const train::ModelFiles files = model_files(job, {}, channel);
  channel.send(up::Description{train::describe_base(files.base_folder, files.folder)});
  channel.send(up::Done{});
}

// Into a folder of its own, because files of the model have the same names; in the sandbox it is there already.
void export_files(const down::Job& job, Channel& channel) {
  const RunConfig config = frozen_config(job);
  const train::ModelFiles files = model_files(job, config, channel);
  const auto device = open_device(job);
  if (mkdir(export_folder, 0700) != 0 && errno != EEXIST)
    throw Error("io_error", std::string("cannot make the folder ") + export_folder, "", "Look at the space under the job folders.");
  const auto written = train::export_model(files, train::parse_exports(config.text("exports")), config.text("artifact_precision"), config.text("adapter_precision"), export_folder, *device, [&channel] {
    channel.worked();
    if (channel.stop_requested() != Stop::None) throw Stopped{};
  });
  for (const train::Artifact& artifact : written) channel.send(up::File{FileKind::Artifact, artifact.name, 0, artifact.bytes, artifact.sha256});
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
      case JobKind::Plan:
      case JobKind::Measure: train_or_plan(job, channel); break;
      case JobKind::Generate: generate(job, channel); break;
      case JobKind::Import: describe(job, channel); break;
      case JobKind::Evaluate: evaluate(job, channel); break;
      case JobKind::Export: export_files(job, channel); break;
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
