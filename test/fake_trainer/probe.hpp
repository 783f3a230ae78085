// probe.hpp: tries from inside the sandbox what it must forbid.
#pragma once

namespace pgtrain::fake_trainer {

/// Enters the trainer's sandbox, tries each forbidden and each needed act, and prints one line `act: errno name` or
/// `act: ok` for each. Returns 0; the test judges.
int probe_sandbox(const char* forbidden_file);

}  // namespace pgtrain::fake_trainer
