// Rows without a plan, see hot_table.hpp.
#include "pg/call/hot_table.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
}

namespace pgtrain::pg::call {
namespace {

HotTable *all_tables = nullptr;
bool is_watching = false;

}  // namespace

// ---------------------------------------------------------------- what is known about a table

HotTable::HotTable(const char *schema, const char *name, std::initializer_list<const char *> columns,
                   std::initializer_list<const char *> indexes, int foreign_keys)
    : schema_(schema), name_(name), foreign_keys_(foreign_keys), next_(all_tables) {
  for (const char *column : columns) column_names_[columns_++] = column;
  for (const char *index : indexes) index_names_[indexes_++] = index;
  all_tables = this;
}

void HotTable::forget(Datum, Oid relation) {
  for (HotTable *table = all_tables; table != nullptr; table = table->next_)
    if (relation == InvalidOid || relation == table->relation_) table->is_changed_ = true;
}

void HotTable::load() {
  if (!is_watching) {
    CacheRegisterRelcacheCallback(forget, Datum{0});
    is_watching = true;
  }
  const Oid schema = get_namespace_oid(schema_, false);
  relation_ = get_relname_relid(name_, schema);
  if (relation_ == InvalidOid) ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"%s.%s\" does not exist", schema_, name_)));
  is_whole_ = false;
  // Before what is read below, so that a change meanwhile is not lost.
  is_changed_ = false;
  Relation relation = table_open(relation_, RowExclusiveLock);
  learn(relation, schema);
  table_close(relation, NoLock);
  is_whole_ = true;
}

void HotTable::learn(Relation relation, Oid schema) {
  for (int i = 0; i < columns_; ++i) {
    numbers_[i] = get_attnum(relation_, column_names_[i]);
    if (numbers_[i] == InvalidAttrNumber) elog(ERROR, "pgtrain: table \"%s\" has no column \"%s\"", name_, column_names_[i]);
  }
  for (int i = 0; i < indexes_; ++i) {
    index_ids_[i] = get_relname_relid(index_names_[i], schema);
    if (index_ids_[i] == InvalidOid) elog(ERROR, "pgtrain: table \"%s\" has no index \"%s\"", name_, index_names_[i]);
  }

  const TupleDesc columns = RelationGetDescr(relation);
  const TupleConstr *constraints = columns->constr;
  is_plain_ = relation->rd_rel->relkind == RELKIND_RELATION && !relation->rd_rel->relispartition && relation->rd_rules == nullptr &&
              (constraints == nullptr || (constraints->num_check == 0 && !constraints->has_generated_stored));
  identity_sequence_ = InvalidOid;
  for (int i = 0; i < columns->natts; ++i) {
    const Form_pg_attribute column = TupleDescAttr(columns, i);
    if (column->attisdropped) continue;
    if (column->attidentity != '\0') identity_sequence_ = compat::identity_sequence(relation, column->attnum);
    // Domains have constraints and defaults of their own, and types can have defaults.
    if (get_typtype(column->atttypid) == TYPTYPE_DOMAIN || get_typdefault(column->atttypid) != nullptr) is_plain_ = false;
  }

  const Oid own_schema = get_namespace_oid("pgtrain_private", false);
  list_free(RelationGetIndexList(relation));
  is_referred_to_ = false;
  int foreign_keys = 0;
  for (int i = 0; relation->trigdesc != nullptr && i < relation->trigdesc->numtriggers; ++i) {
    const Trigger &trigger = relation->trigdesc->triggers[i];
    if (trigger.tgfoid == F_RI_FKEY_CHECK_INS) ++foreign_keys;
    const int part = trigger.tgisinternal ? RI_FKey_trigger_type(trigger.tgfoid) : RI_TRIGGER_NONE;
    if (part == RI_TRIGGER_NONE && get_func_namespace(trigger.tgfoid) != own_schema) is_plain_ = false;
    // The primary key stays as it is; what else somebody refers to may be changed.
    if (part == RI_TRIGGER_PK && trigger.tgconstrindid != relation->rd_pkindex) is_plain_ = false;
    is_referred_to_ |= part == RI_TRIGGER_PK;
  }
  if (foreign_keys != foreign_keys_) is_plain_ = false;
}

// ---------------------------------------------------------------- reading

void push_new_snapshot() {
  CommandCounterIncrement();
  PushActiveSnapshot(GetTransactionSnapshot());
}

ScanKeyData scan_key(AttrNumber column, RegProcedure comparison, Datum value, StrategyNumber strategy) {
  ScanKeyData key;
  ScanKeyInit(&key, column, strategy, comparison, value);
  return key;
}

OpenTable::OpenTable(HotTable &table) : table_(&table), index_(nullptr), scan_(nullptr) {
  PreventCommandIfReadOnly("a change of runs");
  if (!table.is_current()) table.load();
  relation_ = table_open(table.relation_, RowExclusiveLock);
  // The lock may have let a change in.
  if (!table.is_current()) table.load();
  row_ = table_slot_create(relation_, nullptr);
}

