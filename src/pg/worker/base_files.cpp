// See base_files.hpp.
#include "pg/compat.hpp"

#include "pg/rbac/rbac.hpp"
#include "pg/worker/base_files.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

call::Statement need_statement{"select r.owner_id, r.base_model_id from pgtrain.training_runs r where r.id = $1"
                               " union all select m.owner_id, m.base_model_id from pgtrain.models m where m.id = $2",
                               {Type::Int8, Type::Int8}};
call::Statement candidates_statement{"select c.model_id, c.made_by, c.may_use from pgtrain_private.base_candidates($1, $2, $3) c", {Type::Int8, Type::Int8, Type::Bool}};
call::Statement files_statement{"select f.name, f.file_id, f.bytes, f.sha256 from pgtrain_private.version_files($1, $2) f", {Type::Int8, Type::Int8}};

// Nothing: some of its bytes are not on this server.
std::optional<std::vector<BaseFile>> files_here(const call::Spi &spi, const call::Row &candidate) {
  std::vector<BaseFile> files;
  for (const call::Row &row : files_statement.execute(spi, {candidate.int64(0), candidate.optional_int64(1)})) {
    BaseFile file{row.text(0), row.int64(1), FileClaim{{}, static_cast<uint64_t>(row.int64(2)), row.text(3)}, {}};
    if (!is_stored_here(spi, file.file_id)) return std::nullopt;
    file.here = find_on_disk(spi, file.file_id);
    files.push_back(std::move(file));
  }
  return files.empty() ? std::nullopt : std::optional(std::move(files));
}

// One of both.
Base find(const call::Spi &spi, std::optional<int64_t> run_id, std::optional<int64_t> adapter_id) {
  Base base;
  const call::Rows need = need_statement.execute(spi, {run_id, adapter_id});
  if (need.empty() || need[0].is_null(1)) return base;
  const std::string title = "model " + std::to_string(need[0].int64(1)), what = run_id ? "run" : "adapter";
  const std::string then = run_id ? " and retry the run" : "";
  const bool sees_all = !need[0].is_null(0) && rbac::reach(need[0].int64(0), 0, "read", "models") == rbac::Reach::Any;
  bool is_there = false, is_usable = false;
  for (const call::Row &candidate : candidates_statement.execute(spi, {run_id, adapter_id, sees_all})) {
    is_there = true;
    if (!candidate.boolean(2)) continue;
    is_usable = true;
    if (std::optional<std::vector<BaseFile>> files = files_here(spi, candidate)) {
      base.files = std::move(*files);
      return base;
    }
  }
  base.problem = is_there && !is_usable ? "permission_revoked" : "model_missing";
  if (is_usable) {
    base.message = "the bytes of the base model, " + title + ", are not on this server";
    base.detail = "Files above pgtrain.row_storage_limit lie in the data directory and are not replicated or dumped.";
    base.hint = "Import the model again, under any name" + (run_id ? "," + then : then) + "; or copy the folder pgtrain/artifacts from the server that made it.";
  } else if (is_there) {
    base.message = "the owner of the " + what + " may not use its base model, " + title + (run_id ? ", any more" : "");
    base.hint = need[0].is_null(0) ? "An adapter of the platform needs a model that everybody may see (pgtrain.set_model_public)." : "Have it granted again (pgtrain.grant_model)" + then + ".";
  } else {
    base.message = "the base model, " + title + ", was deleted";
    base.hint = "Import the same files again, under any name" + (run_id ? "," + then + "; or submit a new run with another base_model." : std::string("."));
  }
  return base;
}

}  // namespace

Base find_base(const call::Spi &spi, int64_t run_id) { return find(spi, run_id, std::nullopt); }

Base find_base_of_adapter(const call::Spi &spi, int64_t model_id) { return find(spi, std::nullopt, model_id); }

void place_base_rows(const call::Spi &spi, const Base &base, const JobFolder &folder) {
  if (base.files.empty()) return;
  folder.make_base();
  for (const BaseFile &file : base.files)
    if (!file.here) (void)fetch_file(spi, file.file_id, folder.base() + "/" + file.name);
}

bool place_base(const Base &base, const JobFolder &folder, const GoOn &go_on, std::vector<protocol::InputFile> &listed) {
  for (const BaseFile &file : base.files) {
    if (file.here && !link_from_disk(*file.here, folder.base() + "/" + file.name, go_on)) return false;
    listed.push_back(protocol::InputFile{file.name, file.claim.bytes, file.claim.sha256});
  }
  return true;
}

}  // namespace pgtrain::pg::worker
