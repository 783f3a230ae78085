// Entry point of pgtrain.so: defines the settings, installs the hooks of each part, and starts nothing else.
// Loaded by shared_preload_libraries (then the workers and shared memory exist) or by the first call of a C function.
#include "pg/compat.hpp"

#include "pg/boundary/function.hpp"
#include "pg/guc.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/secrets/root_keys.hpp"

extern "C" {
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
}

namespace pgtrain::pg::worker {
// src/pg/worker: settings, shared memory and registration of the workers; does nothing harmful without preloading.
void init();
}  // namespace pgtrain::pg::worker

void _PG_init(void) {
  pgtrain::pg::boundary::run_protected([] {
    pgtrain::pg::guc::define();
    pgtrain::pg::rbac::init();
    pgtrain::pg::secrets::init();
    pgtrain::pg::worker::init();
    pgtrain::pg::guc::reserve_prefix();
  });
}
