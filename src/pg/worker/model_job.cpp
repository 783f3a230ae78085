// See model_job.hpp.
#include "pg/compat.hpp"

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

}  // namespace

void add_model(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job) {
  job.run_id = static_cast<uint64_t>(*choice.run_id);
  for (const call::Row &pair : config_statement.execute(spi, {*choice.run_id})) job.config.emplace_back(pair.text(0), pair.text(1));
  for (const call::Row &row : artifacts_statement.execute(spi, {*choice.run_id})) {
    const FileClaim claim = fetch_file(spi, row.int64(1), folder.file(row.text(0)));
    job.model.push_back(protocol::InputFile{row.text(0), claim.bytes, claim.sha256});
  }
  if (job.model.empty()) throw Error(code::NotFound, "run " + std::to_string(*choice.run_id) + " has no stored model");
}

}  // namespace pgtrain::pg::worker
