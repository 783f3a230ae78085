// dataset_from_query: runs a query with the caller's own rights in a read-only subtransaction and feeds its rows to
// pgtrain.append_samples (one text column) or pgtrain.append_records (named columns, or one of JSON) in batches.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/plancache.h"
#include "utils/tuplestore.h"
}

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/errors.hpp"
#include "pg/worker/relay.hpp"

namespace {

namespace call = pgtrain::pg::call;
namespace code = pgtrain::pg::code;
using pgtrain::pg::Error;
using pgtrain::pg::boundary::bytes_of;
using pgtrain::pg::worker::json_text;

// Rows of a query wait between its end and their insertion.
constexpr int batch_rows = 1000;
constexpr size_t batch_bytes = 8 * 1024 * 1024;

constexpr const char *field_names[] = {"text", "prompt", "completion", "messages", "chosen", "rejected"};
constexpr int most_columns = static_cast<int>(std::size(field_names));

enum class Form { Text, Json, Jsonb };
struct Column {
  const char *name;  // null: the value is the whole sample
  Form form;
};
// Plain, because the server's world fills it.
struct Shape {
  bool is_text;  // one column of texts, else records
  int count;
  Column columns[most_columns];
};

void require_one_select(SPIPlanPtr plan) {
  List *sources = SPI_plan_get_plan_sources(plan);
  bool is_select = SPI_is_cursor_plan(plan);
  if (is_select) {
    auto *source = static_cast<CachedPlanSource *>(linitial(sources));
    is_select = source->commandTag == CMDTAG_SELECT && !static_cast<Query *>(linitial(source->query_list))->hasModifyingCTE;
  }
  if (!is_select)
    ereport(ERROR, (errcode(ERRCODE_INVALID_CURSOR_DEFINITION), errmsg("the query of a dataset must be one SELECT or VALUES"),
                    errdetail("It is more than one statement, or one that writes or gives no rows.")));
}

const char *known_name(const char *name) {
  for (const char *known : field_names)
    if (strcmp(known, name) == 0) return known;
  return nullptr;
}

[[noreturn]] void refuse_columns(const char *detail) {
  ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("the columns of the query are not those of a dataset"), errdetail_internal("%s", detail),
                  errhint("Give one text column; or columns named prompt and completion, or messages (jsonb), or prompt, chosen and rejected; "
                          "or one jsonb column of whole samples.")));
  pg_unreachable();
}

Shape shape_of(TupleDesc description) {
  Shape shape{};
  if (description->natts > most_columns) refuse_columns(psprintf("It gives %d columns.", description->natts));
  for (int i = 0; i < description->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(description, i);
    const bool is_text = attribute->atttypid == TEXTOID || attribute->atttypid == VARCHAROID || attribute->atttypid == BPCHAROID;
    if (!is_text && attribute->atttypid != JSONOID && attribute->atttypid != JSONBOID)
      refuse_columns(psprintf("Its column \"%s\" has the type %s.", NameStr(attribute->attname), format_type_be(attribute->atttypid)));
    Column &column = shape.columns[shape.count++];
    column.form = is_text ? Form::Text : attribute->atttypid == JSONOID ? Form::Json : Form::Jsonb;
    column.name = known_name(NameStr(attribute->attname));
    const bool is_alone = description->natts == 1;
    if (is_alone && (is_text || column.name == nullptr || strcmp(column.name, "messages") != 0)) {
      column.name = nullptr;
      shape.is_text = is_text;
    } else if (column.name == nullptr) {
      refuse_columns(psprintf("Its column \"%s\" is none of text, prompt, completion, messages, chosen and rejected.", NameStr(attribute->attname)));
    }
    for (int earlier = 0; earlier < i; ++earlier)
      if (shape.columns[earlier].name == column.name) refuse_columns(psprintf("It gives the column \"%s\" twice.", column.name));
  }
  if (shape.count == 0) refuse_columns("It gives no column.");
  return shape;
}

// Server world, within a subtransaction: all rows of the query into the store.
void collect_rows(const char *query, Tuplestorestate *store, TupleDesc *description, Shape *shape) {
  // Nothing that the query calls may write, not even in functions of other languages. The end of the subtransaction restores it.
  XactReadOnly = true;
  SPIPlanPtr plan = SPI_prepare(query, 0, nullptr);
  if (plan == nullptr) elog(ERROR, "cannot prepare the query of the dataset: %s", SPI_result_code_string(SPI_result));
  require_one_select(plan);
  Portal portal = SPI_cursor_open(nullptr, plan, nullptr, nullptr, true);
  *shape = shape_of(portal->tupDesc);
  *description = CreateTupleDescCopy(portal->tupDesc);
  for (;;) {
    SPI_cursor_fetch(portal, true, batch_rows);
    if (SPI_processed == 0) break;
    for (uint64 row = 0; row < SPI_processed; ++row) tuplestore_puttuple(store, SPI_tuptable->vals[row]);
    SPI_freetuptable(SPI_tuptable);
    CHECK_FOR_INTERRUPTS();
  }
  SPI_cursor_close(portal);
}

