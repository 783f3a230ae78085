// Stored files: checkpoints, artifacts and files of imported models, in rows up to pgtrain.row_storage_limit and as files below the data directory
// above that. A file is read and hashed before its row is written, so a committed row means verified bytes.
// A file without a row (rolled back, deleted) is garbage that `sweep_artifacts` removes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"
#include "pg/worker/file.hpp"

namespace pgtrain::pg::worker {

struct FileClaim {       // what a trainer says about a file
  std::string path;
  uint64_t bytes = 0;
  std::string sha256;    // lower-case hex
};

// Size or hash of a file is not what was said.
bool is_mismatch(const Error &error);

// Asked between two parts of a file that may be long; false ends the work at once.
using GoOn = std::function<bool()>;

// Reads and checks a file; throws an error that is_mismatch. False when told not to go on.
bool verify_file(const FileClaim &claim, const GoOn &go_on = {});

// Stores a file within the open transaction and returns its id.
int64_t store_file(const call::Spi &spi, int64_t run_id, int32_t attempt, const FileClaim &claim);

// The same for a file of a run that has ended; a rollback removes it again.
int64_t store_export(const call::Spi &spi, int64_t run_id, int64_t owner_id, const FileClaim &claim);

struct ModelFile {
  int64_t model_id = 0;
  std::optional<int64_t> owner_id;  // nothing: the platform
  std::string name;
  FileClaim claim;                  // hashed when it was written
};

// Stores a file of a model that is being imported, within the open transaction; a rollback removes it again.
int64_t store_model_file(const call::Spi &spi, const ModelFile &file);

// Writes a stored file to a new file and says its size and hash.
FileClaim fetch_file(const call::Spi &spi, int64_t file_id, const std::string &target);

// The same in two steps for a file that is not in rows, of which the second, the long one, needs no transaction. Nothing: it is in
// rows, or told not to go on.
std::optional<FileClaim> find_on_disk(const call::Spi &spi, int64_t file_id);
std::optional<FileClaim> copy_from_disk(const FileClaim &stored, const std::string &target, const GoOn &go_on);

// Gives a stored file on the disk a second name, or where the file system has no such, copies it. False: told not to go on. The file
// stays the stored one: whoever gets the name must not be able to write it.
bool link_from_disk(const FileClaim &stored, const std::string &target, const GoOn &go_on);

// Whether the bytes of a stored file are on this server at all: those above the limit of rows are not dumped or replicated.
bool is_stored_here(const call::Spi &spi, int64_t file_id);

// Bytes of a stored file, checked against the hash. At most what a value of the server can hold.
std::string read_stored_file(const call::Spi &spi, int64_t file_id);

// So many bytes of it from `position` (from 0), fewer at the end; not checked against the hash, which is of the whole.
std::string read_stored_part(const call::Spi &spi, int64_t file_id, int64_t position, int64_t bytes);

// Removes a stored file from the disk once its row is gone for good.
void remove_stored_file(int64_t file_id);

// Removes files on the disk that no row names and that no open transaction may still name.
void sweep_artifacts(const call::Spi &spi);

}  // namespace pgtrain::pg::worker
