// faults.hpp: committing a scripted fault. Most do not return.
#pragma once

#include "fake_trainer/script.hpp"
#include "trainer/session.hpp"

namespace pgtrain::fake_trainer {

/// What a fault may need to know of the run.
struct Scene {
  trainer::Session* session = nullptr;
  Script script;
  uint32_t attempt = 0;
};

/// Commits every fault of the script for this point and attempt. Returns when the script says to go on.
void reach(Scene& scene, const std::string& point);

/// Writes raw bytes to standard output until all are out or nobody reads.
bool write_raw(const std::string& bytes);

}  // namespace pgtrain::fake_trainer