// The rows of the store one after the other, as texts or JSON texts.
class Reader {
 public:
  Reader(Tuplestorestate *store, TupleDesc columns, const Shape &shape) : store_(store), shape_(shape) {
    slot_ = call::guarded([columns] { return MakeSingleTupleTableSlot(columns, &TTSOpsMinimalTuple); });
  }

  // Reads the next batch; false when it is the last. Throws naming the row when a value is missing.
  bool next(std::vector<std::string> *batch) {
    batch->clear();
    size_t bytes = 0;
    while (batch->size() < batch_rows && bytes < batch_bytes) {
      if (!call::guarded([this] { return tuplestore_gettupleslot(store_, true, false, slot_); })) return false;
      ++rows_;
      batch->push_back(sample());
      bytes += batch->back().size();
    }
    return true;
  }

  int64 rows() const { return rows_; }
  void drop() {
    call::guarded([this] { ExecDropSingleTupleTableSlot(slot_); });
  }

 private:
  struct Value {
    bool is_null;
    const char *data;
    size_t length;
    void *made;  // to be freed once it was copied
  };

  Value value(int index) {
    return call::guarded([&] {
      Value value{};
      const Datum datum = slot_getattr(slot_, index + 1, &value.is_null);
      if (value.is_null) return value;
      if (shape_.columns[index].form == Form::Jsonb) {
        Jsonb *json = DatumGetJsonbP(datum);
        char *text = JsonbToCString(nullptr, &json->root, VARSIZE(json));
        if (static_cast<void *>(json) != DatumGetPointer(datum)) pfree(json);
        value.data = text;
        value.length = strlen(text);
        value.made = text;
        return value;
      }
      struct varlena *plain = PG_DETOAST_DATUM_PACKED(datum);
      value.data = VARDATA_ANY(plain);
      value.length = VARSIZE_ANY_EXHDR(plain);
      value.made = static_cast<void *>(plain) != DatumGetPointer(datum) ? plain : nullptr;
      return value;
    });
  }

  std::string take(const Value &value) {
    std::string text(value.data, value.length);
    if (value.made != nullptr) pfree(value.made);
    return text;
  }

  std::string sample() {
    if (shape_.columns[0].name == nullptr) {
      const Value whole = value(0);
      if (whole.is_null) refuse(nullptr);
      return take(whole);
    }
    std::string record = "{";
    for (int i = 0; i < shape_.count; ++i) {
      const Column &column = shape_.columns[i];
      const Value field = value(i);
      if (field.is_null) {
        // A preference has a prompt or not.
        if (strcmp(column.name, "prompt") != 0) refuse(column.name);
        continue;
      }
      const std::string text = take(field);
      record += (record.size() > 1 ? "," : "") + json_text(column.name) + ":" + (column.form == Form::Text ? json_text(text) : text);
    }
    return record + "}";
  }

  [[noreturn]] void refuse(const char *column) {
    throw Error(code::InvalidData, "row " + std::to_string(rows_) + " of the query is null" + (column == nullptr ? "" : std::string(" in column ") + column),
                "A sample must have a text.", "Filter such rows: ... where ... is not null.");
  }

  Tuplestorestate *store_;
  Shape shape_;
  TupleTableSlot *slot_;
  int64 rows_ = 0;
};

}  // namespace

// dataset_from_query(name, query, description) returns the dataset.
PGTRAIN_FUNCTION(pgtrain_dataset_from_query) {
  static const call::Statement create{"select pgtrain.create_dataset(name => $1, description => $2, source => 'query')",
                                      {call::Type::Text, call::Type::Text}};
  static const call::Statement append{"select pgtrain.append_samples($1, $2)", {call::Type::Int8, call::Type::TextArray}};
  static const call::Statement append_records{"select pgtrain.append_records($1, $2::pg_catalog.jsonb[])", {call::Type::Int8, call::Type::TextArray}};
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) throw Error(code::NullNotAllowed, "name and query are needed");
  const std::string_view name = bytes_of(PG_GETARG_TEXT_PP(0));
  const char *query = text_to_cstring(PG_GETARG_TEXT_PP(1));
  const auto description =
      PG_ARGISNULL(2) ? call::Parameter(nullptr) : call::Parameter(bytes_of(PG_GETARG_TEXT_PP(2)));

  call::Spi spi;
  const int64_t dataset = create.execute(spi, {name, description})[0].int64(0);

  Tuplestorestate *store = call::guarded([] { return tuplestore_begin_heap(false, false, work_mem); });
  const MemoryContext context = CurrentMemoryContext;
  TupleDesc columns = nullptr;
  Shape shape{};
  call::subtransaction([&] {
    MemoryContextSwitchTo(context);
    collect_rows(query, store, &columns, &shape);
  });

  Reader reader(store, columns, shape);
  std::vector<std::string> batch;
  for (bool more = true; more;) {
    more = reader.next(&batch);
    if (!batch.empty()) (shape.is_text ? append : append_records).execute(spi, {dataset, call::Parameter::StringArray(batch)});
  }
  reader.drop();
  call::guarded([&] { tuplestore_end(store); });
  if (reader.rows() == 0)
    throw Error(code::InvalidData, "the query gives no rows", "A dataset made of a query has at least one sample.", "");
  PG_RETURN_INT64(dataset);
}
