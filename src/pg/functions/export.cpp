// export_files and export_to_model: further forms of a run's model, or of one of its checkpoints or an imported adapter, written by a
// trainer that is a child of this backend and stored as the run's, or as a model's. Called by pgtrain.export_run, which makes them
// artifacts, and by pgtrain.publish_checkpoint and export_model; all have checked the rights.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
}

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/worker/conversation.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/model_job.hpp"
#include "pg/worker/relay.hpp"
#include "pg/worker/settings.hpp"

namespace {

using namespace pgtrain::pg;
using namespace pgtrain::protocol;
using call::Type;

call::Statement replaced_statement{
    "delete from pgtrain_private.stored_files s using pgtrain.model_files f where s.id = f.file_id and f.model_id = $1 and f.name = $2", {Type::Int8, Type::Text}};
call::Statement room_statement{"select pgtrain_private.require_storage($1, $2)", {Type::Int8, Type::Int8}};

std::vector<std::string> names_of(ArrayType *array) {
  std::vector<std::string> names;
  call::guarded([&] {
    Datum *values = nullptr;
    bool *nulls = nullptr;
    int count = 0;
    deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
    for (int i = 0; i < count; ++i)
      if (!nulls[i]) names.emplace_back(TextDatumGetCString(values[i]));
  });
  return names;
}

// The run's configuration with these forms in place of its own.
void ask_for(const std::string &exports, down::Job &job) {
  std::erase_if(job.config, [](const ConfigPair &pair) { return pair.first == "exports"; });
  job.config.emplace_back("exports", exports);
}

std::vector<up::File> write_files(const worker::JobFolder &folder, const down::Job &job) {
  const std::string to = folder.file(export_folder);
  if (mkdir(to.c_str(), 0700) != 0) throw Error(code::Unavailable, worker::text_of_system_error("cannot make", to));
  std::vector<up::File> files;
  worker::converse("pgtrain trainer of an export", folder.path(), job, [&files](const UpMessage &message) {
    if (const auto *file = std::get_if<up::File>(&message)) files.push_back(*file);
  });
  if (files.empty()) throw Error(code::TrainerFailed, "the trainer was done without having written anything");
  // Still a folder, and no link to one: what it names is read with the server's rights.
  worker::File(to, O_RDONLY | O_DIRECTORY);
  return files;
}

// A tokenizer, say, that lies beside the adapter already.
void leave_out(const std::vector<std::string> &present, std::vector<up::File> &files) {
  std::erase_if(files, [&present](const up::File &file) { return std::find(present.begin(), present.end(), file.name) != present.end(); });
}

int64_t total_bytes(const std::vector<up::File> &files) {
  int64_t total = 0;
  for (const up::File &file : files) total += static_cast<int64_t>(file.bytes);
  return total;
}

}  // namespace

// export_files(run_id, owner_id, exports, present) returns jsonb
PGTRAIN_FUNCTION(pgtrain_export_files) {
  const int64_t run_id = PG_GETARG_INT64(0), owner_id = PG_GETARG_INT64(1);
  const std::string exports(call::guarded([&] { return boundary::text_argument(fcinfo, 2); }));
  const std::vector<std::string> present = names_of(call::guarded([&] { return PG_GETARG_ARRAYTYPE_P(3); }));
  down::Job job = worker::session_job(JobKind::Export, "cpu");
  job.threads = static_cast<uint32_t>(worker::worker_settings.trainer_threads);
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  std::string list = "[";
  {
    const call::Spi spi;
    worker::add_model(spi, {run_id, std::nullopt}, folder, job);
    ask_for(exports, job);
    std::vector<up::File> files = write_files(folder, job);
    leave_out(present, files);
    room_statement.execute(spi, {owner_id, total_bytes(files)});
    for (const up::File &file : files) {
      const int64_t file_id = worker::store_export(spi, run_id, owner_id, {folder.file(std::string(export_folder) + "/" + file.name), file.bytes, file.sha256});
      list += std::string(list.size() > 1 ? "," : "") + "{\"name\":" + worker::json_text(file.name) + ",\"file_id\":" + std::to_string(file_id) +
              ",\"bytes\":" + std::to_string(file.bytes) + ",\"sha256\":" + worker::json_text(file.sha256) + "}";
    }
  }
  list += "]";
  return call::guarded([&list] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(list.c_str())); });
}

// export_to_model(choice, model_id, owner_id, exports, present) returns void
PGTRAIN_FUNCTION(pgtrain_export_to_model) {
  const char *choice = call::guarded([&] {
    Jsonb *value = PG_GETARG_JSONB_P(0);
    return JsonbToCString(nullptr, &value->root, VARSIZE(value));
  });
  const int64_t model_id = PG_GETARG_INT64(1);
  const std::optional<int64_t> owner_id = PG_ARGISNULL(2) ? std::nullopt : std::optional<int64_t>(PG_GETARG_INT64(2));
  const std::string exports(call::guarded([&] { return boundary::text_argument(fcinfo, 3); }));
  const std::vector<std::string> present = names_of(call::guarded([&] { return PG_GETARG_ARRAYTYPE_P(4); }));
  down::Job job = worker::session_job(JobKind::Export, "cpu");
  job.threads = static_cast<uint32_t>(worker::worker_settings.trainer_threads);
  const worker::JobFolder folder(MyDatabaseId, worker::session_folder_name());
  const call::Spi spi;
  worker::add_model(spi, worker::read_choice(spi, choice), folder, job);
  ask_for(exports, job);
  std::vector<up::File> files = write_files(folder, job);
  leave_out(present, files);
  if (owner_id) room_statement.execute(spi, {*owner_id, total_bytes(files)});
  for (const up::File &file : files) {
    replaced_statement.execute(spi, {model_id, file.name});
    const worker::ModelFile stored{model_id, owner_id, file.name, {folder.file(std::string(export_folder) + "/" + file.name), file.bytes, file.sha256}};
    worker::verify_file(stored.claim);
    worker::store_model_file(spi, stored);
  }
  PG_RETURN_VOID();
}
