// evaluate_model: what a model's loss and accuracy are on the samples of a dataset, measured by a trainer that is a child of this backend,
// on the CPU. Called by pgtrain.evaluate, which has checked the rights.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
}

#include <algorithm>
#include <optional>
#include <string>
#include <variant>

#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/worker/conversation.hpp"
#include "pg/worker/data_file.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/model_job.hpp"
#include "pg/worker/relay.hpp"
#include "pg/worker/settings.hpp"

namespace {

using namespace pgtrain::pg;
using namespace pgtrain::protocol;
using call::Type;

call::Statement longest_statement{"select longest_bytes from pgtrain.datasets where id = $1", {Type::Int8}};

// The first so many samples of a dataset as the job's data.
void write_data(const call::Spi &spi, int64_t dataset_id, int64_t samples, const worker::JobFolder &folder, down::Job &job) {
  const int64_t at_once = worker::samples_at_once(longest_statement.execute(spi, {dataset_id})[0].int64(0));
  worker::DataFile file(folder, worker::takes_records(job));
  for (int64_t last = 0; last < samples; last += at_once) (void)file.add_samples(spi, dataset_id, last, std::min(last + at_once, samples));
  job.data = file.finish();
}

std::optional<int64_t> optional_int64(FunctionCallInfo fcinfo, int index) {
  return PG_ARGISNULL(index) ? std::nullopt : std::optional<int64_t>(PG_GETARG_INT64(index));
}

}  // namespace

// evaluate_model(run_id, model_id, dataset_id, samples) returns jsonb
PGTRAIN_FUNCTION(pgtrain_evaluate_model) {
  down::Job job = worker::session_job(JobKind::Evaluate, "cpu");
  job.threads = static_cast<uint32_t>(worker::worker_settings.trainer_threads);
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  {
    const call::Spi spi;
    worker::add_model(spi, {optional_int64(fcinfo, 0), optional_int64(fcinfo, 1)}, folder, job);
    write_data(spi, PG_GETARG_INT64(2), PG_GETARG_INT64(3), folder, job);
  }
  std::optional<up::Evaluation> measured;
  std::string others;
  worker::converse("pgtrain trainer of evaluate", folder.path(), job, [&](const UpMessage &message) {
    if (const auto *said = std::get_if<up::Evaluation>(&message)) measured = *said;
    if (const auto *metric = std::get_if<up::Metric>(&message))
      others += "," + worker::json_text(metric->name) + ":" + worker::json_number(metric->value) + "," + worker::json_text(metric->name + "_samples") + ":" +
                std::to_string(metric->samples);
  });
  if (!measured) throw Error(code::TrainerFailed, "the trainer was done without having measured anything");
  const std::string json = "{\"loss\":" + worker::json_number(measured->loss) + ",\"token_accuracy\":" + worker::json_number(measured->accuracy) +
                           ",\"tokens\":" + std::to_string(measured->tokens) + ",\"samples\":" + std::to_string(measured->samples) + others + "}";
  return call::guarded([&json] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.c_str())); });
}
