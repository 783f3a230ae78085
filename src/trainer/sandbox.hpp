// sandbox.hpp: what the trainer gives up before it reads its job, so that a hostile model file that takes it over
// still cannot start programs, read the server's files, reach the network or touch other processes.
// Each part is best effort, since kernels and containers differ, and each is reported. CUDA devices stay usable.
#pragma once

#include <string>
#include <vector>

namespace pgtrain::trainer {

/// What was put in place and what was not, for the log.
struct SandboxReport {
  bool has_no_new_privileges = false;
  bool has_file_rules = false;
  bool has_call_filter = false;
  std::vector<std::string> gaps;  ///< one sentence for each part that the system does not offer

  /// One line for a log.
  std::string text() const;
};

/// Confines this process: reads only from system folders, the program's own folder, devices and the working folder;
/// writes only in the working folder; no new process, no network, no signals or memory access to others, no core
/// dump. Call once, before any thread starts and before any file of the job is opened. Cannot be undone.
SandboxReport enter_sandbox();

}  // namespace pgtrain::trainer
