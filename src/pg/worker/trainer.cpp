// See trainer.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
}

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "pg/call/guard.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/trainer.hpp"

namespace pgtrain::pg::worker {
namespace {

constexpr size_t read_at_once = 1 << 20;
// Far above what a trainer has to say in a second; whoever says more only wears the server out.
constexpr size_t flood_bytes = 32 << 20;
constexpr size_t flood_frames = 50000;
constexpr int64_t second_us = 1000000;
constexpr int most_log_lines = 50;  // in ten seconds
constexpr size_t longest_log_line = 1000;

std::vector<std::string> words_of(const char *text) {
  std::istringstream stream(text == nullptr ? "" : text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// True when the latch was set.
bool wait(int descriptor, long timeout_ms) {
  return call::guarded([&] {
    const int events = WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
    const int happened = WaitLatchOrSocket(MyLatch, events, descriptor, timeout_ms, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
    return (happened & WL_LATCH_SET) != 0;
  });
}

void kill_children_on_exit(int, Datum) { kill_children(); }

}  // namespace

void register_child_cleanup() {
  static bool is_registered = false;
  if (is_registered) return;
  is_registered = true;
  before_shmem_exit(kill_children_on_exit, 0);
}

ChildCommand trainer_command(std::vector<std::string> arguments, const std::string &folder) {
  ChildCommand command;
  command.arguments = words_of(worker_settings.trainer_program);
  if (command.arguments.empty()) command.arguments.push_back(std::string(pkglib_path) + "/pgtrain-trainer");
  command.arguments.insert(command.arguments.end(), arguments.begin(), arguments.end());
  for (std::string &word : words_of(worker_settings.trainer_environment))
    if (word.find('=') != std::string::npos) command.environment.push_back(std::move(word));
  // Only what the administrator did not say: programs differ in which of two words with one name they take.
  const auto add = [&](const std::string &name, const std::string &value) {
    for (const std::string &word : command.environment)
      if (word.starts_with(name + "=")) return;
    command.environment.push_back(name + "=" + value);
  };
  add("PATH", "/usr/local/bin:/usr/bin:/bin");
  add("LANG", "C.UTF-8");
  add("HOME", folder);
  add("TMPDIR", folder);
  // Which cards this service may use and where a container keeps the driver: without these the trainer sees another machine.
  for (const char *name : {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH"})
    if (const char *value = getenv(name)) add(name, value);
  command.folder = folder;
  return command;
}

void Trainer::start(const std::string &folder, const protocol::down::Job &job) {
  register_child_cleanup();
  child_.start(trainer_command({}, folder));
  send(protocol::down::Hello{protocol::protocol_version, protocol::build_id()});
  send(job);
}

Trainer::State Trainer::broken(std::string problem) {
  problem_ = std::move(problem);
  return State::Broken;
}

bool Trainer::floods(size_t bytes, size_t frames) {
  const int64_t now = GetCurrentTimestamp();
  if (now - window_start_ > second_us) {
    window_start_ = now;
    window_bytes_ = window_frames_ = 0;
  }
  window_bytes_ += bytes;
  window_frames_ += frames;
  return window_bytes_ > flood_bytes || window_frames_ > flood_frames;
}

Trainer::State Trainer::take_frames(std::vector<protocol::UpMessage> &messages) {
  protocol::Frame frame;
  size_t frames = 0;
  for (;;) {
    switch (reader_.next(frame)) {
      case protocol::FrameReader::Status::NeedMore:
        return floods(0, frames) ? broken("it sent more than " + std::to_string(flood_frames) + " messages in a second") : State::Alive;
      case protocol::FrameReader::Status::Broken: return broken(reader_.error());
      case protocol::FrameReader::Status::Ready: break;
    }
    protocol::UpMessage message;
    std::string error;
    if (!protocol::decode(frame, message, error)) return broken(error);
    if (const auto *hello = std::get_if<protocol::up::Hello>(&message)) {
      if (hello->version != protocol::protocol_version)
        return broken(protocol::version_mismatch_text(protocol::protocol_version, hello->version, hello->build));
      if (said_hello_) return broken("it said hello twice");
      said_hello_ = true;
    } else if (!said_hello_) {
      return broken("its first message was not hello");
    }
    messages.push_back(std::move(message));
    ++frames;
  }
}

Trainer::State Trainer::listen(long timeout_ms, std::vector<protocol::UpMessage> &messages) {
  was_woken_ = wait(child_.output_descriptor(), timeout_ms);
  child_.flush();
  relay_errors();
  std::string bytes;
  const bool is_open = child_.read_output(bytes, read_at_once);
  if (floods(bytes.size(), 0)) return broken("it sent more than " + std::to_string(flood_bytes) + " bytes in a second");
  reader_.feed(bytes);
  const State state = take_frames(messages);
  if (state == State::Broken || is_open) return state;
  if (reader_.is_inside_frame()) return broken("its output ended within a message");
  return State::Ended;
}

void Trainer::relay_errors() {
  std::string text;
  child_.read_errors(text, 65536);
  error_text_ += text;
  const int64_t now = GetCurrentTimestamp();
  if (now - log_window_start_ > 10 * second_us) {
    if (lines_left_out_ > 0) ereport(LOG, (errmsg("%s: %d more lines left out", log_name_.c_str(), lines_left_out_)));
    log_window_start_ = now;
    log_lines_ = lines_left_out_ = 0;
  }
  for (size_t end; (end = error_text_.find('\n')) != std::string::npos || error_text_.size() > longest_log_line;) {
    const size_t length = std::min(end, longest_log_line);
    const std::string line = protocol::clean_utf8(std::string_view(error_text_).substr(0, length));
    error_text_.erase(0, std::min(error_text_.size(), length + (length == end ? 1 : 0)));
    if (line.empty()) continue;
    if (++log_lines_ <= most_log_lines) ereport(LOG, (errmsg("%s: %s", log_name_.c_str(), line.c_str())));
    else ++lines_left_out_;
  }
}

void Trainer::drain_errors() {
  error_text_ += '\n';
  relay_errors();
}

std::string run_trainer_for_text(std::vector<std::string> arguments, const std::string &folder, long timeout_ms, size_t most_bytes) {
  register_child_cleanup();
  Child child;
  const ChildCommand command = trainer_command(std::move(arguments), folder);
  child.start(command);
  child.close_input();
  std::string output, errors;
  const TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
  for (bool is_open = true; is_open;) {
    const long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
    if (left <= 0) throw Error(code::TrainerFailed, "\"" + command.arguments[0] + "\" did not answer in " + std::to_string(timeout_ms) + " ms");
    (void)wait(child.output_descriptor(), std::min(left, 200L));
    child.read_errors(errors, 4096);
    if (errors.size() > 4096) errors.resize(4096);
    is_open = child.read_output(output, 65536);
    if (output.size() > most_bytes) throw Error(code::TrainerFailed, "\"" + command.arguments[0] + "\" said too much");
  }
  ExitStatus status;
  while (!child.poll_exit(status)) {
    if (GetCurrentTimestamp() > deadline) {
      status = child.kill_and_wait();
      break;
    }
    call::guarded([] {
      (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5, PG_WAIT_EXTENSION);
      ResetLatch(MyLatch);
      CHECK_FOR_INTERRUPTS();
    });
  }
  child.read_errors(errors, 4096);
  if (!status.is_exit || status.code != 0)
    throw Error(code::TrainerFailed, "\"" + command.arguments[0] + "\" failed: " + status.describe(), protocol::clean_utf8(errors));
  return output;
}

}  // namespace pgtrain::pg::worker
