// The first part of an attempt (attempt.hpp): the job, the base model, the frozen data as a file, the checkpoint to continue from.
// Data is read in short transactions by ordinal, so that no snapshot is held however large it is.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/timestamp.h"
}

#include <unistd.h>

#include <algorithm>

#include "pg/worker/attempt.hpp"
#include "pg/worker/base_files.hpp"
#include "pg/worker/data_file.hpp"
#include "pg/worker/devices.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/transaction.hpp"
#include "pg/worker/worker.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

constexpr int64_t ms = 1000;
constexpr char resume_name[] = "resume.safetensors";

call::Statement job_statement{
    "select j.config::text, j.data_bytes, j.threads, j.checkpoint_file, j.checkpoint_step, j.is_limited, j.rank from pgtrain_private.load_job($1, $2, $3, $4) j",
    {Type::Int8, Type::Int4, Type::Int4, Type::Int8}};
call::Statement pairs_statement{"select p.key, coalesce(p.value, '') from jsonb_each_text($1) p", {Type::Jsonb}};
call::Statement parts_statement{
    "select p.dataset_id, p.sample_count, (select d.longest_bytes from pgtrain.datasets d where d.id = p.dataset_id), p.is_validation"
    " from pgtrain.training_run_datasets p where p.training_run_id = $1 order by p.id", {Type::Int8}};
call::Statement origin_statement{
    "select extract(epoch from r.created_at)::bigint, coalesce((select m.name from pgtrain.models m where m.id = r.base_model_id), '')"
    " from pgtrain.training_runs r where r.id = $1", {Type::Int8}};
call::Statement lost_statement{"select pgtrain_private.give_checkpoint_up($1, $2, $3, $4)", {Type::Int8, Type::Int4, Type::Int8, Type::Text}};

}  // namespace

void Attempt::load_job() {
  bool is_limited = false;
  in_transaction("loading a job", [this, &is_limited](const call::Spi &spi) {
    const call::Rows rows = job_statement.execute(spi, {claim_.run_id, claim_.attempt, trainer_threads(), device_id_});
    const call::Row &row = rows[0];
    if (row.is_null(0)) throw Error(code::InvalidState, "run " + std::to_string(claim_.run_id) + " is not running any more");
    job_.threads = static_cast<uint32_t>(row.int64(2));
    checkpoint_file_ = row.optional_int64(3);
    is_limited = row.boolean(5);
    rank_ = static_cast<int>(row.int64(6));
    for (const call::Row &pair : pairs_statement.execute(spi, {row.text(0)})) job_.config.emplace_back(pair.text(0), pair.text(1));
    const call::Rows origin = origin_statement.execute(spi, {claim_.run_id});
    job_.submitted_at = origin[0].int64(0);
    job_.base_name = origin[0].text(1);
    for (const call::Row &part : parts_statement.execute(spi, {claim_.run_id})) {
      if (part.is_null(0)) {
        end_as(Ending::Failed, "data_invalid", part.boolean(3) ? "validation data: its dataset was deleted" : "a dataset of this run was deleted", {}, "Submit a new run with a dataset that exists.");
        return;
      }
      datasets_.push_back(DatasetPart{part.int64(0), part.int64(1), samples_at_once(part.optional_int64(2).value_or(1)), part.boolean(3)});
    }
  });
  if (is_limited) wish(StopWish::Limit);
  job_.run_id = static_cast<uint64_t>(claim_.run_id);
  job_.attempt = static_cast<uint32_t>(claim_.attempt);
  job_.kind = protocol::JobKind::Train;
  job_.heartbeat_ms = static_cast<uint32_t>(worker_settings.heartbeat_interval_ms);
  job_.grace_ms = static_cast<uint32_t>(worker_settings.trainer_grace_period_ms);
  Guard lock(shared()->lock);
  job_.device = shared()->devices[device_].selector;
  job_.memory_limit_bytes = static_cast<uint64_t>(shared()->devices[device_].memory_bytes);
}

