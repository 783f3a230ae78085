// The two changes of a run's state that bound the queue's rate, as changes of rows (call/hot_table.hpp): queued to running, and running
// to ended. The others are SQL functions of sql/api/attempts.sql. Both are part of the open transaction and may throw ServerError.
// Callers: the claim (queue.cpp), attempts that end (attempt_end.cpp), and finish_run for SQL.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "pg/call/spi.hpp"

namespace pgtrain::pg::worker {

// Whose runs of which rank are looked at, and who takes one.
struct Search {
  int64_t owner_id;
  int rank;
  int64_t after;         // only runs with a later number
  int64_t memory_bytes;  // only runs that need no more
  std::optional<int64_t> device_id;
  int32_t worker_pid;
};

struct Taken {
  bool is_found;
  bool is_started;  // else the entry had no queued run, and is gone
  int64_t run_id;
  int32_t attempt;
};

// Takes the first run of a user and rank that nobody holds out of the queue, makes it running and writes its lease.
Taken start_next(const call::Spi &spi, const Search &search);

struct Finish {
  int64_t run_id;
  int32_t attempt;
  std::string_view status;  // succeeded, failed or cancelled
  std::string_view reason;  // an end_reason
  std::optional<std::string_view> message{}, detail{}, hint{}, exit_status{};
};

// Ends a run for good: ends the attempt and its lease, settles usage, records the event and tells listeners. Throws PT409 when the
// attempt has no lease any more or is not the one that the run is running in, 22023 for another status.
void finish_run(const call::Spi &spi, const Finish &finish);

}  // namespace pgtrain::pg::worker
