// Triggers of every table: updated_at and the guard of append-only tables.
#include "pg/compat.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
}

#include "pg/boundary/function.hpp"
#include "pg/errors.hpp"

// Row trigger before update.
PGTRAIN_FUNCTION(pgtrain_touch_updated_at) {
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "pgtrain_touch_updated_at is a trigger function");
  auto *trigger = reinterpret_cast<TriggerData *>(fcinfo->context);
  if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
      !TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
    elog(ERROR, "pgtrain_touch_updated_at must run before update for each row");
  const TupleDesc description = RelationGetDescr(trigger->tg_relation);
  int column = SPI_fnumber(description, "updated_at");
  if (column <= 0) elog(ERROR, "table \"%s\" has no column updated_at", RelationGetRelationName(trigger->tg_relation));
  Datum value = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
  bool is_null = false;
  return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_newtuple, description, 1, &column, &value, &is_null));
}

// Trigger before update, delete or truncate of append-only tables.
PGTRAIN_FUNCTION(pgtrain_refuse_change) {
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "pgtrain_refuse_change is a trigger function");
  auto *trigger = reinterpret_cast<TriggerData *>(fcinfo->context);
  throw pgtrain::pg::Error(pgtrain::pg::code::AppendOnly,
                           std::string("rows of \"") + RelationGetRelationName(trigger->tg_relation) + "\" are never changed or removed",
                           "", "Add a row that corrects the former one.");
}
