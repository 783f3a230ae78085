// evaluate_model: what a model's loss and accuracy are, or with preferences those of DPO, on the samples of a dataset, measured by a trainer that is a child of this backend,
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

call::Statement dataset_statement{"select longest_bytes, 'preference' = any (kinds) from pgtrain.datasets where id = $1", {Type::Int8}};

// The samples say by which objective they are measured, not the run that made the model.
void set_objective(bool are_preferences, down::Job &job) {
  std::erase_if(job.config, [](const ConfigPair &pair) { return pair.first == "objective"; });
  job.config.emplace_back("objective", are_preferences ? "dpo" : "supervised");
}

// The first so many samples of a dataset as the job's data. Returns whether they are preferences.
bool write_data(const call::Spi &spi, int64_t dataset_id, int64_t samples, const worker::JobFolder &folder, down::Job &job) {
  const call::Rows dataset = dataset_statement.execute(spi, {dataset_id});
  const int64_t at_once = worker::samples_at_once(dataset[0].int64(0));
  worker::DataFile file(folder, worker::takes_records(job));
  for (int64_t last = 0; last < samples; last += at_once) (void)file.add_samples(spi, dataset_id, last, std::min(last + at_once, samples));
  job.data = file.finish();
  set_objective(dataset[0].boolean(1), job);
  return dataset[0].boolean(1);
}

}  // namespace

// evaluate_model(choice, dataset_id, samples) returns jsonb
PGTRAIN_FUNCTION(pgtrain_evaluate_model) {
  const char *choice = call::guarded([&] {
    Jsonb *value = PG_GETARG_JSONB_P(0);
    return JsonbToCString(nullptr, &value->root, VARSIZE(value));
  });
  down::Job job = worker::session_job(JobKind::Evaluate, "cpu");
  job.threads = static_cast<uint32_t>(worker::worker_settings.trainer_threads);
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  bool are_preferences = false;
  {
    const call::Spi spi;
    worker::add_model(spi, worker::read_choice(spi, choice), folder, job);
    are_preferences = write_data(spi, PG_GETARG_INT64(1), PG_GETARG_INT64(2), folder, job);
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
  const std::string json = "{\"loss\":" + worker::json_number(measured->loss) + (are_preferences ? ",\"reward_accuracy\":" : ",\"token_accuracy\":") + worker::json_number(measured->accuracy) +
                           (are_preferences ? ",\"pairs\":" : ",\"tokens\":") + std::to_string(measured->tokens) + ",\"samples\":" + std::to_string(measured->samples) + others + "}";
  return call::guarded([&json] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.c_str())); });
}
