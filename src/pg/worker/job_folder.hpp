// The folder of one job: the trainer's working folder, below the data directory's pgtrain/jobs, readable by the server's user
// only. Removed with its owner object; what a killed process left behind is removed by `sweep_job_folders`.
#pragma once

#include <cstdint>
#include <string>

#include "pg/compat.hpp"

namespace pgtrain::pg::worker {

// Absolute paths; made when missing.
std::string jobs_root();
std::string artifacts_folder(Oid database);
std::string places_folder();

class JobFolder {
 public:
  // NAME within the jobs folder, prefixed by the database. An old folder of that name is removed first.
  JobFolder(Oid database, const std::string &name);
  ~JobFolder();
  JobFolder(const JobFolder &) = delete;
  JobFolder &operator=(const JobFolder &) = delete;

  const std::string &path() const { return path_; }
  std::string file(const std::string &name) const { return path_ + "/" + name; }

  // A folder beside this one for files that the trainer may read but not write: links to stored files. It lies beside because rules
  // on files (the trainer's sandbox) hold for all below a folder; within, the link `base` leads to it.
  void make_base() const;
  std::string base() const { return path_ + ".base"; }

 private:
  std::string path_;
};

std::string attempt_folder_name(int64_t run_id, int32_t attempt);

// Removes job folders of this database that no live worker or backend uses.
void sweep_job_folders(Oid database);
// Removes what belongs to databases that `exists` does not know.
void sweep_dropped_databases(bool (*exists)(Oid database, void *argument), void *argument);

}  // namespace pgtrain::pg::worker
