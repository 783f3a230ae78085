// Which databases get workers. Sessions announce a database when they have created the extension, and suspend it while they
// drop or rename it; the launcher reads the list of databases and starts what is missing.
#pragma once

#include "pg/compat.hpp"

namespace pgtrain::pg::worker {

// The database has the extension; the launcher starts its scheduler.
void announce_present(Oid database);
// Its scheduler found no extension; it is looked at again when announced.
void announce_absent(Oid database);

enum class Leave { InGoodOrder, AtOnce };

// Stops the workers of a database and keeps new ones from starting until the matching `end_suspension`. Waits until they
// are gone; interrupts are honoured. `Leave::AtOnce` kills trainers without a checkpoint and writes nothing.
void suspend_database(Oid database, Leave how);
void end_suspension(Oid database);

// A device worker that is made to leave before it could end its lease says so: its run was not at fault.
void note_told_to_leave(pid_t pid);
bool was_told_to_leave(pid_t pid);

// Installs the hook on DROP DATABASE, ALTER DATABASE RENAME, CREATE DATABASE TEMPLATE and DROP EXTENSION.
void install_utility_hook();

}  // namespace pgtrain::pg::worker
