// See queue_events.hpp. Subtransactions: a rolled back savepoint may leave a wake-up for nothing, which is harmless, but
// a reservation or the end of a lease must not be told wrongly, so those remember the subtransaction they belong to.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "miscadmin.h"
}

#include <algorithm>
#include <vector>

#include "pg/worker/databases.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/queue_events.hpp"
#include "pg/worker/shared.hpp"

namespace pgtrain::pg::worker {
namespace {

enum class EventKind : uint8_t { Queued, LeaseEnded, Reserved, Nothing };

struct Event {
  EventKind kind;
  SubTransactionId subtransaction;
  int64_t owner_id;
  int rank;
  bool is_requeued;
  double seconds;
};

std::vector<Event> events;
bool must_wake = false;
bool must_reload_shares = false;
bool must_announce = false;

void add(Event event) {
  event.subtransaction = GetCurrentSubTransactionId();
  events.push_back(event);
}

void clear() {
  events.clear();
  must_wake = must_reload_shares = must_announce = false;
}

void after_commit() {
  bool is_queued = must_wake;
  bool has_ended = false;
  for (const Event &event : events) {
    if (event.kind == EventKind::Queued) {
      apply_queued(MyDatabaseId, event.owner_id, event.rank, event.is_requeued);
      is_queued = true;
    } else if (event.kind == EventKind::LeaseEnded) {
      apply_lease_ended(MyDatabaseId, event.owner_id, event.seconds);
      has_ended = true;
    }
  }
  if (must_reload_shares) apply_shares_changed(MyDatabaseId);
  // The end of a lease may let the next run of that owner start.
  if (is_queued || has_ended) wake_device_workers(MyDatabaseId);
  if (must_announce) announce_present(MyDatabaseId);
}

void after_abort() {
  for (const Event &event : events)
    if (event.kind == EventKind::Reserved) release_reservation(MyDatabaseId, event.owner_id, event.rank);
}

void on_transaction(XactEvent event, void *) {
  if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE) return;
  if (shared() != nullptr) {
    if (event == XACT_EVENT_COMMIT && (!events.empty() || must_wake || must_reload_shares || must_announce)) after_commit();
    if (event == XACT_EVENT_ABORT) after_abort();
  }
  clear();
}

void on_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *) {
  if (events.empty()) return;
  if (event == SUBXACT_EVENT_COMMIT_SUB) {
    for (Event &e : events)
      if (e.subtransaction == mine) e.subtransaction = parent;
  } else if (event == SUBXACT_EVENT_ABORT_SUB) {
    for (Event &e : events) {
      if (e.subtransaction != mine) continue;
      if (e.kind == EventKind::Reserved && shared() != nullptr) release_reservation(MyDatabaseId, e.owner_id, e.rank);
      e.kind = EventKind::Nothing;
    }
  }
}

}  // namespace

void install_queue_events() {
  // Adding an event must not fail for want of memory in the middle of a claim.
  events.reserve(1024);
  RegisterXactCallback(on_transaction, nullptr);
  RegisterSubXactCallback(on_subtransaction, nullptr);
}

size_t add_reservation(int64_t owner_id, int rank) {
  add(Event{EventKind::Reserved, 0, owner_id, rank, false, 0});
  return events.size() - 1;
}

void drop_reservation(size_t reservation) {
  if (reservation < events.size()) events[reservation].kind = EventKind::Nothing;
}

void note_queued(int64_t owner_id, int rank, bool is_requeued) {
  // A bulk insert of many runs tells each owner and rank once.
  const auto same = std::find_if(events.rbegin(), events.rend(), [&](const Event &e) {
    return e.kind == EventKind::Queued && e.owner_id == owner_id && e.rank == rank && e.is_requeued == is_requeued &&
           e.subtransaction == GetCurrentSubTransactionId();
  });
  if (same == events.rend()) add(Event{EventKind::Queued, 0, owner_id, rank, is_requeued, 0});
}

void note_lease_ended(int64_t owner_id, double seconds) { add(Event{EventKind::LeaseEnded, 0, owner_id, 0, false, seconds}); }

void note_shares_changed() { must_reload_shares = true; }

void note_look_again() { must_wake = true; }

void note_announced() { must_announce = true; }

}  // namespace pgtrain::pg::worker
