// Rows of our own busiest tables, read and changed without a plan: to start and end an executor costs more than the few rows of a claim.
// The means are those with which the server's apply worker changes rows: an index scan under a snapshot, the table's access method,
// the entries of its indexes. Row security does not apply. Foreign keys are not checked: the caller vouches for them by holding the
// row that is referred to. A table that somebody else has given triggers, constraints, defaults or rules is changed by SQL statements
// instead, so that nothing of theirs is passed over; one of them that keeps the row from being changed is an error.
// Everything here is for bodies of `guarded`, with an Spi open, and may raise. Callers: worker/transitions.cpp, functions/limits.cpp.
//
//   static call::HotTable table{"schema", "name", {"id", "state"}, {"name_pkey"}, 0};
//   call::OpenTable rows(table);                       // no destructor: an error leaves the rest to the end of the transaction
//   if (rows.find(0, keys, 1) && rows.integer(1) == 5) rows.update({{1, Int64GetDatum(6)}});
//   rows.close();
#pragma once

#include <cstdint>
#include <initializer_list>

#include "pg/compat.hpp"

extern "C" {
#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
}

namespace pgtrain::pg::call {

// A column by its place in the table's list, and its value.
struct Field {
  int column;
  Datum value;
  bool is_null = false;
};

// What is known about a table, read again when it was changed or made anew. A static object; its strings must be literals.
class HotTable {
 public:
  static constexpr int most_columns = 16;
  static constexpr int most_indexes = 2;

  // `foreign_keys`: how many of its own the caller vouches for.
  HotTable(const char *schema, const char *name, std::initializer_list<const char *> columns, std::initializer_list<const char *> indexes,
           int foreign_keys);

 private:
  friend class OpenTable;
  void load();
  void learn(Relation relation, Oid schema);
  static void forget(Datum, Oid relation);

  const char *schema_, *name_;
  const char *column_names_[most_columns], *index_names_[most_indexes];
  int columns_ = 0, indexes_ = 0, foreign_keys_;
  HotTable *next_;
  bool is_current() const { return is_whole_ && !is_changed_; }

  bool is_whole_ = false;    // an error in the middle of reading leaves it false
  bool is_changed_ = false;  // since reading began
  Oid relation_ = InvalidOid;
  Oid index_ids_[most_indexes];
  Oid identity_sequence_ = InvalidOid;
  AttrNumber numbers_[most_columns];
  bool is_plain_ = false;        // nobody else's triggers, constraints and rules
  bool is_referred_to_ = false;  // by foreign keys, whose actions follow the end of a row
};

// What the transaction has done before must be seen, and a snapshot of its own shows what others have committed.
void push_new_snapshot();
ScanKeyData scan_key(AttrNumber column, RegProcedure comparison, Datum value, StrategyNumber strategy = BTEqualStrategyNumber);

enum class Change {
  Done,
  Meanwhile,  // another transaction changed or removed the row after it was read, or holds it
};

// A table in use. Plain data: it is simply left when an error is raised.
class OpenTable {
 public:
  explicit OpenTable(HotTable &table);
  void close();

  // The first row in the order of an index for which the keys hold, as the active snapshot sees it.
  bool find(int index, ScanKeyData *keys, int count);
  // The same, row by row.
  void begin(int index, ScanKeyData *keys, int count);
  bool next();
  void end();

  // Of the row that was found.
  bool is_null(int column) const;
  Datum value(int column) const;
  int64_t integer(int column) const { return DatumGetInt64(value(column)); }
  // The transaction that is changing it, invalid for none or this one. A look: the moment after it can be another.
  TransactionId holder() const;

  // Changes the row that was found; waits for a transaction that holds it.
  Change update(std::initializer_list<Field> fields);
  // Removes it; does not wait, and leaves a row on which this very transaction has taken a lock.
  Change remove();
  // A new row; columns that are not given are null, or have the default that somebody else gave them. False when a trigger kept it out.
  bool insert(std::initializer_list<Field> fields);
  // The error about a trigger or rule that has kept a row from being written or changed.
  [[noreturn]] void refuse(const char *what) const;

  // The next value of the table's identity column.
  Datum next_identity() const;
  // The value of an enum column that has this label.
  Datum label(int column, const char *label) const;

 private:
  Form_pg_attribute attribute(int column) const;
  void add_index_entries(TupleTableSlot *row, bool is_update, bool only_summarizing);
  uint64 by_sql(const char *verb, std::initializer_list<Field> fields);
  bool lock_by_sql();

  const HotTable *table_;
  Relation relation_;
  TupleTableSlot *row_;
  Relation index_;
  IndexScanDesc scan_;
};

}  // namespace pgtrain::pg::call
