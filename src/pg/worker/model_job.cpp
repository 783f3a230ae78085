// See model_job.hpp.
#include "pg/compat.hpp"

#include "pg/worker/base_files.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/model_job.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

// Exports in formats for others are not read again.
call::Statement artifacts_statement{
    "select a.name, a.file_id from pgtrain.artifacts a where a.run_id = $1 and a.name !~ '\\.gguf$' order by a.name <> 'model.safetensors', a.name collate \"C\"",
    {Type::Int8}};
call::Statement config_statement{"select p.key, coalesce(p.value, '') from pgtrain.training_runs r, jsonb_each_text(r.config) p where r.id = $1", {Type::Int8}};
call::Statement imported_statement{"select m.name, f.name, f.file_id, f.bytes, f.sha256 from pgtrain.models m, pgtrain_private.version_files(m.id, null) f where m.id = $1",
                                   {Type::Int8}};

void add_base(const call::Spi &spi, const Base &base, const JobFolder &folder, protocol::down::Job &job) {
  if (!base.problem.empty()) throw Error(code::NotFound, base.message, base.detail, base.hint);
  place_base_rows(spi, base, folder);
  (void)place_base(base, folder, {}, job.base);
}

void add_run(const call::Spi &spi, int64_t run_id, const JobFolder &folder, protocol::down::Job &job) {
  job.run_id = static_cast<uint64_t>(run_id);
  for (const call::Row &pair : config_statement.execute(spi, {run_id})) job.config.emplace_back(pair.text(0), pair.text(1));
  for (const call::Row &row : artifacts_statement.execute(spi, {run_id})) {
    const FileClaim claim = fetch_file(spi, row.int64(1), folder.file(row.text(0)));
    job.model.push_back(protocol::InputFile{row.text(0), claim.bytes, claim.sha256});
  }
  if (job.model.empty()) throw Error(code::NotFound, "run " + std::to_string(run_id) + " has no stored model");
  // Whole weights need no other; adapters are read beside theirs.
  for (const protocol::InputFile &file : job.model)
    if (file.name == "adapter_model.safetensors") return add_base(spi, find_base(spi, run_id), folder, job);
}

void add_imported(const call::Spi &spi, int64_t model_id, const JobFolder &folder, protocol::down::Job &job) {
  Base base;
  for (const call::Row &row : imported_statement.execute(spi, {model_id})) {
    job.base_name = row.text(0);
    BaseFile file{row.text(1), row.int64(2), FileClaim{{}, static_cast<uint64_t>(row.int64(3)), row.text(4)}, {}};
    if (!is_stored_here(spi, file.file_id))
      throw Error(code::Unavailable, "the bytes of model \"" + job.base_name + "\" are not on this server",
                  "Files above pgtrain.row_storage_limit lie in the data directory and are not replicated or dumped.", "Import the model again.");
    file.here = find_on_disk(spi, file.file_id);
    base.files.push_back(std::move(file));
  }
  if (base.files.empty()) throw Error(code::NotFound, "model " + std::to_string(model_id) + " has no files");
  job.config.emplace_back("base_model", job.base_name);
  add_base(spi, base, folder, job);
}

}  // namespace

void add_model(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job) {
  if (choice.run_id) add_run(spi, *choice.run_id, folder, job);
  else add_imported(spi, choice.model_id.value_or(0), folder, job);
}

}  // namespace pgtrain::pg::worker
