// See shares.hpp. Every function takes the locks itself and holds them for one look through the table.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
}

#include <algorithm>

#include "pg/worker/queue.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/shares.hpp"

namespace pgtrain::pg::worker {
namespace {

// The shares lie side by side, so that choosing among them costs as much as there are; the hash table finds one by its key.
struct ShareList {
  int count;
  Share items[max_shares];
};

struct ShareIndex {
  ShareKey key;
  int at;
};

ShareList *list = nullptr;
HTAB *index_of = nullptr;

// A claim costs at least this, so that runs that end at once share as well.
constexpr double least_seconds = 1.0;
constexpr int64_t settings_age_us = 1000000;

ShareKey key_of(Oid database, int64_t owner_id) { return ShareKey{owner_id, database, 0}; }

Share *begin_of_list() { return list->items; }
Share *end_of_list() { return list->items + list->count; }

Share *find(Oid database, int64_t owner_id) {
  const ShareKey key = key_of(database, owner_id);
  const auto *entry = static_cast<ShareIndex *>(hash_search(index_of, &key, HASH_FIND, nullptr));
  return entry == nullptr ? nullptr : &list->items[entry->at];
}

// The last one takes the place of the one removed.
void remove_at(int at) {
  hash_search(index_of, &list->items[at].key, HASH_REMOVE, nullptr);
  --list->count;
  if (at == list->count) return;
  list->items[at] = list->items[list->count];
  auto *moved = static_cast<ShareIndex *>(hash_search(index_of, &list->items[at].key, HASH_FIND, nullptr));
  if (moved != nullptr) moved->at = at;
}

template <class Test>
void remove_where(Test &&test) {
  for (int at = list->count - 1; at >= 0; --at)
    if (test(list->items[at])) remove_at(at);
}

Share *find_or_make(Oid database, int64_t owner_id) {
  if (Share *share = find(database, owner_id)) return share;
  // A full list drops who has nothing queued or running: he only loses a debt. Null when everybody has something.
  if (list->count >= max_shares) remove_where([](const Share &share) { return share.ranks == 0 && share.running <= 0; });
  if (list->count >= max_shares) return nullptr;
  const ShareKey key = key_of(database, owner_id);
  bool found = false;
  auto *entry = static_cast<ShareIndex *>(hash_search(index_of, &key, HASH_ENTER_NULL, &found));
  if (entry == nullptr) return nullptr;
  entry->at = list->count++;
  Share &share = list->items[entry->at];
  MemSet(&share, 0, sizeof(Share));
  share.key = key;
  share.weight = 1;
  share.limit = -1;
  share.is_active = true;
  share.expected_seconds = least_seconds;
  return &share;
}

// Both locks, for functions that look at the slot of a database as well: `lock` guards which database has which slot. Nobody takes the
// two the other way round.
struct SlotsAndShares {
  Guard slots{shared()->lock};
  Guard shares{shared()->share_lock};
};

int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }

uint64_t bit_of(int rank) { return uint64_t{1} << (std::clamp(rank, lowest_rank, highest_rank) - lowest_rank); }

bool goes_before(const Share &a, uint64_t a_ranks, const Share &b, uint64_t b_ranks) {
  if (a.pass != b.pass) return a.pass < b.pass;
  if (lowest_bit(a_ranks) != lowest_bit(b_ranks)) return lowest_bit(a_ranks) < lowest_bit(b_ranks);
  return a.arrival < b.arrival;
}

uint64_t ranks_left(const Share &share, std::span<const PassedOver> passed_over) {
  uint64_t ranks = share.ranks;
  for (const PassedOver &passed : passed_over)
    if (passed.owner_id == share.key.owner_id) ranks &= ~bit_of(passed.rank);
  return ranks;
}

// Whoever had nothing queued starts at the present, so that idling saves nothing up.
void mark(DatabaseSlot &slot, Share &share, int rank) {
  if (share.ranks == 0) {
    share.pass = std::max(share.pass, slot.virtual_time);
    share.arrival = ++slot.arrivals;
  }
  share.ranks |= bit_of(rank);
  ++share.generation;
}

}  // namespace

size_t share_table_bytes() { return add_size(MAXALIGN(sizeof(ShareList)), hash_estimate_size(max_shares, sizeof(ShareIndex))); }

void init_share_table() {
  bool found = false;
  list = static_cast<ShareList *>(ShmemInitStruct("pgtrain shares", sizeof(ShareList), &found));
  if (!found) list->count = 0;
  HASHCTL control;
  MemSet(&control, 0, sizeof control);
  control.keysize = sizeof(ShareKey);
  control.entrysize = sizeof(ShareIndex);
  index_of = ShmemInitHash("pgtrain share index", max_shares, max_shares, &control, HASH_ELEM | HASH_BLOBS);
}

std::optional<Candidate> reserve_next(Oid database, std::span<const PassedOver> passed_over) {
  const TimestampTz now = GetCurrentTimestamp();
  SlotsAndShares locks;
  DatabaseSlot *slot = find_database(database, true);
  Share *best = nullptr;
  uint64_t best_ranks = 0;
  for (Share *share = begin_of_list(); share != end_of_list(); ++share) {
    if (share->key.database != database || share->ranks == 0) continue;
    const bool is_fresh = now - share->loaded_at < settings_age_us && share->loaded_at != 0;
    if (is_fresh && share->limit >= 0 && share->running >= share->limit) continue;
    const uint64_t ranks = ranks_left(*share, passed_over);
    if (ranks == 0) continue;
    if (best == nullptr || goes_before(*share, ranks, *best, best_ranks)) {
      best = share;
      best_ranks = ranks;
    }
  }
  if (best == nullptr) return std::nullopt;
  if (slot != nullptr) slot->virtual_time = std::max(slot->virtual_time, best->pass);
  ++best->running;
  const bool is_fresh = now - best->loaded_at < settings_age_us && best->loaded_at != 0;
  return Candidate{best->key.owner_id, lowest_bit(best_ranks) + lowest_rank, best->generation, best->requeues, !is_fresh, best->is_active};
}

