// See job_folder.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/proc.h"
}

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <vector>

#include "pg/errors.hpp"
#include "pg/worker/child.hpp"
#include "pg/worker/file.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/shared.hpp"

namespace pgtrain::pg::worker {
namespace {

namespace fs = std::filesystem;

std::string make_folder(const std::string &path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    throw Error(code::Unavailable, "cannot make the folder \"" + path + "\": " + std::strerror(errno));
  return path;
}

std::string root(const char *name) {
  const std::string base = make_folder(std::string(DataDir) + "/pgtrain");
  return make_folder(base + "/" + name);
}

void remove_folder(const fs::path &path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

// Names are DATABASE_RUN_ATTEMPT or DATABASE_bPID_NUMBER (a backend's), and the same with .base behind it.
struct FolderName {
  Oid database = InvalidOid;
  bool is_backend = false;
  int64_t run_or_pid = 0;
};

bool parse(const std::string &name, FolderName &parsed) {
  const char *at = name.data(), *const end = at + name.size();
  const auto number = [&](auto &value) {
    const auto result = std::from_chars(at, end, value);
    at = result.ptr;
    return result.ec == std::errc();
  };
  if (!number(parsed.database) || at == end || *at++ != '_') return false;
  if (at != end && *at == 'b') parsed.is_backend = true, ++at;
  return number(parsed.run_or_pid);
}

bool is_used(const FolderName &name) {
  if (name.is_backend) return BackendPidGetProc(static_cast<int>(name.run_or_pid)) != nullptr;
  Guard lock(shared()->lock);
  for (const WorkerSlot &slot : shared()->workers)
    if (slot.is_used && slot.pid != 0 && slot.database == name.database && slot.run_id == name.run_or_pid) return true;
  return false;
}

template <class Test>
void sweep(const std::string &folder, Test &&is_garbage) {
  std::error_code error;
  for (const fs::directory_entry &entry : fs::directory_iterator(folder, error)) {
    FolderName name;
    if (parse(entry.path().filename().string() + "_0", name) && is_garbage(name)) remove_folder(entry.path());
  }
}

}  // namespace

std::string jobs_root() { return root("jobs"); }
std::string places_folder() { return root("places"); }

std::string artifacts_folder(Oid database) { return make_folder(root("artifacts") + "/" + std::to_string(database)); }

namespace {

std::vector<std::string> &live_folders() {
  static std::vector<std::string> folders;
  return folders;
}

// A process that ends without unwinding still removes its folders; registered before the first is made.
void remove_live_folders(int, Datum) {
  kill_children();
  for (const std::string &path : live_folders()) remove_folder(path);
}

void register_folder_cleanup() {
  static bool is_registered = false;
  if (!is_registered) before_shmem_exit(remove_live_folders, 0);
  is_registered = true;
}

}  // namespace

JobFolder::JobFolder(Oid database, const std::string &name) : path_(jobs_root() + "/" + std::to_string(database) + "_" + name) {
  register_folder_cleanup();
  for (const std::string &path : {path_, base()}) {
    live_folders().push_back(path);
    remove_folder(path);
  }
  make_folder(path_);
}

JobFolder::~JobFolder() {
  for (const std::string &path : {path_, base()}) {
    remove_folder(path);
    std::erase(live_folders(), path);
  }
}

void JobFolder::make_base() const {
  make_folder(base());
  const std::string link = file("base"), target = "../" + fs::path(base()).filename().string();
  if (symlink(target.c_str(), link.c_str()) != 0) throw Error(code::Unavailable, text_of_system_error("cannot make", link));
}

std::string attempt_folder_name(int64_t run_id, int32_t attempt) { return std::to_string(run_id) + "_" + std::to_string(attempt); }

void sweep_job_folders(Oid database) {
  sweep(jobs_root(), [database](const FolderName &name) { return name.database == database && !is_used(name); });
}

void sweep_dropped_databases(bool (*exists)(Oid database, void *argument), void *argument) {
  const auto is_garbage = [&](const FolderName &name) { return !exists(name.database, argument); };
  sweep(jobs_root(), is_garbage);
  sweep(root("artifacts"), is_garbage);
}

}  // namespace pgtrain::pg::worker
