// SQL functions that start the trainer from a backend: the memory plan of a configuration, and text written by a model.
// The trainer is a child of this backend (worker/conversation.hpp), on the CPU for generation.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
}

#include <optional>
#include <string>
#include <variant>

#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/worker/conversation.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/relay.hpp"
#include "pg/worker/settings.hpp"

namespace {

using namespace pgtrain::pg;
using namespace pgtrain::protocol;
using call::Type;

call::Statement pairs_statement{"select p.key, coalesce(p.value, '') from jsonb_each_text($1) p", {Type::Jsonb}};
call::Statement model_statement{"select name, file_id from pgtrain.artifacts where run_id = $1 order by name <> 'model.safetensors', name", {Type::Int8}};

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
  down::Job job = worker::session_job(JobKind::Plan, text_argument(fcinfo, 1));
  job.data.bytes = static_cast<uint64_t>(PG_GETARG_INT64(2));
  {
    call::Spi spi;
    const char *config = call::guarded([&] {
      Jsonb *value = PG_GETARG_JSONB_P(0);
      return JsonbToCString(nullptr, &value->root, VARSIZE(value));
    });
    for (const call::Row &pair : pairs_statement.execute(spi, {config})) job.config.emplace_back(pair.text(0), pair.text(1));
  }
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  std::optional<up::Plan> plan;
  worker::converse("pgtrain trainer of a plan", folder.path(), job, [&plan](const UpMessage &message) {
    if (const auto *said = std::get_if<up::Plan>(&message)) plan = *said;
  });
  if (!plan) throw Error(code::TrainerFailed, "the trainer was done without a plan");
  const std::string json = plan_json(*plan);
  return call::guarded([&json] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.c_str())); });
}

// generate_text(run_id, prompt, max_tokens, temperature, top_k, top_p, seed) returns text
PGTRAIN_FUNCTION(pgtrain_generate_text) {
  down::Job job = worker::session_job(JobKind::Generate, "cpu");
  job.run_id = static_cast<uint64_t>(PG_GETARG_INT64(0));
  job.threads = static_cast<uint32_t>(worker::worker_settings.trainer_threads);
  job.generate.prompts = {text_argument(fcinfo, 1)};
  job.generate.max_tokens = static_cast<uint32_t>(PG_GETARG_INT32(2));
  job.generate.temperature = PG_GETARG_FLOAT8(3);
  job.generate.top_k = static_cast<uint32_t>(PG_GETARG_INT32(4));
  job.generate.top_p = PG_GETARG_FLOAT8(5);
  job.generate.seed = static_cast<uint64_t>(PG_GETARG_INT64(6));
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  {
    call::Spi spi;
    for (const call::Row &row : model_statement.execute(spi, {PG_GETARG_INT64(0)})) {
      const worker::FileClaim claim = worker::fetch_file(spi, row.int64(1), folder.file(row.text(0)));
      job.model.push_back(InputFile{row.text(0), claim.bytes, claim.sha256});
    }
  }
  if (job.model.empty()) throw Error(code::NotFound, "run " + std::to_string(PG_GETARG_INT64(0)) + " has no stored model");
  std::string text;
  worker::converse("pgtrain trainer of generate", folder.path(), job, [&text](const UpMessage &message) {
    if (const auto *piece = std::get_if<up::Piece>(&message)) text += piece->text;
  });
  return call::guarded([&text] { return PointerGetDatum(cstring_to_text_with_len(text.data(), static_cast<int>(text.size()))); });
}
