// Change detection of rbac/: a number that moves whenever rights or sessions may have changed.
#pragma once

#include <cstdint>

namespace pgtrain::pg::rbac {

// Registers the invalidation callback. Once per process.
void register_invalidation();

// The number of this moment. Takes in what other sessions have committed once per statement.
uint64_t current_generation();

// The marker table, looked up by name when it is not known; 0 when the extension is not installed here.
unsigned marker_table();

}  // namespace pgtrain::pg::rbac
