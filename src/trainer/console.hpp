// console.hpp: a run watched by a person: messages as lines of text, the interrupt key as Pause.
#pragma once

#include "trainer/channel.hpp"

namespace pgtrain::trainer {

class Console : public Channel {
 public:
  Console();
  void send(const protocol::UpMessage& message) override;
  void announce(const protocol::up::File& file) override;
  void wait_until_stored() override {}
  Stop stop_requested() override;
  void worked() override {}
};

}  // namespace pgtrain::trainer
