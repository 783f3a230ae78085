// SQL functions that start the trainer from a backend: the memory plan of a configuration, and text written by a model.
// The trainer is a child of this backend, on the CPU for generation; a cancelled or terminated statement ends it.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
}

#include <string>
#include <variant>
#include <vector>

#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/relay.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/trainer.hpp"

namespace {

using namespace pgtrain::pg;
using namespace pgtrain::protocol;
using call::Type;

constexpr long look_ms = 200;
constexpr int64_t exit_patience_us = 2000000;

call::Statement pairs_statement{"select p.key, coalesce(p.value, '') from jsonb_each_text($1) p", {Type::Jsonb}};
call::Statement model_statement{"select name, file_id from pgtrain.artifacts where run_id = $1 order by name <> 'model.safetensors', name", {Type::Int8}};

struct Answer {
  std::optional<up::Plan> plan;
  std::string text;
  bool is_done = false;
};

[[noreturn]] void raise_failure(const up::Failed &failed) {
  const bool is_about_input = failed.code == FailureCode::ConfigInvalid || failed.code == FailureCode::DataInvalid || failed.code == FailureCode::OutOfMemory;
  throw Error(is_about_input ? code::InvalidData : code::TrainerFailed, failed.message, failed.detail, failed.hint);
}

std::string exit_text(worker::Trainer &trainer) {
  worker::ExitStatus status;
  const TimestampTz patience_ends = GetCurrentTimestamp() + exit_patience_us;
  std::vector<UpMessage> ignored;
  while (!trainer.child().poll_exit(status) && GetCurrentTimestamp() < patience_ends) (void)trainer.listen(20, ignored);
  if (!trainer.child().poll_exit(status)) status = trainer.child().kill_and_wait();
  trainer.drain_errors();
  return status.describe();
}

// Runs one job to its Done or Failed. Errors and interrupts leave by exceptions; the trainer dies with its object.
Answer converse(const std::string &name, const std::string &folder, const down::Job &job) {
  worker::Trainer trainer(name);
  trainer.start(folder, job);
  Answer answer;
  TimestampTz heard_at = GetCurrentTimestamp();
  while (!answer.is_done) {
    std::vector<UpMessage> messages;
    const worker::Trainer::State state = trainer.listen(look_ms, messages);
    if (!messages.empty()) heard_at = GetCurrentTimestamp();
    for (const UpMessage &message : messages) {
      if (const auto *failed = std::get_if<up::Failed>(&message)) raise_failure(*failed);
      if (const auto *plan = std::get_if<up::Plan>(&message)) answer.plan = *plan;
      if (const auto *sample = std::get_if<up::Sample>(&message)) answer.text += sample->text;
      if (std::holds_alternative<up::Done>(message)) answer.is_done = true;
    }
    if (answer.is_done) break;
    if (state == worker::Trainer::State::Broken) throw Error(code::TrainerFailed, "the trainer broke the protocol: " + trainer.problem());
    if (state == worker::Trainer::State::Ended)
      throw Error(code::TrainerFailed, "the trainer ended without a result", "It ended with " + exit_text(trainer) + ".", "Its last words are in the server log.");
    if (GetCurrentTimestamp() - heard_at > worker::worker_settings.trainer_silence_timeout_ms * int64_t{1000})
      throw Error(code::TrainerFailed, "the trainer fell silent",
                  "pgtrain.trainer_silence_timeout is " + std::to_string(worker::worker_settings.trainer_silence_timeout_ms) + " ms.");
  }
  (void)exit_text(trainer);
  return answer;
}

std::string folder_name() {
  static int number = 0;
  return "b" + std::to_string(MyProcPid) + "_" + std::to_string(++number);
}

down::Job job_of(JobKind kind, const std::string &selector) {
  down::Job job;
  job.kind = kind;
  job.device = selector;
  job.heartbeat_ms = static_cast<uint32_t>(worker::worker_settings.heartbeat_interval_ms);
  return job;
}

std::string plan_json(const up::Plan &plan) {
  const auto field = [](const char *name, uint64_t value) { return std::string("\"") + name + "\":" + std::to_string(value) + ","; };
  return "{" + field("parameters", plan.parameters) + field("weight_bytes", plan.weight_bytes) + field("gradient_bytes", plan.gradient_bytes) +
         field("optimizer_bytes", plan.optimizer_bytes) + field("activation_bytes", plan.activation_bytes) +
         field("workspace_bytes", plan.workspace_bytes) + field("peak_bytes", plan.peak_bytes) + field("tokens_per_step", plan.tokens_per_step) +
         field("device_memory_bytes", plan.device_memory_bytes) + "\"device\":" + worker::json_text(plan.device) +
         ",\"precision\":" + worker::json_text(plan.precision) + "}";
}

std::string text_argument(FunctionCallInfo fcinfo, int index) {
  const char *plain = call::guarded([&] { return text_to_cstring(PG_GETARG_TEXT_PP(index)); });
  return plain;
}

}  // namespace

// compute_plan(config, selector, data_bytes) returns jsonb
PGTRAIN_FUNCTION(pgtrain_compute_plan) {
  down::Job job = job_of(JobKind::Plan, text_argument(fcinfo, 1));
  job.data.bytes = static_cast<uint64_t>(PG_GETARG_INT64(2));
  {
    call::Spi spi;
    const char *config = call::guarded([&] {
      Jsonb *value = PG_GETARG_JSONB_P(0);
      return JsonbToCString(nullptr, &value->root, VARSIZE(value));
    });
    for (const call::Row &pair : pairs_statement.execute(spi, {config})) job.config.emplace_back(pair.text(0), pair.text(1));
  }
  const worker::JobFolder folder(MyDatabaseId, folder_name());
  const Answer answer = converse("pgtrain trainer of a plan", folder.path(), job);
  if (!answer.plan) throw Error(code::TrainerFailed, "the trainer was done without a plan");
  const std::string json = plan_json(*answer.plan);
  return call::guarded([&json] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.c_str())); });
}

// generate_text(run_id, prompt, max_tokens, temperature, top_k, top_p, seed) returns text
PGTRAIN_FUNCTION(pgtrain_generate_text) {
  down::Job job = job_of(JobKind::Generate, "cpu");
  job.run_id = static_cast<uint64_t>(PG_GETARG_INT64(0));
  job.threads = static_cast<uint32_t>(worker::worker_settings.trainer_threads);
  job.generate.prompt = text_argument(fcinfo, 1);
  job.generate.max_tokens = static_cast<uint32_t>(PG_GETARG_INT32(2));
  job.generate.temperature = PG_GETARG_FLOAT8(3);
  job.generate.top_k = static_cast<uint32_t>(PG_GETARG_INT32(4));
  job.generate.top_p = PG_GETARG_FLOAT8(5);
  job.generate.seed = static_cast<uint64_t>(PG_GETARG_INT64(6));
  const worker::JobFolder folder(MyDatabaseId, folder_name());
  {
    call::Spi spi;
    for (const call::Row &row : model_statement.execute(spi, {PG_GETARG_INT64(0)})) {
      const worker::FileClaim claim = worker::fetch_file(spi, row.int64(1), folder.file(row.text(0)));
      job.model.push_back(InputFile{row.text(0), claim.bytes, claim.sha256});
    }
  }
  if (job.model.empty()) throw Error(code::NotFound, "run " + std::to_string(PG_GETARG_INT64(0)) + " has no stored model");
  const Answer answer = converse("pgtrain trainer of generate", folder.path(), job);
  return call::guarded([&answer] { return PointerGetDatum(cstring_to_text_with_len(answer.text.data(), static_cast<int>(answer.text.size()))); });
}
