// Guarded SPI: statements with typed parameters and results as plain C++ values. A Statement is a static object: it is
// parsed and planned once per process, at its first use, and kept. Every call may throw ServerError (see guard.hpp).
// Callers: rbac/, functions/, worker/. Statements must qualify every name, because they run under the caller's
// search path.
//
//   static call::Statement claim{"update pgtrain_private.x set a = $1 where id = $2 returning id, name",
//                                {call::Type::Int8, call::Type::Text}};
//   call::Spi spi;                                   // connect; leaves at the end of the scope
//   call::Rows rows = claim.execute(spi, {id, "name"});
//   if (!rows.empty()) rows[0].int64(0);
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "pg/call/guard.hpp"

struct _SPI_plan;

namespace pgtrain::pg::call {

enum class Type { Bool, Int4, Int8, Float8, Text, Bytea, Jsonb, TimestampTz, TextArray, Int8Array };

// The argument of a parameter. Strings are views: they must live until the call returns. Timestamps are the server's
// microseconds since 2000. Jsonb is given as its text. A null is given as `nullptr`.
class Parameter {
 public:
  using StringArray = std::span<const std::string>;
  using IntArray = std::span<const int64_t>;
  using Value = std::variant<std::nullptr_t, bool, int64_t, double, std::string_view, StringArray, IntArray>;

  Parameter(std::nullptr_t) : value_(nullptr) {}
  Parameter(bool value) : value_(value) {}
  Parameter(int value) : value_(static_cast<int64_t>(value)) {}
  Parameter(long value) : value_(static_cast<int64_t>(value)) {}
  Parameter(long long value) : value_(static_cast<int64_t>(value)) {}
  Parameter(unsigned value) : value_(static_cast<int64_t>(value)) {}
  Parameter(unsigned long value) : value_(static_cast<int64_t>(value)) {}
  Parameter(double value) : value_(value) {}
  Parameter(const char *value) : value_(std::string_view(value)) {}
  Parameter(const std::string &value) : value_(std::string_view(value)) {}
  Parameter(std::string_view value) : value_(value) {}
  Parameter(StringArray value) : value_(value) {}
  Parameter(IntArray value) : value_(value) {}
  template <class T>
  Parameter(const std::optional<T> &value) : Parameter(value ? Parameter(*value) : Parameter(nullptr)) {}

  const Value &value() const { return value_; }

 private:
  Value value_;
};

// One value of a result. Integers of all widths and timestamps read as int64, floats as double, bytea as raw bytes,
// everything else (text, enums, jsonb, uuid, arrays ...) as the text that its output function gives.
using Cell = std::variant<std::monostate, bool, int64_t, double, std::string>;

class Row {
 public:
  explicit Row(std::vector<Cell> cells) : cells_(std::move(cells)) {}
  bool is_null(size_t column) const { return std::holds_alternative<std::monostate>(cells_.at(column)); }
  // Each throws an internal Error naming the column when the value is null or of another kind.
  bool boolean(size_t column) const;
  int64_t int64(size_t column) const;
  double float64(size_t column) const;
  const std::string &text(size_t column) const;
  // Null reads as nothing.
  std::optional<int64_t> optional_int64(size_t column) const;
  std::optional<double> optional_float64(size_t column) const;
  std::optional<std::string> optional_text(size_t column) const;
  size_t size() const { return cells_.size(); }

 private:
  std::vector<Cell> cells_;
};

class Rows {
 public:
  bool empty() const { return rows_.empty(); }
  size_t size() const { return rows_.size(); }
  const Row &operator[](size_t index) const { return rows_.at(index); }
  auto begin() const { return rows_.begin(); }
  auto end() const { return rows_.end(); }
  // Rows changed or returned by the statement, also when it returns none.
  uint64_t affected() const { return affected_; }

 private:
  friend class Statement;
  std::vector<Row> rows_;
  uint64_t affected_ = 0;
};

// A connection to SPI for the length of a scope. In a worker a transaction must be open; see Transaction there.
// After a server error or an exception the server's own cleanup takes the place of the disconnect.
class Spi {
 public:
  Spi();
  ~Spi();
  Spi(const Spi &) = delete;
  Spi &operator=(const Spi &) = delete;

 private:
  int exceptions_at_start_;
};

enum class Access { ReadWrite, ReadOnly };

class Statement {
 public:
  // `sql` must be a literal: only the pointer is kept.
  Statement(const char *sql, std::initializer_list<Type> types = {}, Access access = Access::ReadWrite);
  Rows execute(const Spi &spi, std::initializer_list<Parameter> parameters = {}) const;
  const char *sql() const { return sql_; }

 private:
  void prepare() const;

  const char *sql_;
  std::vector<Type> types_;
  Access access_;
  mutable _SPI_plan *plan_ = nullptr;
};

}  // namespace pgtrain::pg::call
