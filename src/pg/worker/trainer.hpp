// The worker's (or a backend's) end of the pipe: starts the trainer program, says hello, sends the job, and hands out what
// the trainer says as decoded messages. Waiting honours the latch, interrupts and the death of the postmaster.
// Everything that the trainer does wrong comes out as a value (Broken), not as an error of the server.
#pragma once

#include <string>
#include <vector>

#include "pg/compat.hpp"

#include "pg/worker/child.hpp"
#include "protocol/frame.hpp"
#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

// The command of the trainer program by the settings, with these arguments.
ChildCommand trainer_command(std::vector<std::string> arguments, const std::string &folder);

class Trainer {
 public:
  enum class State {
    Alive,
    Ended,   // it closed its output
    Broken,  // it broke the rules of the protocol: problem() says how
  };

  // `log_name` is put before the lines of its error stream in the server log.
  explicit Trainer(std::string log_name) : log_name_(std::move(log_name)) {}

  void start(const std::string &folder, const protocol::down::Job &job);

  template <class Message>
  void send(const Message &message) {
    child_.write(protocol::encode(message));
  }

  // Waits for the latch, output or the timeout, and appends what was said. May throw (interrupts).
  State listen(long timeout_ms, std::vector<protocol::UpMessage> &messages);

  Child &child() { return child_; }
  const std::string &problem() const { return problem_; }
  bool said_hello() const { return said_hello_; }
  // True when the latch, and not the trainer or the clock, ended the last wait.
  bool was_woken() const { return was_woken_; }

  // Writes what is left of the error stream to the log. Called once it has ended.
  void drain_errors();

 private:
  State take_frames(std::vector<protocol::UpMessage> &messages);
  State broken(std::string problem);
  bool floods(size_t bytes, size_t frames);
  void relay_errors();

  std::string log_name_;
  Child child_;
  protocol::FrameReader reader_{protocol::Direction::Up};
  std::string problem_;
  std::string error_text_;
  bool said_hello_ = false;
  bool was_woken_ = false;
  size_t window_bytes_ = 0, window_frames_ = 0;
  int64_t window_start_ = 0;
  int log_lines_ = 0, lines_left_out_ = 0;
  int64_t log_window_start_ = 0;
};

// Lets children die with this process also when it exits by itself. Called before the first start.
void register_child_cleanup();

// Runs the program to its end and returns its output, at most `most_bytes`. Throws Error when it fails or takes too long.
std::string run_trainer_for_text(std::vector<std::string> arguments, const std::string &folder, long timeout_ms, size_t most_bytes);

}  // namespace pgtrain::pg::worker