void OpenTable::close() {
  ExecDropSingleTupleTableSlot(row_);
  table_close(relation_, NoLock);
}

void OpenTable::begin(int index, ScanKeyData *keys, int count) {
  index_ = index_open(table_->index_ids_[index], AccessShareLock);
  scan_ = compat::begin_index_scan(relation_, index_, GetActiveSnapshot(), count);
  index_rescan(scan_, keys, count, nullptr, 0);
}

bool OpenTable::next() {
  CHECK_FOR_INTERRUPTS();
  return index_getnext_slot(scan_, ForwardScanDirection, row_);
}

void OpenTable::end() {
  index_endscan(scan_);
  index_close(index_, NoLock);
}

bool OpenTable::find(int index, ScanKeyData *keys, int count) {
  begin(index, keys, count);
  const bool is_found = next();
  end();
  return is_found;
}

Form_pg_attribute OpenTable::attribute(int column) const {
  return TupleDescAttr(RelationGetDescr(relation_), table_->numbers_[column] - 1);
}

bool OpenTable::is_null(int column) const { return slot_attisnull(row_, table_->numbers_[column]); }

Datum OpenTable::value(int column) const {
  bool is_null = false;
  const Datum value = slot_getattr(row_, table_->numbers_[column], &is_null);
  if (is_null) elog(ERROR, "pgtrain: column \"%s\" of table \"%s\" is null", table_->column_names_[column], table_->name_);
  return value;
}

TransactionId OpenTable::holder() const {
  if (!TTS_IS_BUFFERTUPLE(row_)) return InvalidTransactionId;
  const HeapTupleHeader header = reinterpret_cast<BufferHeapTupleTableSlot *>(row_)->base.tuple->t_data;
  if ((header->t_infomask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) != 0) return InvalidTransactionId;
  const TransactionId changer = HeapTupleHeaderGetRawXmax(header);
  if (!TransactionIdIsNormal(changer) || TransactionIdIsCurrentTransactionId(changer) || !TransactionIdIsInProgress(changer)) return InvalidTransactionId;
  return changer;
}

Datum OpenTable::next_identity() const { return Int64GetDatum(nextval_internal(table_->identity_sequence_, false)); }

Datum OpenTable::label(int column, const char *label) const {
  const Oid type = attribute(column)->atttypid;
  HeapTuple tuple = SearchSysCache2(ENUMTYPOIDNAME, ObjectIdGetDatum(type), CStringGetDatum(label));
  if (!HeapTupleIsValid(tuple)) elog(ERROR, "pgtrain: \"%s\" is no label of column \"%s\"", label, table_->column_names_[column]);
  const Oid value = reinterpret_cast<Form_pg_enum>(GETSTRUCT(tuple))->oid;
  ReleaseSysCache(tuple);
  return ObjectIdGetDatum(value);
}

// ---------------------------------------------------------------- changing

void OpenTable::add_index_entries(TupleTableSlot *row, bool is_update, bool only_summarizing) {
  EState *state = CreateExecutorState();
  // Without triggers and range table, which the entries of indexes do not need.
  ResultRelInfo *target = makeNode(ResultRelInfo);
  target->ri_RelationDesc = relation_;
  ExecOpenIndices(target, false);
  compat::insert_index_entries(target, row, state, is_update, only_summarizing);
  ExecCloseIndices(target);
  FreeExecutorState(state);
}

Change OpenTable::update(std::initializer_list<Field> fields) {
  bool is_plain = table_->is_plain_;
  for (const Field &field : fields) is_plain &= !(field.is_null && attribute(field.column)->attnotnull);
  if (!is_plain) {
    if (lock_by_sql()) {
      if (by_sql("update", fields) == 1) return Change::Done;
      refuse("changed");
    }
  } else {
    CheckCmdReplicaIdentity(relation_, CMD_UPDATE);
    slot_getallattrs(row_);
    TupleTableSlot *changed = MakeSingleTupleTableSlot(RelationGetDescr(relation_), &TTSOpsVirtual);
    const size_t count = RelationGetDescr(relation_)->natts;
    memcpy(changed->tts_values, row_->tts_values, count * sizeof(Datum));
    memcpy(changed->tts_isnull, row_->tts_isnull, count * sizeof(bool));
    for (const Field &field : fields) {
      changed->tts_values[table_->numbers_[field.column] - 1] = field.value;
      changed->tts_isnull[table_->numbers_[field.column] - 1] = field.is_null;
    }
    ExecStoreVirtualTuple(changed);
    const compat::Updated updated = compat::update_row(relation_, &row_->tts_tid, changed, GetActiveSnapshot());
    if (updated.needs_index_entries) add_index_entries(changed, true, updated.only_summarizing);
    ExecDropSingleTupleTableSlot(changed);
    if (updated.result == TM_Ok) return Change::Done;
    if (updated.result != TM_Updated && updated.result != TM_Deleted)
      elog(ERROR, "pgtrain: a row of \"%s\" cannot be changed (%d)", table_->name_, static_cast<int>(updated.result));
  }
  if (IsolationUsesXactSnapshot())
    ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE), errmsg("could not serialize access due to concurrent update")));
  return Change::Meanwhile;
}

