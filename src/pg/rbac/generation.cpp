// Change detection by relation cache invalidation of the empty table pgtrain_private.rights_marker. Triggers on the tables of
// users, sessions, roles and permissions invalidate it (pgtrain_rights_changed); the server delivers that to every session at
// commit, to ourselves at once, and takes it back on rollback. Nobody opens the marker, so it costs nothing to rebuild.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
}

#include "pg/boundary/function.hpp"
#include "pg/rbac/generation.hpp"
#include "pg/rbac/rbac.hpp"

namespace pgtrain::pg::rbac {
namespace {

uint64_t generation_number = 1;
Oid marker = InvalidOid;
TimestampTz seen_statement = 0;

void relation_invalidated(Datum, Oid relation) {
  if (relation != InvalidOid && relation != marker && marker != InvalidOid) return;
  ++generation_number;
  // The marker may be gone or be another one after DROP and CREATE EXTENSION.
  marker = InvalidOid;
}

}  // namespace

void register_invalidation() { CacheRegisterRelcacheCallback(relation_invalidated, Datum{0}); }

uint64_t current_generation() {
  // Taking in messages costs little, but not as little as doing nothing for each of a million rows.
  const TimestampTz statement = GetCurrentStatementStartTimestamp();
  if (statement != seen_statement) {
    seen_statement = statement;
    AcceptInvalidationMessages();
  }
  return generation_number;
}

uint64_t generation() { return current_generation(); }

unsigned marker_table() {
  if (marker == InvalidOid) {
    const Oid schema = get_namespace_oid("pgtrain_private", true);
    if (schema != InvalidOid) marker = get_relname_relid("rights_marker", schema);
  }
  return marker;
}

}  // namespace pgtrain::pg::rbac

// Statement trigger on every table that decides about identity and rights.
PGTRAIN_FUNCTION(pgtrain_rights_changed) {
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "pgtrain_rights_changed is a trigger function");
  const Oid table = pgtrain::pg::rbac::marker_table();
  if (table != InvalidOid) CacheInvalidateRelcacheByRelid(table);
  PG_RETURN_POINTER(nullptr);
}
