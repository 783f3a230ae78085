// session.cpp: the reading thread, the heart and the writing of the trainer's end of the pipe.
#include "trainer/session.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace pgtrain::trainer {

using namespace protocol;
using Clock = std::chrono::steady_clock;

namespace {

// Written to by the handler. A handler and not a blocked signal with signalfd: a library that starts threads while it is
// loaded leaves the signal open in them, and its default action would end the process.
std::atomic<int> asked_to_leave{-1};

void on_polite_signal(int) {
  const int error = errno;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(asked_to_leave.load(), &one, sizeof one);
  errno = error;
}

void wait_writable(int descriptor) {
  pollfd watched = {descriptor, POLLOUT, 0};
  poll(&watched, 1, 1000);
}

uint64_t resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  unsigned long size = 0, resident = 0;
  const int fields = std::fscanf(file, "%lu %lu", &size, &resident);
  std::fclose(file);
  return fields == 2 ? static_cast<uint64_t>(resident) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace

void prepare_signals() {
  signal(SIGPIPE, SIG_IGN);
  if (asked_to_leave.load() < 0) asked_to_leave = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct sigaction action = {};
  action.sa_handler = on_polite_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

Session::Session(int input, int output) : input_(input), output_(output) {
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  reader_ = std::thread([this] { read_loop(); });
}

Session::~Session() {
  {
    std::lock_guard lock(state_mutex_);
    is_closing_ = true;
  }
  state_changed_.notify_all();
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);
  reader_.join();
  if (heart_.joinable()) heart_.join();
  if (wake_ >= 0) close(wake_);
}

bool Session::receive(down::Job& job) {
  std::unique_lock lock(state_mutex_);
  state_changed_.wait(lock, [this] { return job_.has_value() || stop_requested() != Stop::None || is_deserted(); });
  if (!job_) return false;
  job = std::move(*job_);
  grace_ms_ = job.grace_ms;
  return true;
}

bool Session::send_frame(const std::string& frame, bool is_last) {
  std::lock_guard lock(write_mutex_);
  if (has_ended_) return false;
  has_ended_ = is_last;
  return write_all(frame);
}

bool Session::send_bytes(const std::string& bytes) {
  std::lock_guard lock(write_mutex_);
  return write_all(bytes);
}

// The write lock is held.
bool Session::write_all(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size() && !is_output_lost_.load()) {
    const ssize_t count = write(output_, bytes.data() + sent, bytes.size() - sent);
    if (count > 0)
      sent += static_cast<size_t>(count);
    else if (count < 0 && errno == EAGAIN)
      wait_writable(output_);  // the peer may share its end as non-blocking
    else if (errno != EINTR)
      desert(is_output_lost_);
  }
  return sent == bytes.size();
}

bool Session::announce(const up::File& file) {
  {
    std::lock_guard lock(state_mutex_);
    open_files_.insert(file.name);
  }
  return send(file);
}

bool Session::wait_for_acks(size_t open_allowed) {
  std::unique_lock lock(state_mutex_);
  while (open_files_.size() > open_allowed && stop_requested() != Stop::Cancel && !is_deserted()) {
    worked();  // waiting for the worker is not hanging
    state_changed_.wait_for(lock, std::chrono::milliseconds(200));
  }
  return open_files_.size() <= open_allowed;
}

void Session::on_ack(std::function<void(const std::string&)> handler) {
  std::lock_guard lock(state_mutex_);
  ack_handler_ = std::move(handler);
}

void Session::start_heartbeat(std::chrono::milliseconds interval) {
  heart_ = std::thread([this, interval] { beat_loop(std::max(interval, std::chrono::milliseconds(10))); });
}

void Session::beat_loop(std::chrono::milliseconds interval) {
  uint64_t last = 0;
  std::unique_lock lock(state_mutex_);
  while (!state_changed_.wait_for(lock, interval, [this] { return is_closing_ || is_output_lost_.load(); })) {
    const uint64_t now = work_units_.load(std::memory_order_relaxed);
    if (now == last) continue;
    last = now;
    lock.unlock();
    send(up::Heartbeat{now, resident_bytes()});
    lock.lock();
  }
}