Change OpenTable::remove() {
  if (!table_->is_plain_ || table_->is_referred_to_) return by_sql("delete", {}) == 1 ? Change::Done : Change::Meanwhile;
  CheckCmdReplicaIdentity(relation_, CMD_DELETE);
  TM_FailureData failure;
  const TM_Result result =
      table_tuple_delete(relation_, &row_->tts_tid, GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot, false, &failure, false);
  return result == TM_Ok ? Change::Done : Change::Meanwhile;
}

bool OpenTable::insert(std::initializer_list<Field> fields) {
  if (!table_->is_plain_) return by_sql("insert", fields) == 1;
  const TupleDesc columns = RelationGetDescr(relation_);
  TupleTableSlot *row = table_slot_create(relation_, nullptr);
  for (int i = 0; i < columns->natts; ++i) row->tts_isnull[i] = true;
  for (const Field &field : fields) {
    row->tts_values[table_->numbers_[field.column] - 1] = field.value;
    row->tts_isnull[table_->numbers_[field.column] - 1] = field.is_null;
  }
  for (int i = 0; i < columns->natts; ++i) {
    const Form_pg_attribute column = TupleDescAttr(columns, i);
    if (!row->tts_isnull[i] || !(column->attnotnull || column->atthasdef || column->attidentity != '\0')) continue;
    ExecDropSingleTupleTableSlot(row);
    return by_sql("insert", fields) == 1;
  }
  ExecStoreVirtualTuple(row);
  table_tuple_insert(relation_, row, GetCurrentCommandId(true), 0, nullptr);
  if (relation_->rd_rel->relhasindex) add_index_entries(row, false, false);
  ExecDropSingleTupleTableSlot(row);
  return true;
}

void OpenTable::refuse(const char *what) const {
  ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                  errmsg("a trigger or rule has kept a row of %s.%s from being %s", table_->schema_, table_->name_, what),
                  errdetail("What was to be done cannot be done without it."),
                  errhint("A trigger that is no part of pgtrain must return the row, or raise an error that tells what it objects to.")));
}

// Waits for a transaction that holds the row. False when it has changed or removed the row.
bool OpenTable::lock_by_sql() {
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "select from %s.%s where ctid = $1 for no key update", table_->schema_, table_->name_);
  Oid type = TIDOID;
  Datum place = PointerGetDatum(&row_->tts_tid);
  const int result = SPI_execute_with_args(sql.data, 1, &type, &place, nullptr, false, 0);
  if (result < 0) elog(ERROR, "pgtrain: \"%s\" failed: %s", sql.data, SPI_result_code_string(result));
  return SPI_processed == 1;
}

// The same change as a statement. Returns the number of rows.
uint64 OpenTable::by_sql(const char *verb, std::initializer_list<Field> fields) {
  Oid types[HotTable::most_columns + 1];
  Datum values[HotTable::most_columns + 1];
  char nulls[HotTable::most_columns + 1];
  int count = 0;
  StringInfoData names, places, sql;
  initStringInfo(&names);
  initStringInfo(&places);
  initStringInfo(&sql);
  const bool is_update = verb[0] == 'u';
  for (const Field &field : fields) {
    types[count] = attribute(field.column)->atttypid;
    values[count] = field.value;
    nulls[count++] = field.is_null ? 'n' : ' ';
    appendStringInfo(&names, "%s%s", count == 1 ? "" : ", ", table_->column_names_[field.column]);
    if (is_update) appendStringInfo(&names, " = $%d", count);
    appendStringInfo(&places, "%s$%d", count == 1 ? "" : ", ", count);
  }
  if (verb[0] == 'i') {
    appendStringInfo(&sql, "insert into %s.%s (%s) overriding system value values (%s)", table_->schema_, table_->name_, names.data, places.data);
  } else {
    types[count] = TIDOID;
    values[count] = PointerGetDatum(&row_->tts_tid);
    nulls[count++] = ' ';
    if (is_update)
      appendStringInfo(&sql, "update %s.%s set %s where ctid = $%d", table_->schema_, table_->name_, names.data, count);
    else
      appendStringInfo(&sql, "delete from %s.%s where ctid = (select ctid from %s.%s where ctid = $1 for update skip locked)", table_->schema_,
                       table_->name_, table_->schema_, table_->name_);
  }
  const int result = SPI_execute_with_args(sql.data, count, types, values, nulls, false, 0);
  if (result < 0) elog(ERROR, "pgtrain: \"%s\" failed: %s", sql.data, SPI_result_code_string(result));
  return SPI_processed;
}

}  // namespace pgtrain::pg::call
