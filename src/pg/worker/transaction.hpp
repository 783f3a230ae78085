// One short transaction of a worker: begin, snapshot, SPI, body, commit. When something leaves the body the transaction is
// rolled back and the error goes on as a plain Error, because the server's copy of it ends with the transaction.
#pragma once

#include <type_traits>

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"

namespace pgtrain::pg::worker {

// Runs `body(spi, argument)` in a transaction; `activity` is what pg_stat_activity shows.
void in_transaction(const char *activity, void (*body)(const call::Spi &, void *), void *argument);

template <class Callable>
void in_transaction(const char *activity, Callable &&body) {
  using Plain = std::remove_reference_t<Callable>;
  in_transaction(
      activity, [](const call::Spi &spi, void *argument) { (*static_cast<Plain *>(argument))(spi); },
      const_cast<void *>(static_cast<const void *>(&body)));
}

// Connects a worker to a database as the server's superuser, and fixes the settings that a database's or role's
// settings must not change for it.
void connect_worker(Oid database);

}  // namespace pgtrain::pg::worker
