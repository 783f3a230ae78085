// One job of a session: a trainer that is a child of this backend, from its start to its last word. A cancelled or terminated
// statement ends it. Called by the functions that compute plans, write text and import models.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pg/compat.hpp"

#include "pg/worker/session_place.hpp"
#include "pg/worker/trainer.hpp"
#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

// A name for the job folder that no other job of this or another process has.
std::string session_folder_name();

// A job with the settings that all jobs of sessions share; `selector` names the device.
protocol::down::Job session_job(protocol::JobKind kind, const std::string &selector);

// Such a job, listened to a message at a time. Failed, a crash, silence and interrupts leave by exceptions; the trainer dies with the
// object, also while it still has something to say.
class Conversation {
 public:
  // `name` is put before its lines in the server log.
  Conversation(const std::string &name, const std::string &folder, const protocol::down::Job &job);
  // The next message; nothing after Done, which is handed out too.
  std::optional<protocol::UpMessage> next();

 private:
  void listen();

  SessionPlace place_;
  Trainer trainer_;
  std::vector<protocol::UpMessage> messages_;
  size_t at_ = 0;
  bool is_done_ = false;
  int64_t heard_at_ = 0;
};

// Hears every message but Failed, in order.
using Listener = std::function<void(const protocol::UpMessage &)>;

// Runs one job to its Done.
void converse(const std::string &name, const std::string &folder, const protocol::down::Job &job, const Listener &listener);

}  // namespace pgtrain::pg::worker