bool store_settings(Oid database, int64_t owner_id, const ShareSettings &settings) {
  const TimestampTz now = GetCurrentTimestamp();
  Guard lock(shared()->share_lock);
  Share *share = find(database, owner_id);
  if (share == nullptr) return true;
  share->weight = settings.weight;
  share->limit = settings.limit;
  share->is_active = settings.is_active;
  share->loaded_at = now;
  if (settings.limit < 0 || share->running <= settings.limit) return true;
  --share->running;
  return false;
}

void nothing_found(Oid database, const Candidate &candidate, bool is_empty) {
  Guard lock(shared()->share_lock);
  Share *share = find(database, candidate.owner_id);
  if (share == nullptr) return;
  if (share->running > 0) --share->running;
  if (is_empty && share->generation == candidate.generation) share->ranks &= ~bit_of(candidate.rank);
}

void charge_claim(Oid database, int64_t owner_id) {
  Guard lock(shared()->share_lock);
  if (Share *share = find(database, owner_id)) share->pass += share->expected_seconds / share->weight;
}

void release_reservation(Oid database, int64_t owner_id, int rank) {
  SlotsAndShares locks;
  DatabaseSlot *slot = find_database(database, false);
  Share *share = find(database, owner_id);
  if (share == nullptr || slot == nullptr) return;
  if (share->running > 0) --share->running;
  mark(*slot, *share, rank);
  ++share->requeues;
}

void apply_queued(Oid database, int64_t owner_id, int rank, bool is_requeued) {
  if (shared() == nullptr) return;
  SlotsAndShares locks;
  DatabaseSlot *slot = find_database(database, true);
  Share *share = slot == nullptr ? nullptr : find_or_make(database, owner_id);
  if (share == nullptr) {
    // No room to remember it: the next look into the tables finds it.
    if (slot != nullptr) slot->shares_ready = false;
    return;
  }
  mark(*slot, *share, rank);
  if (is_requeued) ++share->requeues;
}

void apply_lease_ended(Oid database, int64_t owner_id, double seconds) {
  if (shared() == nullptr) return;
  Guard lock(shared()->share_lock);
  ++shared()->generation;
  Share *share = find(database, owner_id);
  if (share == nullptr) return;
  if (share->running > 0) --share->running;
  const double used = std::max(seconds, least_seconds);
  share->pass += (used - share->expected_seconds) / share->weight;
  share->expected_seconds += (used - share->expected_seconds) * 0.3;
}

void apply_shares_changed(Oid database) {
  if (shared() == nullptr) return;
  Guard lock(shared()->share_lock);
  for (Share *share = begin_of_list(); share != end_of_list(); ++share)
    if (share->key.database == database) share->loaded_at = 0;
}

bool any_queued(Oid database) {
  Guard lock(shared()->share_lock);
  return std::any_of(begin_of_list(), end_of_list(), [database](const Share &share) { return share.key.database == database && share.ranks != 0; });
}

bool may_give_way(Oid database, int64_t owner_id, int rank, double seconds) {
  Guard lock(shared()->share_lock);
  const Share *own = find(database, owner_id);
  const uint64_t better = bit_of(rank) - 1;
  if (own == nullptr || (own->ranks & better) == 0) return false;
  Share then = *own;
  then.pass += (std::max(seconds, least_seconds) - own->expected_seconds) / own->weight;
  return std::none_of(begin_of_list(), end_of_list(), [&](const Share &other) {
    const bool can_be_served = &other != own && other.key.database == database && other.ranks != 0 && other.is_active &&
                               (other.limit < 0 || other.running < other.limit);
    return can_be_served && goes_before(other, other.ranks, then, then.ranks & better);
  });
}

bool shares_ready(Oid database) {
  SlotsAndShares locks;
  const DatabaseSlot *slot = find_database(database, true);
  return slot == nullptr || slot->shares_ready;
}

void reset_running(Oid database, const int64_t *owners, const int32_t *counts, int length) {
  SlotsAndShares locks;
  DatabaseSlot *slot = find_database(database, true);
  // Somebody else was faster: his counts hold, and claims since then are in them.
  if (slot == nullptr || slot->shares_ready) return;
  for (Share *share = begin_of_list(); share != end_of_list(); ++share)
    if (share->key.database == database) share->running = 0;
  for (int i = 0; i < length; ++i)
    if (Share *share = find_or_make(database, owners[i])) share->running = counts[i];
  slot->shares_ready = true;
}

void forget_database(Oid database) {
  if (shared() == nullptr) return;
  SlotsAndShares locks;
  remove_where([database](const Share &share) { return share.key.database == database; });
  // Where it is still there after all, the tables are read anew.
  if (DatabaseSlot *slot = find_database(database, false)) slot->shares_ready = false;
}

}  // namespace pgtrain::pg::worker
