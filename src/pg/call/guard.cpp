// The outward door, see guard.hpp. One jump buffer per guarded call; exceptions of the body never unwind over it,
// because that would leave the server's handler stack pointing at a dead frame.
#include "pg/call/guard.hpp"

extern "C" {
#include "access/xact.h"
#include "utils/resowner.h"
}

#include <exception>
#include <string>

namespace pgtrain::pg::call {
namespace {

std::string text_or_empty(const char *text) { return text == nullptr ? std::string() : std::string(text); }

// Copies the error out of the server's error state. The copy lives as long as the transaction, because that is how long
// the error may be raised again; without a transaction it lives in the process's top context.
ErrorData *take_server_error() {
  MemoryContext home = TopTransactionContext != nullptr ? TopTransactionContext : TopMemoryContext;
  MemoryContext previous = MemoryContextSwitchTo(home);
  ErrorData *copy = CopyErrorData();
  MemoryContextSwitchTo(previous);
  FlushErrorState();
  return copy;
}

struct Outcome {
  ErrorData *server_error = nullptr;
  std::exception_ptr exception;
};

// Its own frame, so that no local of a caller can be clobbered by the jump.
__attribute__((noinline)) void run(void (*body)(void *), void *argument, Outcome *outcome) {
  sigjmp_buf *const saved_stack = PG_exception_stack;
  ErrorContextCallback *const saved_context_stack = error_context_stack;
  const MemoryContext saved_memory = CurrentMemoryContext;
  sigjmp_buf buffer;

  if (sigsetjmp(buffer, 0) == 0) {
    PG_exception_stack = &buffer;
    try {
      body(argument);
    } catch (...) {
      outcome->exception = std::current_exception();
    }
    PG_exception_stack = saved_stack;
    error_context_stack = saved_context_stack;
  } else {
    PG_exception_stack = saved_stack;
    error_context_stack = saved_context_stack;
    MemoryContextSwitchTo(saved_memory);
    outcome->server_error = take_server_error();
  }
}

}  // namespace

ServerError::ServerError(const ErrorData *data, ErrorData *rethrowable)
    : Error(unpack_sql_state(data->sqlerrcode), text_or_empty(data->message), text_or_empty(data->detail),
            text_or_empty(data->hint)),
      rethrowable_(rethrowable) {}

void guarded(void (*body)(void *), void *argument) {
  Outcome outcome;
  run(body, argument, &outcome);
  if (outcome.exception) std::rethrow_exception(outcome.exception);
  if (outcome.server_error != nullptr) throw ServerError(outcome.server_error, outcome.server_error);
}

void subtransaction(void (*body)(void *), void *argument) {
  const MemoryContext memory = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  guarded([] { BeginInternalSubTransaction(nullptr); });
  MemoryContextSwitchTo(memory);

  struct Frame {
    void (*body)(void *);
    void *argument;
    MemoryContext memory;
  } frame{body, argument, memory};
  Outcome outcome;
  run(
      [](void *plain) {
        auto *f = static_cast<Frame *>(plain);
        f->body(f->argument);
      },
      &frame, &outcome);
  if (!outcome.exception && outcome.server_error == nullptr)
    // Deferred work of the subtransaction may still fail here, and then it is rolled back like any other failure.
    run([](void *) { ReleaseCurrentSubTransaction(); }, nullptr, &outcome);

  if (!outcome.exception && outcome.server_error == nullptr) {
    MemoryContextSwitchTo(memory);
    CurrentResourceOwner = owner;
    return;
  }
  guarded([] { RollbackAndReleaseCurrentSubTransaction(); });
  MemoryContextSwitchTo(memory);
  CurrentResourceOwner = owner;
  if (outcome.exception) std::rethrow_exception(outcome.exception);
  throw ServerError(outcome.server_error, nullptr);
}

}  // namespace pgtrain::pg::call
