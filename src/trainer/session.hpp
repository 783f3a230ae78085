// session.hpp: the trainer's end of the pipe. One thread reads (messages, end of input, SIGTERM) and one beats the heart;
// the main thread asks stop_requested() and sends. Promises: whole frames only, whichever thread sends; a lost peer
// is noticed and never raises SIGPIPE; no heartbeat while no work moves; once input has ended the process leaves
// within the job's grace time even if the main thread hangs. The peer may close its end and still read ours.
// Used by the trainer and, since it must speak the same way, by the fake trainer of the tests.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <type_traits>

#include "protocol/message.hpp"

namespace pgtrain::trainer {

/// How the process ends, for the worker's log; what happened is in the last message.
enum class ExitCode : int { Done = 0, Failed = 1, ProtocolViolation = 2, PeerGone = 4 };

enum class Stop : uint8_t { None, Cancel, Pause };

class Session {
 public:
  /// Takes over both descriptors. prepare_signals() must have been called.
  Session(int input, int output);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Waits for the peer's Hello and Job. False: the peer left, broke the rules or stopped us; exit_code() says which.
  bool receive(protocol::down::Job& job);

  /// Sends a message; false when nobody reads. May block while the pipe is full. Failed and Done are the last word: what
  /// another thread, the heart, says after them is left out (false).
  template <class Message>
  bool send(const Message& message) {
    constexpr bool is_last = std::is_same_v<Message, protocol::up::Failed> || std::is_same_v<Message, protocol::up::Done>;
    return send_frame(protocol::encode(message), is_last);
  }

  /// Writes bytes as they are, between whole frames.
  bool send_bytes(const std::string& bytes);

  /// Sends a file announcement and remembers that its Ack is open.
  bool announce(const protocol::up::File& file);

  /// Waits until no more than `open_allowed` announced files lack their Ack. False when told to cancel, or when no Ack
  /// can come any more.
  bool wait_for_acks(size_t open_allowed);

  /// Calls `handler(name)` on the reading thread at each Ack of an announced file.
  void on_ack(std::function<void(const std::string&)> handler);

  /// Beats from now on, each `interval` in which work moved.
  void start_heartbeat(std::chrono::milliseconds interval);

  /// Notes that a piece of work was done.
  void worked() { work_units_.fetch_add(1, std::memory_order_relaxed); }

  Stop stop_requested() const { return stop_.load(std::memory_order_acquire); }

  /// True when input has ended or nobody reads what is sent: no message will come any more.
  bool is_deserted() const { return is_input_over_.load() || is_output_lost_.load(); }

  /// Which exit code a session that could not go on ends with.
  ExitCode exit_code() const { return is_peer_broken_ ? ExitCode::ProtocolViolation : ExitCode::PeerGone; }

 private:
  bool send_frame(const std::string& frame, bool is_last);
  bool write_all(const std::string& bytes);
  void read_loop();
  void read_signals();
  bool read_input(protocol::FrameReader& reader);
  bool handle(const protocol::Frame& frame);
  void refuse(const std::string& why);
  void desert(std::atomic<bool>& which);
  void beat_loop(std::chrono::milliseconds interval);

  const int input_, output_;
  int wake_ = -1;

  std::mutex write_mutex_;  // one frame at a time
  bool has_ended_ = false;  // the last word is said
  std::mutex state_mutex_;  // the fields down to is_closing_
  std::condition_variable state_changed_;
  bool has_hello_ = false;
  std::optional<protocol::down::Job> job_;
  std::set<std::string> open_files_;
  std::function<void(const std::string&)> ack_handler_;
  bool is_closing_ = false;

  std::atomic<Stop> stop_{Stop::None};
  std::atomic<bool> is_input_over_{false}, is_output_lost_{false}, is_peer_broken_{false};
  std::atomic<uint64_t> work_units_{0};
  std::atomic<int64_t> grace_ms_{10000};
  std::thread reader_, heart_;
};

/// Makes SIGTERM and SIGINT mean Pause in every thread, and ignores SIGPIPE. Call before the Session is made.
void prepare_signals();

}  // namespace pgtrain::trainer
