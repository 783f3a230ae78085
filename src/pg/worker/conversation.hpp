// One job of a session: a trainer that is a child of this backend, from its start to its last word. A cancelled or terminated
// statement ends it. Called by the functions that compute plans, write text and import models.
#pragma once

#include <functional>
#include <string>

#include "pg/compat.hpp"

#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

// A name for the job folder that no other job of this or another process has.
std::string session_folder_name();

// A job with the settings that all jobs of sessions share; `selector` names the device.
protocol::down::Job session_job(protocol::JobKind kind, const std::string &selector);

// Hears every message but Failed, in order.
using Listener = std::function<void(const protocol::UpMessage &)>;

// Runs one job to its Done. Failed, a crash, silence and interrupts leave by exceptions; the trainer dies with its object.
// `name` is put before its lines in the server log.
void converse(const std::string &name, const std::string &folder, const protocol::down::Job &job, const Listener &listener);

}  // namespace pgtrain::pg::worker
