// Guarded SPI, see spi.hpp. Parameters are turned into datums and results into plain cells inside the guard, one server
// call at a time: between two server calls only objects outside of the guarded body grow.
#include "pg/call/spi.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
}

#include <exception>

namespace pgtrain::pg::call {
namespace {

Oid type_oid(Type type) {
  switch (type) {
    case Type::Bool: return BOOLOID;
    case Type::Int4: return INT4OID;
    case Type::Int8: return INT8OID;
    case Type::Float8: return FLOAT8OID;
    case Type::Text: return TEXTOID;
    case Type::Bytea: return BYTEAOID;
    case Type::Jsonb: return JSONBOID;
    case Type::TimestampTz: return TIMESTAMPTZOID;
    case Type::TextArray: return TEXTARRAYOID;
    case Type::Int8Array: return INT8ARRAYOID;
  }
  return InvalidOid;
}

Datum bytes_datum(std::string_view bytes) {
  auto *value = static_cast<struct varlena *>(palloc(bytes.size() + VARHDRSZ));
  SET_VARSIZE(value, bytes.size() + VARHDRSZ);
  memcpy(VARDATA(value), bytes.data(), bytes.size());
  return PointerGetDatum(value);
}

Datum jsonb_datum(std::string_view text) {
  Oid input, io_parameter;
  getTypeInputInfo(JSONBOID, &input, &io_parameter);
  return OidInputFunctionCall(input, pnstrdup(text.data(), text.size()), io_parameter, -1);
}

Datum text_array_datum(Parameter::StringArray values) {
  auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * Max(values.size(), 1)));
  for (size_t i = 0; i < values.size(); ++i) elements[i] = bytes_datum(values[i]);
  return PointerGetDatum(construct_array(elements, static_cast<int>(values.size()), TEXTOID, -1, false, TYPALIGN_INT));
}

