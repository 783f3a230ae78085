// child.hpp: plays the worker for tests: starts a trainer in a job folder of its own, speaks the protocol with it, and
// always ends it by waiting for it. Nothing sleeps: waiting is poll() with a deadline that fails the test.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "protocol/message.hpp"

namespace pgtrain::trainer::test {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// A folder named as a worker names it, removed with all its content at the end.
class JobFolder {
 public:
  explicit JobFolder(uint64_t run_id = 1, uint32_t attempt = 1);
  ~JobFolder();
  JobFolder(const JobFolder&) = delete;
  JobFolder& operator=(const JobFolder&) = delete;

  const fs::path& path() const { return path_; }
  std::string read(const std::string& name) const;
  void write(const std::string& name, const std::string& content) const;
  std::vector<std::string> names() const;  ///< of everything in it, sorted

  /// Writes samples in the trainer's format and returns what a job says of the file.
  protocol::InputFile write_samples(const std::vector<std::string>& texts, const std::string& name = "data.samples") const;

 private:
  fs::path root_, path_;
};

/// How a child ended.
struct Exit {
  int code = -1;       ///< exit code, -1 when it died of a signal
  int signal = 0;      ///< signal number, 0 when it exited
  std::string errors;  ///< what it wrote on its error stream
};

class Child {
 public:
  Child(const std::string& program, const JobFolder& folder, std::vector<std::string> arguments = {});
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  template <class Message>
  void send(const Message& message) {
    send_bytes(protocol::encode(message));
  }
  void send_bytes(const std::string& bytes);
  void close_input();
  void close_output();
  void signal(int number);
  pid_t pid() const { return pid_; }

  /// Waits for the next message; nothing at end of stream, after a broken frame (see error()) or at the deadline.
  std::optional<protocol::UpMessage> next(std::chrono::milliseconds limit = 30s);

  /// True when the last next() came back because its time was over.
  bool is_timed_out() const { return is_timed_out_; }
  const std::string& error() const { return error_; }

  /// Reads all of standard output as text until it ends.
  std::string read_text(std::chrono::milliseconds limit = 60s);

  /// Waits for the end of the process, which must come by itself within the limit.
  Exit wait(std::chrono::milliseconds limit = 30s);

 private:
  bool fill(std::chrono::steady_clock::time_point deadline);

  pid_t pid_ = -1;
  int input_ = -1, output_ = -1, errors_ = -1, process_ = -1;
  protocol::FrameReader reader_{protocol::Direction::Up};
  std::string text_, error_;
  bool is_timed_out_ = false, is_waited_ = false;
};

/// Everything that a trainer said in a run, sorted.
struct Transcript {
  std::vector<protocol::UpMessage> all;
  std::optional<protocol::up::Plan> plan;
  std::optional<protocol::up::Failed> failed;
  std::optional<protocol::up::Done> done;
  std::vector<protocol::up::Progress> progress;
  std::vector<protocol::up::Evaluation> evaluations;
  std::vector<protocol::up::Sample> samples;
  std::vector<protocol::up::Piece> pieces;
  std::optional<protocol::up::Speed> speed;
  std::vector<protocol::up::Heartbeat> heartbeats;
  std::vector<protocol::up::Log> logs;
  std::map<std::string, protocol::up::File> files;
  std::map<std::string, std::string> contents;  ///< of announced files, read before they were acknowledged
  std::string error;                            ///< protocol violation, if any

  void add(const protocol::UpMessage& message);
};

/// A small training job; change what a test is about.
protocol::down::Job small_job(const JobFolder& folder, std::vector<protocol::ConfigPair> config = {});

/// Says Hello and sends the job.
void start_job(Child& child, const protocol::down::Job& job);

/// Plays the worker to the end: stores (reads) and acknowledges files, and calls `watch` at each message; a test sends
/// Cancel or kills from there.
Transcript play(Child& child, const JobFolder& folder, const std::function<void(const protocol::UpMessage&)>& watch = {});

/// start_job and play for a fresh child, with the exit checked to be `code`.
Transcript run_job(const std::string& program, const JobFolder& folder, const protocol::down::Job& job, int code = 0);

}  // namespace pgtrain::trainer::test
