// What a transaction has to tell the workers once it commits, and what it must give back when it does not. Collected here
// by the SQL functions of the queue, done in the transaction callback after the commit is visible. A transaction that is
// prepared for two-phase commit tells nothing; polling finds its runs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pgtrain::pg::worker {

// Installs the transaction callback; called from _PG_init.
void install_queue_events();

// A running place reserved by the open transaction: given back when it rolls back.
size_t add_reservation(int64_t owner_id, int rank);
// It was given back, or never counted.
void drop_reservation(size_t reservation);

// The launcher looks after this database once the transaction has committed.
void note_announced();

}  // namespace pgtrain::pg::worker