// What is gone for good is no reason for another attempt; what goes between the two halves is looked for again by the next one.
void Attempt::fetch_base() {
  if (ending_ != Ending::None) return;
  Base base;
  in_transaction("fetching the base model", [&](const call::Spi &spi) {
    base = find_base(spi, claim_.run_id);
    place_base_rows(spi, base, *folder_);
  });
  if (!base.problem.empty()) return end_as(Ending::Failed, base.problem.c_str(), base.message, base.detail, base.hint);
  (void)place_base(base, *folder_, [this] { return keep_lease(); }, job_.base);
}

// A checkpoint that cannot be read is no reason to fail: the run goes on from the one before it, or begins again, and comes to the same
// end.
void Attempt::fetch_checkpoint() {
  while (checkpoint_file_ && ending_ == Ending::None) {
    const std::string problem = fetch(*checkpoint_file_);
    if (problem.empty()) return;
    unlink(folder_->file(resume_name).c_str());
    ereport(LOG, (errmsg("pgtrain: a checkpoint of run %s cannot be used: %s", std::to_string(claim_.run_id).c_str(), problem.c_str())));
    const int64_t lost = *checkpoint_file_;
    in_transaction("giving a checkpoint up", [&](const call::Spi &spi) {
      checkpoint_file_ = lost_statement.execute(spi, {claim_.run_id, claim_.attempt, lost, problem})[0].optional_int64(0);
    });
  }
}

// Puts a checkpoint into the job folder; says what is wrong with it, nothing when all is well or there is no time left.
std::string Attempt::fetch(int64_t file_id) {
  const std::string path = folder_->file(resume_name);
  std::string problem;
  try {
    std::optional<FileClaim> on_disk, fetched;
    in_transaction("fetching a checkpoint", [&](const call::Spi &spi) {
      if (!is_stored_here(spi, file_id)) {
        problem = "its bytes are not on this server";
        return;
      }
      on_disk = find_on_disk(spi, file_id);
      if (!on_disk) fetched = fetch_file(spi, file_id, path);
    });
    // On the disk it may be so long that the lease would run out meanwhile.
    if (on_disk) fetched = copy_from_disk(*on_disk, path, [this] { return keep_lease(); });
    if (fetched) job_.resume = protocol::InputFile{resume_name, fetched->bytes, fetched->sha256};
  } catch (const Error &error) {
    if (!is_mismatch(error)) throw;
    problem = error.message();
  }
  return problem;
}

void Attempt::write_data() {
  if (ending_ == Ending::None) job_.data = write_samples(data_name, false);
  const bool has_validation = std::any_of(datasets_.begin(), datasets_.end(), [](const DatasetPart &part) { return part.is_validation; });
  if (ending_ == Ending::None && has_validation) job_.validation = write_samples(validation_name, true);
}

protocol::InputFile Attempt::write_samples(const char *name, bool is_validation) {
  DataFile file(*folder_, takes_records(job_), name);
  for (const DatasetPart &part : datasets_) {
    if (part.is_validation != is_validation) continue;
    int64_t last = 0, rows_read = 0;
    while (last < part.sample_count && ending_ == Ending::None) {
      const int64_t until = std::min(last + part.samples_at_once, part.sample_count);
      in_transaction("reading samples", [&](const call::Spi &spi) {
        rows_read += file.add_samples(spi, part.dataset_id, last, until);
      });
      last = until;
      (void)keep_lease();
    }
    if (ending_ == Ending::None && rows_read != part.sample_count)
      // Tried again, because the rest may just be on its way from a dump.
      end_as(Ending::QueuedAgain, "data_invalid", "dataset " + std::to_string(part.dataset_id) + " is not what was frozen",
                    std::to_string(part.sample_count) + " samples were frozen, " + std::to_string(rows_read) + " are there.");
  }
  return file.finish();
}

}  // namespace pgtrain::pg::worker
