// The outward door: C++ code that holds objects calls the server only through `guarded`. A server error raised inside
// becomes a ServerError with the same four fields. Rules for the body given to `guarded`: no object with a destructor
// may be alive inside it across a server call that can raise (objects outside of it are safe).
// A caught ServerError is raised again, unless it came out of `subtransaction`, which has rolled its work back.
#pragma once

#include <type_traits>

#include "pg/compat.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::call {

// A server error travelling as an exception. `server_data` is valid until the end of the transaction it arose in, and
// null once the error was dealt with by a subtransaction's rollback and only its fields count.
class ServerError : public Error {
 public:
  ServerError(const ErrorData *data, ErrorData *rethrowable);
  ErrorData *server_data() const noexcept { return rethrowable_; }

 private:
  ErrorData *rethrowable_;
};

// Runs `body(argument)` under a guard of its own. Throws ServerError; C++ exceptions of the body pass through.
void guarded(void (*body)(void *), void *argument);

template <class Callable>
auto guarded(Callable &&body) -> std::invoke_result_t<Callable &> {
  using Result = std::invoke_result_t<Callable &>;
  using Plain = std::remove_reference_t<Callable>;
  if constexpr (std::is_void_v<Result>) {
    guarded([](void *argument) { (*static_cast<Plain *>(argument))(); }, const_cast<void *>(static_cast<const void *>(&body)));
  } else {
    // A plain value only: an object returned from inside could be half built when a jump passes it.
    static_assert(std::is_trivially_copyable_v<Result>, "return a plain value from a guarded body");
    struct Frame {
      Plain *body;
      Result result;
    } frame{&body, Result{}};
    guarded([](void *argument) { auto *f = static_cast<Frame *>(argument); f->result = (*f->body)(); }, &frame);
    return frame.result;
  }
}

// Runs `body` in a subtransaction of its own: committed when it returns, rolled back when a server error or an
// exception leaves it, which is then thrown on and may be swallowed. Needs a transaction.
void subtransaction(void (*body)(void *), void *argument);

template <class Callable>
void subtransaction(Callable &&body) {
  using Plain = std::remove_reference_t<Callable>;
  subtransaction([](void *argument) { (*static_cast<Plain *>(argument))(); },
                 const_cast<void *>(static_cast<const void *>(&body)));
}

}  // namespace pgtrain::pg::call
