// Data, the parts that are not SQL: checking samples, the chain hash, and dataset_from_query, which runs a query with the caller's
// own rights in a read-only subtransaction and feeds its rows to pgtrain.append_samples in batches.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/plancache.h"
#include "utils/tuplestore.h"
}

#include <string>
#include <string_view>
#include <vector>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/crypto/digest.hpp"
#include "pg/errors.hpp"

namespace call = pgtrain::pg::call;
namespace crypto = pgtrain::pg::crypto;
namespace code = pgtrain::pg::code;
using pgtrain::pg::Error;
using pgtrain::pg::boundary::bytes_of;

namespace {

struct Elements {
  Datum *values;
  bool *nulls;
  int count;
};

Elements elements_of(ArrayType *array, Oid type) {
  Elements elements{};
  deconstruct_array(array, type, -1, false, TYPALIGN_INT, &elements.values, &elements.nulls, &elements.count);
  return elements;
}

[[noreturn]] void refuse_sample(int64 ordinal, const char *why, const char *hint) {
  throw Error(code::InvalidData, "sample " + std::to_string(ordinal) + " is not acceptable", why, hint);
}

// Rows of a query wait here between its end and their insertion.
constexpr int batch_rows = 1000;
constexpr size_t batch_bytes = 8 * 1024 * 1024;

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

void require_text_column(TupleDesc description) {
  if (description->natts != 1)
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("the query of a dataset must give one text column"),
                    errdetail("It gives %d columns.", description->natts), errhint("Select only the text of the samples.")));
  const Oid type = TupleDescAttr(description, 0)->atttypid;
  if (type != TEXTOID && type != VARCHAROID && type != BPCHAROID)
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("the query of a dataset must give one text column"),
                    errdetail("Its column has the type %s.", format_type_be(type)), errhint("Cast it: (...)::text.")));
}

// Server world, within a subtransaction: all rows of the query into the store.
void collect_rows(const char *query, Tuplestorestate *store, TupleDesc *description) {
  // Nothing that the query calls may write, not even in functions of other languages. The end of the subtransaction restores it.
  XactReadOnly = true;
  SPIPlanPtr plan = SPI_prepare(query, 0, nullptr);
  if (plan == nullptr) elog(ERROR, "cannot prepare the query of the dataset: %s", SPI_result_code_string(SPI_result));
  require_one_select(plan);
  Portal portal = SPI_cursor_open(nullptr, plan, nullptr, nullptr, true);
  require_text_column(portal->tupDesc);
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

// Reads the next batch of the store. Throws naming the row when a value is null. Returns whether more may follow.
bool next_batch(Tuplestorestate *store, TupleTableSlot *slot, int64 *row, std::vector<std::string> *batch) {
  batch->clear();
  size_t bytes = 0;
  while (batch->size() < batch_rows && bytes < batch_bytes) {
    enum class Found { End, Null, Text };
    const Found found = call::guarded([&] {
      if (!tuplestore_gettupleslot(store, true, false, slot)) return Found::End;
      bool is_null = false;
      const Datum datum = slot_getattr(slot, 1, &is_null);
      if (is_null) return Found::Null;
      struct varlena *plain = PG_DETOAST_DATUM_PACKED(datum);
      batch->emplace_back(bytes_of(plain));
      bytes += batch->back().size();
      if (static_cast<void *>(plain) != DatumGetPointer(datum)) pfree(plain);
      return Found::Text;
    });
    if (found == Found::End) return false;
    ++*row;
    if (found == Found::Null)
      throw Error(code::InvalidData, "row " + std::to_string(*row) + " of the query is null", "A sample must have a text.",
                  "Filter such rows: ... where ... is not null.");
  }
  return true;
}

}  // namespace

// check_samples(samples, first_ordinal)
PGTRAIN_FUNCTION(pgtrain_check_samples) {
  if (PG_ARGISNULL(0)) PG_RETURN_VOID();
  const int64 first = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT64(1);
  const Elements samples = elements_of(PG_GETARG_ARRAYTYPE_P(0), TEXTOID);
  const bool is_utf8_already = GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII;
  for (int i = 0; i < samples.count; ++i) {
    const int64 ordinal = first + i;
    if (samples.nulls[i]) refuse_sample(ordinal, "It is null.", "Leave nulls out.");
    const std::string_view text = bytes_of(PG_DETOAST_DATUM_PACKED(samples.values[i]));
    if (text.empty()) refuse_sample(ordinal, "It is empty.", "Leave empty samples out.");
    // Other encodings are converted by the server when they are stored, which fails there if it must.
    if (!is_utf8_already && !pg_verify_mbstr(PG_UTF8, text.data(), static_cast<int>(text.size()), true))
      refuse_sample(ordinal, "It is not valid UTF-8.", "Convert the text to UTF-8 first.");
  }
  PG_RETURN_VOID();
}

// chain_hash(start, hashes)
PGTRAIN_FUNCTION(pgtrain_chain_hash) {
  const struct varlena *start = PG_GETARG_BYTEA_PP(0);
  const Elements hashes = elements_of(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID);
  if (hashes.count == 0) PG_RETURN_BYTEA_P(start);
  crypto::Digest chain{};
  std::string_view before = bytes_of(start);
  for (int i = 0; i < hashes.count; ++i) {
    if (hashes.nulls[i]) throw Error(code::NullNotAllowed, "a hash of the chain is null");
    chain = crypto::sha256(before, bytes_of(PG_DETOAST_DATUM_PACKED(hashes.values[i])));
    before = {reinterpret_cast<const char *>(chain.data()), chain.size()};
  }
  PG_RETURN_BYTEA_P(cstring_to_text_with_len(before.data(), static_cast<int>(before.size())));
}

// dataset_from_query(name, query, description) returns the dataset.
PGTRAIN_FUNCTION(pgtrain_dataset_from_query) {
  static const call::Statement create{"select pgtrain.create_dataset(name => $1, description => $2, source => 'query')",
                                      {call::Type::Text, call::Type::Text}};
  static const call::Statement append{"select pgtrain.append_samples($1, $2)", {call::Type::Int8, call::Type::TextArray}};
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
  call::subtransaction([&] {
    MemoryContextSwitchTo(context);
    collect_rows(query, store, &columns);
  });

  TupleTableSlot *slot = call::guarded([columns] { return MakeSingleTupleTableSlot(columns, &TTSOpsMinimalTuple); });
  std::vector<std::string> batch;
  int64 row = 0;
  for (bool more = true; more;) {
    more = next_batch(store, slot, &row, &batch);
    if (!batch.empty()) append.execute(spi, {dataset, call::Parameter::StringArray(batch)});
  }
  call::guarded([&] {
    ExecDropSingleTupleTableSlot(slot);
    tuplestore_end(store);
  });
  if (row == 0)
    throw Error(code::InvalidData, "the query gives no rows", "A dataset made of a query has at least one sample.", "");
  PG_RETURN_INT64(dataset);
}
