// The one place that includes the server's main header, and the only one that knows server versions.
// Every source of src/pg that talks to the server includes this first; std-only sources (errors.hpp, pure/,
// crypto/) never do. Servers before 15 are refused, here and by CREATE EXTENSION; the tests run on 15, 16 to 18 are meant to build.
#pragma once

// Before 16 the server's export marker is empty, and with hidden visibility nothing would be exported.
#ifndef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

extern "C" {
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "utils/acl.h"
}

// The server redirects the printf family to its own; std::snprintf must stay usable after this header.
#undef snprintf
#undef vsnprintf
#undef sprintf
#undef vsprintf
#undef printf
#undef vprintf
#undef fprintf
#undef vfprintf
#undef strerror
#undef strerror_r
#undef gettext
#undef dgettext
#undef ngettext
#undef dngettext

#if PG_VERSION_NUM < 150000
#error "pgtrain needs PostgreSQL 15 or later"
#endif

namespace pgtrain::pg::compat {

inline constexpr int max_shmem_requests = 8;
inline void (*shmem_requests[max_shmem_requests])();
inline int shmem_request_count = 0;
inline shmem_request_hook_type previous_shmem_request = nullptr;
inline void run_shmem_requests() {
  if (previous_shmem_request != nullptr) previous_shmem_request();
  for (int i = 0; i < shmem_request_count; ++i) shmem_requests[i]();
}

// Runs `request` (RequestAddinShmemSpace, RequestNamedLWLockTranche) when shared memory may be asked for. Call it from _PG_init
// while shared_preload_libraries are loaded.
inline void on_shmem_request(void (*request)()) {
  if (shmem_request_count == max_shmem_requests) elog(ERROR, "pgtrain: too many requests for shared memory");
  if (shmem_request_count == 0) {
    previous_shmem_request = shmem_request_hook;
    shmem_request_hook = run_shmem_requests;
  }
  shmem_requests[shmem_request_count++] = request;
}

// Whether the current role owns a database.
inline bool owns_database(Oid database) {
#if PG_VERSION_NUM >= 160000
  return object_ownercheck(DatabaseRelationId, database, GetUserId());
#else
  return pg_database_ownercheck(database, GetUserId());
#endif
}

inline Oid identity_sequence(Relation table, AttrNumber column) {
#if PG_VERSION_NUM >= 170000
  return getIdentitySequence(table, column, false);
#else
  return getIdentitySequence(RelationGetRelid(table), column, false);
#endif
}

inline IndexScanDesc begin_index_scan(Relation table, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
  return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
  return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

// Puts `row` in the place of the one at `place`, after waiting for whoever holds it.
struct Updated {
  TM_Result result;
  bool needs_index_entries;
  bool only_summarizing;  // of those indexes that sum up ranges
};
inline Updated update_row(Relation table, ItemPointer place, TupleTableSlot *row, Snapshot snapshot) {
  TM_FailureData failure;
  LockTupleMode mode;
#if PG_VERSION_NUM >= 160000
  TU_UpdateIndexes needed;
#else
  bool needed;
#endif
  const TM_Result result =
      table_tuple_update(table, place, row, GetCurrentCommandId(true), snapshot, InvalidSnapshot, true, &failure, &mode, &needed);
#if PG_VERSION_NUM >= 160000
  return {result, result == TM_Ok && needed != TU_None, needed == TU_Summarizing};
#else
  return {result, result == TM_Ok && needed, false};
#endif
}

// Entries of the indexes for a new version of a row.
inline void insert_index_entries(ResultRelInfo *target, TupleTableSlot *row, EState *state, bool is_update, bool only_summarizing) {
#if PG_VERSION_NUM >= 160000
  ExecInsertIndexTuples(target, row, state, is_update, false, nullptr, NIL, only_summarizing);
#else
  ExecInsertIndexTuples(target, row, state, is_update, false, nullptr, NIL);
#endif
}

}  // namespace pgtrain::pg::compat
