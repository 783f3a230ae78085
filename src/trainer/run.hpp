// run.hpp: does the one job of this process: plan, train or generate. Every error becomes a Failed message.
#pragma once

#include "trainer/channel.hpp"

namespace pgtrain::trainer {

/// Files of the job are looked for in the working folder, which is where everything is written too.
ExitCode execute(const protocol::down::Job& job, Channel& channel);

}  // namespace pgtrain::trainer