void Session::read_loop() {
  FrameReader reader(Direction::Down);
  std::optional<Clock::time_point> deadline;
  for (;;) {
    pollfd watched[3] = {{wake_, POLLIN, 0}, {asked_to_leave, POLLIN, 0}, {is_input_over_ ? -1 : input_, POLLIN, 0}};
    poll(watched, 3, deadline ? 50 : 1000);
    if (watched[0].revents != 0) return;
    if (watched[1].revents != 0) read_signals();
    if (watched[2].revents != 0 && !read_input(reader)) desert(is_input_over_);
    if (!is_deserted()) continue;
    if (!deadline) deadline = Clock::now() + std::chrono::milliseconds(grace_ms_.load());
    // The worker has gone or waits for our end, and the checkpoint did not come in time.
    if (Clock::now() > *deadline) _exit(static_cast<int>(ExitCode::PeerGone));
  }
}

void Session::read_signals() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t taken = read(asked_to_leave, &count, sizeof count);
  Stop none = Stop::None;
  stop_.compare_exchange_strong(none, Stop::Pause);
  std::lock_guard lock(state_mutex_);
  state_changed_.notify_all();
}

// False: end of input or a peer that broke the rules.
bool Session::read_input(FrameReader& reader) {
  char buffer[65536];
  const ssize_t count = read(input_, buffer, sizeof buffer);
  if (count < 0) return errno == EINTR || errno == EAGAIN;
  if (count == 0) return false;
  reader.feed({buffer, static_cast<size_t>(count)});
  Frame frame;
  for (;;) {
    switch (reader.next(frame)) {
      case FrameReader::Status::NeedMore:
        return true;
      case FrameReader::Status::Broken:
        refuse(reader.error());
        return false;
      case FrameReader::Status::Ready:
        if (!handle(frame)) return false;
    }
  }
}

bool Session::handle(const Frame& frame) {
  DownMessage message;
  std::string error;
  if (!decode(frame, message, error)) {
    refuse(error);
    return false;
  }
  if (const auto* hello = std::get_if<down::Hello>(&message)) {
    if (hello->version != protocol_version) {
      refuse(version_mismatch_text(protocol_version, hello->version, hello->build));
      return false;
    }
    has_hello_ = true;
    return true;
  }
  if (!has_hello_) {
    refuse(std::string("message '") + frame.type + "' came before Hello");
    return false;
  }
  std::function<void(const std::string&)> handler;
  std::string acknowledged;
  {
    std::lock_guard lock(state_mutex_);
    if (auto* job = std::get_if<down::Job>(&message)) {
      if (job_) error = "a second Job came; a trainer does one";
      job_ = std::move(*job);
    } else if (std::holds_alternative<down::Cancel>(message)) {
      stop_ = Stop::Cancel;
    } else if (std::holds_alternative<down::Pause>(message)) {
      Stop none = Stop::None;
      stop_.compare_exchange_strong(none, Stop::Pause);
    } else if (auto* ack = std::get_if<down::Ack>(&message)) {
      if (open_files_.count(ack->name) == 0) error = "an Ack came for \"" + ack->name + "\", which was not announced";
      acknowledged = ack->name;
      handler = ack_handler_;
    }
  }
  if (!error.empty()) {
    refuse(error);
    return false;
  }
  if (!acknowledged.empty()) {
    // The handler deletes the file, so the name is free for reuse only after it ran.
    if (handler) handler(acknowledged);
    std::lock_guard lock(state_mutex_);
    open_files_.erase(acknowledged);
  }
  state_changed_.notify_all();
  return true;
}

void Session::refuse(const std::string& why) {
  is_peer_broken_ = true;
  send(up::Failed{FailureCode::ProtocolViolation, "the worker broke the protocol: " + why, "",
                  "Install module and trainer of one release and restart the server."});
}

void Session::desert(std::atomic<bool>& which) {
  std::lock_guard lock(state_mutex_);  // else a waiter between its test and its sleep misses the news
  which = true;
  Stop none = Stop::None;
  stop_.compare_exchange_strong(none, Stop::Pause);
  state_changed_.notify_all();
}

}  // namespace pgtrain::trainer
