// The queue: who goes next, and the claim. Between users the order is by weighted share of device time, within a user by
// priority and age. The share state lives in shared memory (it may be lost: it is only fairness), the runs in
// pgtrain_private.run_queue. The claim never looks at a key that this process has already claimed, so that dead index
// entries in front of the queue cost nothing, however long vacuum is kept from removing them.
// Needs preloading. Callers: device workers, and claim_run for measurements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"

namespace pgtrain::pg::worker {

inline constexpr int lowest_rank = -30;
inline constexpr int highest_rank = 30;

struct Claim {
  int64_t run_id;
  int32_t attempt;
  int64_t owner_id;
};

struct ClaimRequest {
  std::optional<int64_t> device_id;
  int32_t worker_pid;
  int64_t memory_bytes;   // runs that need more are left for other devices
  bool all_devices_alike; // then nothing is ever left, and the claim may start after the last key
};

// Sizes and makes the table of shares; see shared.cpp.
size_t share_table_bytes();
void init_share_table();

// Claims the next run within the open transaction, or nothing. The lease counts once the transaction commits.
std::optional<Claim> claim_next(const call::Spi &spi, const ClaimRequest &request);

// True when some owner of this database is known to have claimable runs; wrong only until the next `rediscover`.
bool has_queued_runs();

// Reads from the tables which owners have queued runs and how many run: at the first claim and now and then.
void rediscover(const call::Spi &spi);

// Armed by SQL functions, done at commit: see queue_events.cpp.
void note_queued(int64_t owner_id, int rank, bool is_requeued);
void note_lease_ended(int64_t owner_id, double seconds);
void note_shares_changed();
void note_look_again();

// Done at once, outside of transactions.
void apply_queued(Oid database, int64_t owner_id, int rank, bool is_requeued);
void apply_lease_ended(Oid database, int64_t owner_id, double seconds);
void apply_shares_changed(Oid database);
void release_reservation(Oid database, int64_t owner_id, int rank);

// Forgets a database: it was dropped, or lost the extension.
void forget_database(Oid database);

}  // namespace pgtrain::pg::worker
