// The base model of a run or of an imported adapter: which stored files it is now, by the content that the run was frozen on or the
// adapter was imported over, and putting them into a job's folder `base` for the trainer to read. Called by device workers and by
// functions that start a trainer for a run or an adapter.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

struct BaseFile {
  std::string name;
  int64_t file_id = 0;
  FileClaim claim;               // its size and hash
  std::optional<FileClaim> here; // where it lies on the disk; nothing: in rows
};

struct Base {
  std::vector<BaseFile> files;
  // Empty, or why there is none: model_missing or permission_revoked, in words too.
  std::string problem, message, detail, hint;
};

// The files of the model that a run starts from. A model that was imported again, or given to the run's owner otherwise, stands in
// for one of the same content that is gone. Within a transaction.
Base find_base(const call::Spi &spi, int64_t run_id);
// The same of an imported adapter. No files and no problem: the model is none.
Base find_base_of_adapter(const call::Spi &spi, int64_t model_id);

// The first half of putting them into the job's folder, in the transaction in which the base was found: files that are kept in rows.
void place_base_rows(const call::Spi &spi, const Base &base, const JobFolder &folder);

// The second half, which needs no transaction: what lies on the disk gets a second name there. False: told not to go on. Names, sizes
// and hashes of all are added to `listed` for the trainer. An error where one has vanished meanwhile.
bool place_base(const Base &base, const JobFolder &folder, const GoOn &go_on, std::vector<protocol::InputFile> &listed);

}  // namespace pgtrain::pg::worker
