// compute_plan and measure_speed: what a run with a configuration needs and how fast it would be, by a trainer that is a child of this
// backend (worker/conversation.hpp).
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
#include "pg/worker/job_folder.hpp"
#include "pg/worker/relay.hpp"
#include "pg/worker/shared.hpp"

namespace {

using namespace pgtrain::pg;
using namespace pgtrain::protocol;
using call::Type;

call::Statement pairs_statement{"select p.key, coalesce(p.value, '') from jsonb_each_text($1) p", {Type::Jsonb}};

std::string plan_json(const up::Plan &plan) {
  const auto field = [](const char *name, uint64_t value) { return std::string("\"") + name + "\":" + std::to_string(value) + ","; };
  return "{" + field("parameters", plan.parameters) + field("weight_bytes", plan.weight_bytes) + field("gradient_bytes", plan.gradient_bytes) +
         field("optimizer_bytes", plan.optimizer_bytes) + field("activation_bytes", plan.activation_bytes) +
         field("workspace_bytes", plan.workspace_bytes) + field("peak_bytes", plan.peak_bytes) + field("tokens_per_step", plan.tokens_per_step) +
         field("device_memory_bytes", plan.device_memory_bytes) + "\"device\":" + worker::json_text(plan.device) +
         ",\"precision\":" + worker::json_text(plan.precision) + ",\"recompute\":" + worker::json_text(plan.recompute) +
         ",\"trained_parameters\":" + std::to_string(plan.trained_parameters) + "}";
}

std::string speed_json(const up::Speed &speed) {
  return "{\"step_seconds\":" + worker::json_number(speed.step_seconds) + ",\"evaluation_seconds\":" + worker::json_number(speed.evaluation_seconds) +
         ",\"layers\":" + std::to_string(speed.layers) + "}";
}

std::string text_argument(FunctionCallInfo fcinfo, int index) {
  const char *plain = call::guarded([&] { return text_to_cstring(PG_GETARG_TEXT_PP(index)); });
  return plain;
}

// Of a function whose arguments are config, selector, data_bytes, base_config.
down::Job job_of(FunctionCallInfo fcinfo, JobKind kind) {
  down::Job job = worker::session_job(kind, text_argument(fcinfo, 1));
  job.data.bytes = static_cast<uint64_t>(PG_GETARG_INT64(2));
  if (!PG_ARGISNULL(3)) job.base_config = text_argument(fcinfo, 3);
  call::Spi spi;
  const char *config = call::guarded([&] {
    Jsonb *value = PG_GETARG_JSONB_P(0);
    return JsonbToCString(nullptr, &value->root, VARSIZE(value));
  });
  for (const call::Row &pair : pairs_statement.execute(spi, {config})) job.config.emplace_back(pair.text(0), pair.text(1));
  return job;
}

}  // namespace

// compute_plan(config, selector, data_bytes, base_config) returns jsonb
PGTRAIN_FUNCTION(pgtrain_compute_plan) {
  const down::Job job = job_of(fcinfo, JobKind::Plan);
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  std::optional<up::Plan> plan;
  worker::converse("pgtrain trainer of a plan", folder.path(), job, [&plan](const UpMessage &message) {
    if (const auto *said = std::get_if<up::Plan>(&message)) plan = *said;
  });
  if (!plan) throw Error(code::TrainerFailed, "the trainer was done without a plan");
  const std::string json = plan_json(*plan);
  return call::guarded([&json] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.c_str())); });
}

// measure_speed(config, selector, data_bytes, base_config, threads) returns jsonb
PGTRAIN_FUNCTION(pgtrain_measure_speed) {
  down::Job job = job_of(fcinfo, JobKind::Measure);
  job.threads = static_cast<uint32_t>(PG_GETARG_INT32(4));
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  std::optional<up::Speed> speed;
  worker::converse("pgtrain trainer of a measurement", folder.path(), job, [&speed](const UpMessage &message) {
    if (const auto *said = std::get_if<up::Speed>(&message)) speed = *said;
  });
  if (!speed) throw Error(code::TrainerFailed, "the trainer was done without a measurement");
  const std::string json = speed_json(*speed);
  return call::guarded([&json] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.c_str())); });
}

// trainer_threads() returns integer
PGTRAIN_FUNCTION(pgtrain_trainer_threads) {
  if (worker::shared() == nullptr) PG_RETURN_NULL();
  PG_RETURN_INT32(worker::trainer_threads());
}
