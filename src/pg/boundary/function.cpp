// The inward door, see function.hpp. The fields of an exception wait in a static buffer: copying them allocates nothing,
// so it cannot fail inside a catch block, and a backend has one thread.
#include "pg/boundary/function.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "pg/call/guard.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::boundary {
namespace {

struct Pending {
  ErrorData *server_error;  // set when the error came from the server: raised again unchanged
  char sqlstate[6];
  char message[4096];
  char detail[8192];
  char hint[4096];
};

Pending pending;

// Cuts at a character border: half a character would make the error report itself fail.
template <size_t Size>
void copy_text(char (&target)[Size], const char *source) {
  size_t length = std::min(std::strlen(source), Size - 1);
  if (source[length] != '\0')
    while (length > 0 && (static_cast<unsigned char>(source[length]) & 0xC0) == 0x80) --length;
  std::memcpy(target, source, length);
  target[length] = '\0';
}

void set_pending(const char *sqlstate, const char *message, const char *detail, const char *hint) {
  pending.server_error = nullptr;
  copy_text(pending.sqlstate, sqlstate);
  copy_text(pending.message, message);
  copy_text(pending.detail, detail);
  copy_text(pending.hint, hint);
}

// Called within a catch block: looks at the exception in flight.
void remember_current_exception() {
  try {
    throw;
  } catch (const call::ServerError &error) {
    set_pending(error.sqlstate(), error.what(), error.detail().c_str(), error.hint().c_str());
    pending.server_error = error.server_data();
  } catch (const Error &error) {
    set_pending(error.sqlstate(), error.what(), error.detail().c_str(), error.hint().c_str());
  } catch (const std::bad_alloc &) {
    set_pending(code::OutOfMemory.sqlstate, "pgtrain: out of memory", "", "");
  } catch (const std::exception &error) {
    set_pending(code::Internal.sqlstate, error.what(), "", "");
  } catch (...) {
    set_pending(code::Internal.sqlstate, "pgtrain: unknown C++ exception", "", "");
  }
}

[[noreturn]] void raise_pending() {
  if (pending.server_error != nullptr) ReThrowError(pending.server_error);
  const char *state = pending.sqlstate;
  ereport(ERROR, (errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4])),
                  errmsg_internal("%s", pending.message),
                  pending.detail[0] != '\0' ? errdetail_internal("%s", pending.detail) : 0,
                  pending.hint[0] != '\0' ? errhint("%s", pending.hint) : 0));
  pg_unreachable();
}

}  // namespace

Datum enter(Body body, FunctionCallInfo fcinfo) {
  try {
    return body(fcinfo);
  } catch (...) {
    remember_current_exception();
  }
  raise_pending();
}

void run_protected(void (*body)(void *), void *argument) {
  try {
    body(argument);
    return;
  } catch (...) {
    remember_current_exception();
  }
  raise_pending();
}

}  // namespace pgtrain::pg::boundary
