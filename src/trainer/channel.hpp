// channel.hpp: where a run's messages go and where its orders come from: the pipe to a worker, or a person's terminal.
// Called by run.cpp, implemented by pipe_channel.hpp and console.cpp.
#pragma once

#include "trainer/session.hpp"

namespace pgtrain::trainer {

class Channel {
 public:
  virtual ~Channel() = default;

  virtual void send(const protocol::UpMessage& message) = 0;

  /// Announces a finished file of the working folder; it is left alone until it is stored.
  virtual void announce(const protocol::up::File& file) = 0;

  /// Waits until every announced file is stored, or nobody will store it any more, or the run is cancelled.
  virtual void wait_until_stored() = 0;

  virtual Stop stop_requested() = 0;

  /// Notes that a piece of work was done.
  virtual void worked() = 0;
};

/// The pipe to a worker.
class PipeChannel : public Channel {
 public:
  explicit PipeChannel(Session& session) : session_(session) {}
  void send(const protocol::UpMessage& message) override {
    std::visit([this](const auto& inner) { session_.send(inner); }, message);
  }
  void announce(const protocol::up::File& file) override { session_.announce(file); }
  void wait_until_stored() override { session_.wait_for_acks(0); }
  Stop stop_requested() override { return session_.stop_requested(); }
  void worked() override { session_.worked(); }

 private:
  Session& session_;
};

}  // namespace pgtrain::trainer
