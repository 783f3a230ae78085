// See model_job.hpp.
#include "pg/compat.hpp"

#include <algorithm>

#include "pg/worker/data_file.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/model_job.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

// Exports in formats for others are not read again, nor whole weights that an adapter was merged into; but of a run that left GGUF files
// alone the most exact of these is what there is.
call::Statement artifacts_statement{
    "with files as (select f.name, f.file_id from pgtrain.artifacts f where f.run_id = $1 union all select f.name, f.file_id from pgtrain.model_files f where f.model_id = $2)"
    " select a.name, a.file_id from files a"
    " where (a.name !~ '\\.gguf$' or a.name = (select g.name from files g"
    "     order by pg_catalog.array_position(array['model-f16.gguf', 'model-q8_0.gguf', 'model-q4_k.gguf'], g.name) nulls first limit 1))"
    "   and (a.name !~ '^model[-.].*safetensors' or not exists (select from files b where b.name = 'adapter_model.safetensors'))"
    " order by a.name <> 'model.safetensors', a.name collate \"C\"",
    {Type::Int8, Type::Int8}};
call::Statement choice_statement{
    "select ($1->>'run_id')::bigint, ($1->>'model_id')::bigint, ($1->>'checkpoint_id')::bigint, coalesce(($1->>'is_base')::boolean, false),"
    " coalesce(($1->>'needs_base')::boolean, false)",
    {Type::Jsonb}};
call::Statement checkpoint_statement{"select c.step, c.file_id from pgtrain.checkpoints c where c.id = $1 and c.run_id = $2", {Type::Int8, Type::Int8}};
call::Statement config_statement{"select p.key, coalesce(p.value, '') from pgtrain.training_runs r, jsonb_each_text(r.config) p where r.id = $1", {Type::Int8}};
call::Statement adapter_statement{"select m.name from pgtrain.models m where m.id = $1 and m.base_model_id is not null", {Type::Int8}};
call::Statement imported_statement{"select m.name, f.name, f.file_id, f.bytes, f.sha256 from pgtrain.models m, pgtrain_private.version_files(m.id, null) f where m.id = $1",
                                   {Type::Int8}};

void add_checkpoint(const call::Spi &spi, int64_t run_id, int64_t checkpoint_id, const JobFolder &folder, protocol::down::Job &job) {
  const call::Rows rows = checkpoint_statement.execute(spi, {checkpoint_id, run_id});
  if (rows.empty()) throw Error(code::NotFound, "run " + std::to_string(run_id) + " has no such checkpoint any more");
  const std::string name = "checkpoint-" + std::to_string(rows[0].int64(0)) + ".safetensors";
  const FileClaim claim = fetch_file(spi, rows[0].int64(1), folder.file(name));
  job.resume = protocol::InputFile{name, claim.bytes, claim.sha256};
}

// Of a run, or the files of an imported adapter.
void add_artifacts(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job) {
  for (const call::Row &row : artifacts_statement.execute(spi, {choice.run_id, choice.model_id})) {
    const FileClaim claim = fetch_file(spi, row.int64(1), folder.file(row.text(0)));
    job.model.push_back(protocol::InputFile{row.text(0), claim.bytes, claim.sha256});
  }
  if (job.model.empty()) throw Error(code::NotFound, "run " + std::to_string(choice.run_id.value_or(0)) + " has no stored model");
}

// Whole weights need no other; adapters are read beside theirs, and a checkpoint holds nothing of its base.
bool needs_base(const protocol::down::Job &job) {
  if (job.model.empty()) return takes_records(job);
  return std::any_of(job.model.begin(), job.model.end(), [](const protocol::InputFile &file) { return file.name == "adapter_model.safetensors"; });
}

void add_run(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job) {
  job.run_id = static_cast<uint64_t>(*choice.run_id);
  for (const call::Row &pair : config_statement.execute(spi, {*choice.run_id})) job.config.emplace_back(pair.text(0), pair.text(1));
  if (choice.checkpoint_id) add_checkpoint(spi, *choice.run_id, *choice.checkpoint_id, folder, job);
  else if (!choice.is_base) add_artifacts(spi, choice, folder, job);
  if (choice.needs_base || needs_base(job)) add_base(spi, find_base(spi, *choice.run_id), folder, job);
}

void add_imported(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job) {
  const int64_t model_id = choice.model_id.value_or(0);
  if (const call::Rows adapter = adapter_statement.execute(spi, {model_id}); !adapter.empty()) {
    job.config.emplace_back("base_model", adapter[0].text(0));
    if (!choice.is_base) add_artifacts(spi, choice, folder, job);
    return add_base(spi, find_base_of_adapter(spi, model_id), folder, job);
  }
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

void add_base(const call::Spi &spi, const Base &base, const JobFolder &folder, protocol::down::Job &job) {
  if (!base.problem.empty()) throw Error(code::NotFound, base.message, base.detail, base.hint);
  place_base_rows(spi, base, folder);
  (void)place_base(base, folder, {}, job.base);
}

ModelChoice read_choice(const call::Spi &spi, const char *choice) {
  const call::Rows rows = choice_statement.execute(spi, {choice});
  return {rows[0].optional_int64(0), rows[0].optional_int64(1), rows[0].optional_int64(2), rows[0].boolean(3), rows[0].boolean(4)};
}

void add_model(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job) {
  if (choice.run_id) add_run(spi, choice, folder, job);
  else add_imported(spi, choice, folder, job);
}

}  // namespace pgtrain::pg::worker
