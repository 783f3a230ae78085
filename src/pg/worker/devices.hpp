// Which devices there are. The launcher asks the trainer program (a child; no CUDA comes into this process) and keeps the answer
// in shared memory; each database's scheduler writes it to its tables.
#pragma once

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"

namespace pgtrain::pg::worker {

// Runs `trainer devices` and stores what it found; what went wrong is stored as the note. True when devices are known.
bool detect_devices();

// Writes shared memory's devices to the tables of this database.
void sync_devices(const call::Spi &spi);

// Takes a device for this process's run: false when a worker of another database has it, or should have it first.
bool acquire_device(int device);
void release_device(int device);
// True when all devices have equal memory, so that any run fits on any of them.
bool are_devices_alike();

}  // namespace pgtrain::pg::worker