Datum int_array_datum(Parameter::IntArray values) {
  auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * Max(values.size(), 1)));
  for (size_t i = 0; i < values.size(); ++i) elements[i] = Int64GetDatum(values[i]);
  return PointerGetDatum(
      construct_array(elements, static_cast<int>(values.size()), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

[[noreturn]] void wrong_kind(const char *sql, size_t index) {
  elog(ERROR, "pgtrain: parameter $%zu of \"%s\" has the wrong kind", index + 1, sql);
  pg_unreachable();
}

// Server world: may raise.
Datum to_datum(const Parameter &parameter, Type type, const char *sql, size_t index, bool *is_null) {
  const Parameter::Value &value = parameter.value();
  *is_null = std::holds_alternative<std::nullptr_t>(value);
  if (*is_null) return Datum{0};
  const auto *integer = std::get_if<int64_t>(&value);
  const auto *text = std::get_if<std::string_view>(&value);
  switch (type) {
    case Type::Bool:
      if (const auto *flag = std::get_if<bool>(&value)) return BoolGetDatum(*flag);
      break;
    case Type::Int4:
      if (integer != nullptr) return Int32GetDatum(static_cast<int32>(*integer));
      break;
    case Type::Int8:
    case Type::TimestampTz:
      if (integer != nullptr) return Int64GetDatum(*integer);
      break;
    case Type::Float8:
      if (const auto *number = std::get_if<double>(&value)) return Float8GetDatum(*number);
      if (integer != nullptr) return Float8GetDatum(static_cast<double>(*integer));
      break;
    case Type::Text:
    case Type::Bytea:
      if (text != nullptr) return bytes_datum(*text);
      break;
    case Type::Jsonb:
      if (text != nullptr) return jsonb_datum(*text);
      break;
    case Type::TextArray:
      if (const auto *strings = std::get_if<Parameter::StringArray>(&value)) return text_array_datum(*strings);
      break;
    case Type::Int8Array:
      if (const auto *numbers = std::get_if<Parameter::IntArray>(&value)) return int_array_datum(*numbers);
      break;
  }
  wrong_kind(sql, index);
}

// What one column gives, in server memory, before it is copied into a Cell.
struct PlainCell {
  enum class Kind { Null, Bool, Int, Float, Text } kind;
  bool boolean;
  int64_t integer;
  double number;
  const char *text;
  size_t length;
};

// Server world: may raise.
PlainCell read_cell(SPITupleTable *table, HeapTuple tuple, int column) {
  using Kind = PlainCell::Kind;
  bool is_null = false;
  const Datum value = SPI_getbinval(tuple, table->tupdesc, column, &is_null);
  PlainCell cell{};
  if (is_null) return cell;
  switch (const Oid type = SPI_gettypeid(table->tupdesc, column)) {
    case BOOLOID: cell.kind = Kind::Bool; cell.boolean = DatumGetBool(value); return cell;
    case INT2OID: cell.kind = Kind::Int; cell.integer = DatumGetInt16(value); return cell;
    case INT4OID: cell.kind = Kind::Int; cell.integer = DatumGetInt32(value); return cell;
    case INT8OID:
    case TIMESTAMPTZOID:
    case TIMESTAMPOID: cell.kind = Kind::Int; cell.integer = DatumGetInt64(value); return cell;
    case OIDOID: cell.kind = Kind::Int; cell.integer = static_cast<int64_t>(DatumGetObjectId(value)); return cell;
    case FLOAT4OID: cell.kind = Kind::Float; cell.number = DatumGetFloat4(value); return cell;
    case FLOAT8OID: cell.kind = Kind::Float; cell.number = DatumGetFloat8(value); return cell;
    case TEXTOID:
    case VARCHAROID:
    case BYTEAOID: {
      struct varlena *plain = PG_DETOAST_DATUM_PACKED(value);
      cell.kind = Kind::Text;
      cell.text = VARDATA_ANY(plain);
      cell.length = VARSIZE_ANY_EXHDR(plain);
      return cell;
    }
    default: {
      Oid output;
      bool is_varlena;
      getTypeOutputInfo(type, &output, &is_varlena);
      cell.kind = Kind::Text;
      cell.text = OidOutputFunctionCall(output, value);
      cell.length = strlen(cell.text);
      return cell;
    }
  }
}

Cell to_cell(const PlainCell &plain) {
  switch (plain.kind) {
    case PlainCell::Kind::Null: return std::monostate{};
    case PlainCell::Kind::Bool: return plain.boolean;
    case PlainCell::Kind::Int: return plain.integer;
    case PlainCell::Kind::Float: return plain.number;
    case PlainCell::Kind::Text: return std::string(plain.text, plain.length);
  }
  return std::monostate{};
}

// Server world: may raise; only `rows` grows between two server calls.
void read_rows(SPITupleTable *table, uint64 count, std::vector<Row> &rows) {
  const int columns = table->tupdesc->natts;
  auto *plain = static_cast<PlainCell *>(palloc(sizeof(PlainCell) * Max(columns, 1)));
  rows.reserve(count);
  for (uint64 r = 0; r < count; ++r) {
    for (int c = 0; c < columns; ++c) plain[c] = read_cell(table, table->vals[r], c + 1);
    std::vector<Cell> cells;
    cells.reserve(columns);
    for (int c = 0; c < columns; ++c) cells.push_back(to_cell(plain[c]));
    rows.emplace_back(std::move(cells));
  }
}

[[noreturn]] void wrong_column(size_t column, const char *wanted) {
  throw Error(code::Internal, "pgtrain: result column " + std::to_string(column) + " is null or not " + wanted);
}

}  // namespace

bool Row::boolean(size_t column) const {
  if (const auto *value = std::get_if<bool>(&cells_.at(column))) return *value;
  wrong_column(column, "boolean");
}

int64_t Row::int64(size_t column) const {
  if (const auto *value = std::get_if<int64_t>(&cells_.at(column))) return *value;
  wrong_column(column, "an integer");
}

double Row::float64(size_t column) const {
  if (const auto *value = std::get_if<double>(&cells_.at(column))) return *value;
  if (const auto *value = std::get_if<int64_t>(&cells_.at(column))) return static_cast<double>(*value);
  wrong_column(column, "a number");
}

const std::string &Row::text(size_t column) const {
  if (const auto *value = std::get_if<std::string>(&cells_.at(column))) return *value;
  wrong_column(column, "text");
}

std::optional<int64_t> Row::optional_int64(size_t column) const {
  return is_null(column) ? std::nullopt : std::optional(int64(column));
}

std::optional<double> Row::optional_float64(size_t column) const {
  return is_null(column) ? std::nullopt : std::optional(float64(column));
}

std::optional<std::string> Row::optional_text(size_t column) const {
  return is_null(column) ? std::nullopt : std::optional(text(column));
}

Spi::Spi() : exceptions_at_start_(std::uncaught_exceptions()) {
  guarded([] { SPI_connect(); });
}

Spi::~Spi() {
  // When an error unwinds, the (sub)transaction's abort resets SPI; the error data it carries must outlive this scope.
  if (std::uncaught_exceptions() == exceptions_at_start_) SPI_finish();
}

Statement::Statement(const char *sql, std::initializer_list<Type> types, Access access)
    : sql_(sql), types_(types), access_(access) {}

void Statement::prepare() const {
  guarded([this] {
    Oid oids[64];
    if (types_.size() > lengthof(oids)) elog(ERROR, "pgtrain: too many parameters in \"%s\"", sql_);
    for (size_t i = 0; i < types_.size(); ++i) oids[i] = type_oid(types_[i]);
    SPIPlanPtr plan = SPI_prepare(sql_, static_cast<int>(types_.size()), oids);
    if (plan == nullptr) elog(ERROR, "pgtrain: cannot prepare \"%s\": %s", sql_, SPI_result_code_string(SPI_result));
    if (SPI_keepplan(plan) != 0) elog(ERROR, "pgtrain: cannot keep the plan of \"%s\"", sql_);
    plan_ = plan;
  });
}

Rows Statement::execute(const Spi &, std::initializer_list<Parameter> given) const {
  const std::span<const Parameter> parameters(given.begin(), given.size());
  if (parameters.size() != types_.size())
    throw Error(code::Internal, "pgtrain: " + std::to_string(parameters.size()) + " arguments given for \"" + sql_ + "\"");
  if (plan_ == nullptr) prepare();

  Rows result;
  guarded([&] {
    Datum values[64];
    char nulls[65];
    // Given back at once: the connection's own memory lives until its end, and one call may run through gigabytes before that.
    const MemoryContext connection = CurrentMemoryContext;
    const MemoryContext scratch = AllocSetContextCreateInternal(connection, "pgtrain statement", ALLOCSET_SMALL_SIZES);
    MemoryContextSwitchTo(scratch);
    for (size_t i = 0; i < parameters.size(); ++i) {
      bool is_null = false;
      values[i] = to_datum(parameters[i], types_[i], sql_, i, &is_null);
      nulls[i] = is_null ? 'n' : ' ';
    }
    nulls[parameters.size()] = '\0';
    MemoryContextSwitchTo(connection);
    const int rc = SPI_execute_plan(plan_, values, nulls, access_ == Access::ReadOnly, 0);
    if (rc < 0) elog(ERROR, "pgtrain: cannot execute \"%s\": %s", sql_, SPI_result_code_string(rc));
    result.affected_ = SPI_processed;
    if (SPI_tuptable != nullptr) {
      MemoryContextSwitchTo(scratch);
      read_rows(SPI_tuptable, SPI_processed, result.rows_);
      SPI_freetuptable(SPI_tuptable);
    }
    MemoryContextSwitchTo(connection);
    MemoryContextDelete(scratch);
  });
  return result;
}

}  // namespace pgtrain::pg::call
