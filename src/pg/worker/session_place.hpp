// A place for a trainer that a session starts for itself (generate, evaluate, import, plans): each holds a model in memory and all
// threads of the processor, so the sessions of one user have pgtrain.session_trainers of them together, and more wait. A place is a
// locked file: the system gives it back when its process ends, however that happens. Nobody's sessions, which are the server's
// administrators', have no bound.
#pragma once

namespace pgtrain::pg::worker {

class SessionPlace {
 public:
  // Waits for one, at most as long as a trainer may take to start; TooManyRequests then. Interrupts are honoured.
  SessionPlace();
  ~SessionPlace();
  SessionPlace(const SessionPlace &) = delete;
  SessionPlace &operator=(const SessionPlace &) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace pgtrain::pg::worker
