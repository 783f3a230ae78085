// The share table of the queue: for each user with queued or running runs, how much device time he has had (`pass`, in weighted
// seconds), which ranks he has queued, how many run. In shared memory under share_lock; nothing here reads tables.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "pg/compat.hpp"

extern "C" {
#include "datatype/timestamp.h"
}

namespace pgtrain::pg::worker {

struct ShareKey {
  int64_t owner_id;
  Oid database;
  uint32_t padding;
};

struct Share {
  ShareKey key;
  double pass;               // virtual time at which the owner is served next
  double weight;
  double expected_seconds;   // charged at the claim, corrected when the run ends
  int64_t limit;             // runs at once, -1 = unlimited
  int32_t running;
  bool is_active;            // the account may still run things
  uint64_t ranks;            // bit r set: runs of rank r - 30 may be queued
  uint64_t arrival;          // order in which owners with nothing queued got something
  uint32_t generation;       // raised by every new queued run
  uint32_t requeues;         // raised when a run takes an old place in the queue again
  TimestampTz loaded_at;     // of weight, limit and is_active; 0 = never
};

struct Candidate {
  int64_t owner_id;
  int rank;
  uint32_t generation;
  uint32_t requeues;
  bool needs_settings;       // weight and limit are old: read them first
  bool is_active;
};

struct ShareSettings {
  double weight;
  int64_t limit;
  bool is_active;
};

// Runs queued there that are for other devices; not looked at again within one claim.
struct PassedOver {
  int64_t owner_id;
  int rank;
};

// Chooses who is served next and reserves a running place for him. Nothing when nobody can be served.
std::optional<Candidate> reserve_next(Oid database, std::span<const PassedOver> passed_over);

// Stores what the tables say; false when the reservation passes the limit they give, and is then given back.
bool store_settings(Oid database, int64_t owner_id, const ShareSettings &settings);

// No run of that rank was found: gives the reservation back and, with `is_empty`, forgets the rank unless one was queued since.
void nothing_found(Oid database, const Candidate &candidate, bool is_empty);

// The reservation has become a claim.
void charge_claim(Oid database, int64_t owner_id);

bool any_queued(Oid database);

// Whether that user has runs of a better rank queued, and would be the next to be served once a run of his has ended that has used a
// device for so many seconds. Cheap, and may be wrong: the tables decide.
bool may_give_way(Oid database, int64_t owner_id, int rank, double seconds);
bool shares_ready(Oid database);
// Begins anew with the running counts read from the tables; follows with mark_queued for each owner and rank.
void reset_running(Oid database, const int64_t *owners, const int32_t *counts, int length);

}  // namespace pgtrain::pg::worker
