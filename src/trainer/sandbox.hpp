// sandbox.hpp: what the trainer gives up before it reads its job, so that a hostile model file that takes it over
// still cannot start programs, read the server's files, reach the network or touch other processes.
// Each part is best effort, since kernels and containers differ, and each is reported. CUDA devices stay usable; should a
// driver need what is refused here, PGTRAIN_SANDBOX in the trainer's environment keeps only a part: files, calls or off.
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

/// First half: file rules (reads only from system folders, the program's own folder, devices, the working folder and where its
/// link `base` leads; writes only in the working folder). They bind the calling thread, the threads it starts and the program it becomes,
/// but not threads that libraries started while they were loaded: hence the program is started again after this.
/// Returns the outcome for the second half.
std::string enter_file_rules();

/// Second half, for all threads: no new process or program, no network, no signals or memory access to others, no core
/// dump. Call before any file of the job is opened. Cannot be undone.
SandboxReport enter_sandbox(const std::string& file_rules_outcome);

/// Whether enter_sandbox put file rules or the call filter in place in this process.
bool is_in_sandbox();

}  // namespace pgtrain::trainer
