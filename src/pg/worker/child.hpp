// One trainer process, owned by one object that can only be ended by having been waited for: asked, then terminated, then
// killed. Started by fork and exec in a process group of its own, with nothing inherited but three pipes, a fresh
// environment and a working folder; it dies with its parent. No server headers: usable by backends and workers alike.
// The process kills what is left of its children on exit through kill_children, which its caller registers.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::pg::worker {

struct ChildCommand {
  std::vector<std::string> arguments;    // first: absolute path of the program
  std::vector<std::string> environment;  // NAME=value
  std::string folder;                    // working folder
};

// How a child ended, as data.
struct ExitStatus {
  bool is_exit = false;  // false: by a signal
  int code = 0;          // exit code or signal number
  std::string describe() const;
};

class Child {
 public:
  Child() = default;
  ~Child() { kill_and_wait(); }
  Child(const Child &) = delete;
  Child &operator=(const Child &) = delete;

  // Starts the program; throws Error with the reason when that fails.
  void start(const ChildCommand &command);

  bool is_started() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  int output_descriptor() const { return output_; }

  // Appends what can be read now of standard output. False at end of file.
  bool read_output(std::string &bytes, size_t most);
  // The same for the error stream; never reports its end.
  void read_errors(std::string &bytes, size_t most);

  // Queues bytes for standard input and writes what the pipe takes now. `flush` tries again. Losing the reader is no
  // error here: the end of its output tells.
  void write(std::string_view bytes);
  void flush();
  bool has_unwritten() const { return !unwritten_.empty(); }
  // End of input: asks the trainer to leave.
  void close_input();

  void terminate();            // SIGTERM to its group
  void kill_now();             // SIGKILL to its group
  bool poll_exit(ExitStatus &status);
  ExitStatus kill_and_wait();

 private:
  void kill_and_wait_only();
  void close_all();

  pid_t pid_ = 0;
  int input_ = -1, output_ = -1, errors_ = -1;
  std::string unwritten_;
  ExitStatus status_;
};

// Kills all children of this process and waits for them; for exit callbacks.
void kill_children();

}  // namespace pgtrain::pg::worker
