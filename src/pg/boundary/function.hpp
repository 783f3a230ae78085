// The inward door: every SQL-callable function and worker entry point of the module is declared by PGTRAIN_FUNCTION or
// calls `run_protected`. Behind the door C++ exceptions are caught, their fields copied, the catch block is left, and
// only then the server error is raised: a jump out of a catch block would leak the exception and its handler's state.
#pragma once

#include "pg/compat.hpp"

namespace pgtrain::pg::boundary {

using Body = Datum (*)(FunctionCallInfo);

// Runs `body`; an exception that leaves it becomes a server error with SQLSTATE, message, detail and hint kept.
Datum enter(Body body, FunctionCallInfo fcinfo);

// The same for code that is no SQL function (hooks, callbacks, worker main functions). Raises a server error.
void run_protected(void (*body)(void *), void *argument);

template <class Callable>
void run_protected(Callable &&body) {
  run_protected([](void *argument) { (*static_cast<Callable *>(argument))(); }, static_cast<void *>(&body));
}

}  // namespace pgtrain::pg::boundary

// Defines the SQL-callable function NAME (its symbol must start with pgtrain_); the body follows in braces and sees
// `fcinfo`. The first declaration fixes the visibility, which servers before 16 leave out of their own.
#define PGTRAIN_FUNCTION(NAME)                                                  \
  static Datum NAME##_body(FunctionCallInfo fcinfo);                            \
  extern "C" {                                                                  \
  PGDLLEXPORT Datum NAME(PG_FUNCTION_ARGS);                                     \
  PG_FUNCTION_INFO_V1(NAME);                                                    \
  Datum NAME(PG_FUNCTION_ARGS) {                                                \
    return pgtrain::pg::boundary::enter(NAME##_body, fcinfo);                   \
  }                                                                             \
  }                                                                             \
  static Datum NAME##_body([[maybe_unused]] FunctionCallInfo fcinfo)

// The same without the door, for a leaf that neither throws nor raises and runs once per row. The body stands for itself.
#define PGTRAIN_LEAF_FUNCTION(NAME)      \
  extern "C" {                           \
  PGDLLEXPORT Datum NAME(PG_FUNCTION_ARGS); \
  PG_FUNCTION_INFO_V1(NAME);             \
  }                                      \
  Datum NAME([[maybe_unused]] FunctionCallInfo fcinfo)
