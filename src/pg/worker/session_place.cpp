// See session_place.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
}

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <string>

#include "pg/call/guard.hpp"
#include "pg/errors.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/worker/file.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/session_place.hpp"
#include "pg/worker/settings.hpp"

namespace pgtrain::pg::worker {
namespace {

constexpr long look_ms = 20;

// A locked file, or below 0 where somebody else has it.
int try_lock(const std::string &path) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) throw Error(code::Unavailable, text_of_system_error("cannot open", path));
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
  close(descriptor);
  return -1;
}

void nap() {
  call::guarded([] {
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, look_ms, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  });
}

}  // namespace

SessionPlace::SessionPlace() {
  const int64_t user = rbac::current_user_id();
  if (user == 0) return;
  const std::string prefix = places_folder() + "/" + std::to_string(MyDatabaseId) + "_" + std::to_string(user) + ".";
  const TimestampTz patience_ends = GetCurrentTimestamp() + worker_settings.trainer_start_timeout_ms * int64_t{1000};
  for (;;) {
    for (int number = 1; number <= worker_settings.session_trainers; ++number)
      if ((descriptor_ = try_lock(prefix + std::to_string(number))) >= 0) return;
    if (GetCurrentTimestamp() > patience_ends)
      throw Error(code::TooManyRequests, "your sessions have " + std::to_string(worker_settings.session_trainers) + " models at work already",
                  "pgtrain.session_trainers says how many one user may have; an open cursor of generate_stream is one.",
                  "Wait for an answer, or close a cursor. generate_many asks one model many questions.");
    nap();
  }
}

SessionPlace::~SessionPlace() {
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace pgtrain::pg::worker
