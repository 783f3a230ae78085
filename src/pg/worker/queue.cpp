// The claim, see queue.hpp: whose turn it is, and where to look; the run is taken by transitions.cpp. That it runs is told when its
// job is loaded.
// A cursor per user and rank remembers where this process claimed last. Runs that commit late with an earlier place, or
// come back to theirs, would be missed by it: so it begins anew when a run came back, when nothing is found, and every
// second (less often when the way from the start has become long, so that this costs a twentieth at most).
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "pg/call/guard.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/queue_events.hpp"
#include "pg/worker/shares.hpp"
#include "pg/worker/transitions.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

call::Statement owner_statement{
    "select coalesce((select s.weight from pgtrain_private.owner_shares s where s.owner_id = $1), 1),"
    " pgtrain_private.concurrency_limit($1), coalesce((select u.is_active from pgtrain.users u where u.id = $1), false)",
    {Type::Int8}};

call::Statement revoke_statement{
    "select pgtrain_private.end_waiting_run(q.run_id, 'permission_revoked', $3)"
    " from (select run_id from pgtrain_private.run_queue where owner_id = $1 and rank = $2 order by run_id for update skip locked) q",
    {Type::Int8, Type::Int4, Type::Text}};

call::Statement running_statement{
    "select a.owner_id, count(*)::integer from pgtrain.run_attempts a where a.ended_at is null group by a.owner_id"};

call::Statement heads_statement{
    "with recursive heads as ("
    " (select owner_id, rank from pgtrain_private.run_queue where available_at is null order by owner_id, rank limit 1)"
    " union all"
    " select n.owner_id, n.rank from heads h cross join lateral ("
    "  select q.owner_id, q.rank from pgtrain_private.run_queue q"
    "   where q.available_at is null and (q.owner_id, q.rank) > (h.owner_id, h.rank) order by q.owner_id, q.rank limit 1) n)"
    " select owner_id, rank::integer from heads"};

struct Cursor {
  int64_t run_id = 0;
  uint32_t requeues = 0;
  TimestampTz begin_anew_at = 0;
};

struct CursorKey {
  int64_t owner_id;
  int rank;
  bool operator==(const CursorKey &) const = default;
};

struct CursorHash {
  size_t operator()(const CursorKey &key) const { return std::hash<int64_t>()(key.owner_id * 64 + key.rank); }
};

constexpr size_t most_cursors = 100000;

std::unordered_map<CursorKey, Cursor, CursorHash> cursors;

Cursor &cursor_of(const Candidate &candidate) {
  if (cursors.size() > most_cursors) cursors.clear();
  return cursors[CursorKey{candidate.owner_id, candidate.rank}];
}

Taken take_after(const call::Spi &spi, const ClaimRequest &request, const Candidate &candidate, int64_t after) {
  return start_next(spi, {candidate.owner_id, candidate.rank, after, request.memory_bytes, request.device_id, request.worker_pid});
}

Taken take(const call::Spi &spi, const ClaimRequest &request, const Candidate &candidate) {
  if (!request.all_devices_alike) return take_after(spi, request, candidate, 0);
  Cursor &cursor = cursor_of(candidate);
  const TimestampTz now = GetCurrentTimestamp();
  if (cursor.requeues == candidate.requeues && now < cursor.begin_anew_at) {
    if (const Taken taken = take_after(spi, request, candidate, cursor.run_id); taken.is_found) {
      cursor.run_id = taken.run_id;
      return taken;
    }
  }
  const Taken taken = take_after(spi, request, candidate, 0);
  const TimestampTz after = GetCurrentTimestamp();
  cursor.begin_anew_at = after + std::max<int64_t>(1000000, (after - now) * 20);
  cursor.requeues = candidate.requeues;
  cursor.run_id = taken.is_found ? taken.run_id : 0;
  return taken;
}

ShareSettings read_settings(const call::Spi &spi, int64_t owner_id) {
  const call::Rows rows = owner_statement.execute(spi, {owner_id});
  return ShareSettings{rows[0].float64(0), rows[0].int64(1), rows[0].boolean(2)};
}

// Cached, and read anew when a role of anybody was changed: so asked at each claim. A no is believed only when the cache has taken
// in what was committed until now, because the run fails for good.
bool may_train(int64_t owner_id) {
  const auto is_granted = [owner_id] { return rbac::reach(owner_id, 0, "create", "training") != rbac::Reach::None; };
  if (is_granted()) return true;
  call::guarded([] { AcceptInvalidationMessages(); });
  return is_granted();
}

}  // namespace

std::optional<Claim> claim_next(const call::Spi &spi, const ClaimRequest &request) {
  if (!shares_ready(MyDatabaseId)) rediscover(spi);
  std::vector<PassedOver> passed_over;
  while (std::optional<Candidate> candidate = reserve_next(MyDatabaseId, passed_over)) {
    // From here the place is reserved: an error or rollback gives it back.
    const size_t reservation = add_reservation(candidate->owner_id, candidate->rank);
    // That an account is closed is believed only when just read: its runs would fail for good.
    if (candidate->needs_settings || !candidate->is_active) {
      const ShareSettings settings = read_settings(spi, candidate->owner_id);
      if (!store_settings(MyDatabaseId, candidate->owner_id, settings)) {
        drop_reservation(reservation);
        continue;
      }
      candidate->is_active = settings.is_active;
    }
    if (!candidate->is_active || !may_train(candidate->owner_id)) {
      revoke_statement.execute(spi, {candidate->owner_id, candidate->rank,
                                     candidate->is_active ? "none of the active roles of its owner lets him train any more"
                                                          : "the account of its owner is not active"});
      nothing_found(MyDatabaseId, *candidate, true);
      drop_reservation(reservation);
      continue;
    }
    const Taken taken = take(spi, request, *candidate);
    if (taken.is_started) {
      charge_claim(MyDatabaseId, candidate->owner_id);
      return Claim{taken.run_id, taken.attempt, candidate->owner_id};
    }
    if (taken.is_found) {
      release_reservation(MyDatabaseId, candidate->owner_id, candidate->rank);
    } else {
      // With unlike devices there may be runs for others; the tables tell when the queue is read anew.
      nothing_found(MyDatabaseId, *candidate, request.all_devices_alike);
      if (!request.all_devices_alike) passed_over.push_back(PassedOver{candidate->owner_id, candidate->rank});
    }
    drop_reservation(reservation);
  }
  return std::nullopt;
}

bool has_queued_runs() { return any_queued(MyDatabaseId) || !shares_ready(MyDatabaseId); }

void rediscover(const call::Spi &spi) {
  if (!shares_ready(MyDatabaseId)) {
    const call::Rows running = running_statement.execute(spi);
    std::vector<int64_t> owners;
    std::vector<int32_t> counts;
    for (const call::Row &row : running) {
      owners.push_back(row.int64(0));
      counts.push_back(static_cast<int32_t>(row.int64(1)));
    }
    reset_running(MyDatabaseId, owners.data(), counts.data(), static_cast<int>(owners.size()));
  }
  for (const call::Row &row : heads_statement.execute(spi))
    apply_queued(MyDatabaseId, row.int64(0), static_cast<int>(row.int64(1)), false);
}

}  // namespace pgtrain::pg::worker
