// Definition of the settings of settings.hpp. Called once from _PG_init.
#include "pg/compat.hpp"

extern "C" {
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"
}

#include <climits>

#include "pg/worker/settings.hpp"

namespace pgtrain::pg::worker {

WorkerSettings worker_settings;

namespace {

constexpr int no_limit = INT_MAX / 2;

void define_int(const char *name, const char *description, int *variable, int minimum, int maximum, GucContext context, int flags) {
  DefineCustomIntVariable(name, description, nullptr, variable, *variable, minimum, maximum, context, flags, nullptr, nullptr, nullptr);
}

void define_text(const char *name, const char *description, char **variable, const char *value, int flags, GucStringCheckHook check) {
  DefineCustomStringVariable(name, description, nullptr, variable, value, PGC_SIGHUP, flags, check, nullptr, nullptr);
}

// Server world. What would be read as nothing, or start nothing, is refused when it is set: after a reload only the log would tell.

bool check_names(char **value, void **, GucSource) {
  char *copy = pstrdup(*value);
  List *names = NIL;
  const bool is_list = SplitIdentifierString(copy, ',', &names);
  if (!is_list) GUC_check_errdetail("It is * or names of databases parted by commas; one with capitals or signs stands in double quotes.");
  list_free(names);
  pfree(copy);
  return is_list;
}

bool check_program(char **value, void **, GucSource) {
  const char *word = *value + strspn(*value, " \t\n");
  if (*word == '\0' || *word == '/') return true;
  GUC_check_errdetail("The trainer is named by its absolute path.");
  return false;
}

bool check_folder(char **value, void **, GucSource) {
  if (**value == '\0' || **value == '/') return true;
  GUC_check_errdetail("The folder is named by its absolute path.");
  return false;
}

bool check_environment(char **value, void **, GucSource) {
  static constexpr char blanks[] = " \t\n";
  for (const char *word = *value + strspn(*value, blanks); *word != '\0';) {
    const size_t length = strcspn(word, blanks);
    const void *equals = memchr(word, '=', length);
    if (equals == nullptr || equals == word) {
      GUC_check_errdetail("\"%.*s\" is not of the form NAME=value.", static_cast<int>(length), word);
      return false;
    }
    word += length;
    word += strspn(word, blanks);
  }
  return true;
}

}  // namespace

void define_settings() {
  WorkerSettings &s = worker_settings;
  // What program runs as the server's user is the administrator's secret and decision alone.
  define_text("pgtrain.databases", "Databases that workers run for: * or a list of names.", &s.databases, "*", GUC_LIST_INPUT,
              check_names);
  define_text("pgtrain.trainer_program", "Trainer: absolute path and arguments; empty for the installed one.", &s.trainer_program, "",
              GUC_SUPERUSER_ONLY, check_program);
  define_text("pgtrain.trainer_environment", "Words NAME=value for the otherwise fresh environment of the trainer.",
              &s.trainer_environment, "", GUC_SUPERUSER_ONLY, check_environment);
  define_int("pgtrain.cpu_workers", "CPU workers; -1 is one where there is no CUDA device and none where there is one.", &s.cpu_workers,
             -1, 16, PGC_SIGHUP, 0);
  define_int("pgtrain.poll_interval", "How often workers look without having been woken.", &s.poll_interval_ms, 10, no_limit, PGC_SIGHUP,
             GUC_UNIT_MS);
  define_int("pgtrain.trainer_threads", "CPU threads of a trainer; 0 divides the cores among the CPU workers.", &s.trainer_threads, 0, 1024,
             PGC_SIGHUP, 0);
  define_int("pgtrain.session_trainers", "Trainers that the sessions of one user may have at work at the same time; more wait.", &s.session_trainers, 1, 1024,
             PGC_SIGHUP, 0);
  define_int("pgtrain.trainer_start_timeout", "Time in which a trainer must say hello and plan.", &s.trainer_start_timeout_ms, 100, no_limit,
             PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.trainer_silence_timeout", "A trainer that says nothing for so long is killed as hung.", &s.trainer_silence_timeout_ms,
             100, no_limit, PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.trainer_grace_period", "Time for a last checkpoint on pause and shutdown.", &s.trainer_grace_period_ms, 0, no_limit,
             PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.trainer_cancel_grace", "Time to stop by itself on cancel.", &s.trainer_cancel_grace_ms, 0, no_limit, PGC_SIGHUP,
             GUC_UNIT_MS);
  define_int("pgtrain.heartbeat_interval", "How often a working trainer gives a sign of life.", &s.heartbeat_interval_ms, 10, no_limit,
             PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.lease_duration", "A worker that does not renew its lease for so long loses its run.", &s.lease_duration_ms, 1000,
             no_limit, PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.lock_patience", "A session whose open transaction keeps a device worker waiting for so long is ended.",
             &s.lock_patience_ms, 100, no_limit, PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.progress_interval", "How often progress is written to the tables.", &s.progress_interval_ms, 10, 60000, PGC_SIGHUP,
             GUC_UNIT_MS);
  define_int("pgtrain.max_attempts", "Failed attempts after which a run is given up, unless submit_run says otherwise.", &s.max_attempts, 1,
             100, PGC_USERSET, 0);
  define_int("pgtrain.retry_delay", "Delay before the second attempt; it doubles with each further one.", &s.retry_delay_ms, 0, no_limit,
             PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.retry_delay_max", "Longest delay between attempts.", &s.retry_delay_max_ms, 0, no_limit, PGC_SIGHUP, GUC_UNIT_MS);
  define_int("pgtrain.row_storage_limit", "Checkpoints and artifacts up to this size are kept in rows, larger ones as files.",
             &s.row_storage_limit_kb, 0, 1024 * 1024, PGC_SIGHUP, GUC_UNIT_KB);
  define_text("pgtrain.import_folder", "Folder of the server from which users may import models; empty for none.", &s.import_folder, "", 0, check_folder);
  define_int("pgtrain.checkpoint_retention", "How long checkpoints of failed and cancelled runs are kept.", &s.checkpoint_retention_s, 0,
             no_limit, PGC_SIGHUP, GUC_UNIT_S);
}

}  // namespace pgtrain::pg::worker
