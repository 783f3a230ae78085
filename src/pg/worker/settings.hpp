// The settings of queue, workers and trainer; docs/settings.md explains each. Read straight from the struct, which the
// server keeps current.
#pragma once

#include <algorithm>

namespace pgtrain::pg::worker {

struct WorkerSettings {
  // Who works for which databases and devices.
  char *databases = nullptr;         // '*' or names parted by commas
  int cpu_workers = -1;              // -1: one when there is no CUDA device, else none
  int poll_interval_ms = 1000;       // fallback of every wake-up by latch
  // The trainer program.
  char *trainer_program = nullptr;   // empty: the one installed with the module
  char *trainer_environment = nullptr;  // NAME=value words added to its environment
  int trainer_threads = 0;           // 0: cores divided by the CPU workers
  int trainer_start_timeout_ms = 60000;
  int trainer_silence_timeout_ms = 120000;
  int trainer_grace_period_ms = 20000;
  int trainer_cancel_grace_ms = 1000;
  int heartbeat_interval_ms = 1000;
  int session_trainers = 4;          // of one user at the same time
  // Queue.
  int lease_duration_ms = 60000;
  int lock_patience_ms = 10000;      // then who blocks a device worker is ended
  int progress_interval_ms = 500;    // how often a batch of progress is written, see write_interval_ms
  int max_attempts = 3;
  int retry_delay_ms = 5000;
  int retry_delay_max_ms = 600000;
  // Storage.
  int row_storage_limit_kb = 16 * 1024;
  int checkpoint_retention_s = 7 * 24 * 60 * 60;
  char *import_folder = nullptr;     // empty: users import bytes only

  // What is written renews the lease, which may not run out in between.
  int write_interval_ms() const { return std::min(progress_interval_ms, lease_duration_ms / 3); }
};

extern WorkerSettings worker_settings;

void define_settings();

}  // namespace pgtrain::pg::worker
