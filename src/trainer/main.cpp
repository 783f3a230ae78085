// main.cpp: the trainer's command line.
//   pgtrain-trainer               speaks the protocol on standard input and output; started by a worker, working folder = job folder
//   pgtrain-trainer devices       what can be trained on here, as lines of JSON
//   pgtrain-trainer run JOB_FILE  does a hand-written job and prints what happens
//   pgtrain-trainer --version     version and build
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine/core/error.hpp"
#include "trainer/console.hpp"
#include "trainer/devices.hpp"
#include "trainer/job_file.hpp"
#include "trainer/run.hpp"
#include "trainer/sandbox.hpp"

namespace pgtrain::trainer {

using namespace protocol;

namespace {

// Set in the second start of the program; its value is '2' and the outcome of the file rules.
constexpr const char* stage_variable = "PGTRAIN_TRAINER_STAGE";

// Starts the program once more, for two reasons. Threads of the engine's libraries spin while they wait, by default for so
// long that two runs on one machine halve each other's speed, and the setting is read when the library is loaded. And
// such threads, begun before main, would be outside the file rules; those of the second start are inside.
void start_again(char** arguments, bool is_serving) {
  if (getenv(stage_variable) != nullptr) return;
  setenv("GOMP_SPINCOUNT", "2000", 0);
  const std::string outcome = is_serving ? enter_file_rules() : "";
  setenv(stage_variable, ("2" + outcome).c_str(), 1);
  execv("/proc/self/exe", arguments);
  setenv(stage_variable, ("2" + (outcome.empty() ? "+file rules for the threads of libraries" : outcome)).c_str(), 1);
}

int serve() {
  // A worker that dies leaves no trainer behind, even if it could not close the pipe.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prepare_signals();
  const SandboxReport sandbox = enter_sandbox(getenv(stage_variable) + 1);
  Session session(STDIN_FILENO, STDOUT_FILENO);
  session.send(up::Hello{protocol_version, build_id(), machine_text()});
  session.send(up::Log{sandbox.gaps.empty() ? LogLevel::Info : LogLevel::Warning, sandbox.text()});
  down::Job job;
  if (!session.receive(job)) return static_cast<int>(session.exit_code());
  session.start_heartbeat(std::chrono::milliseconds(job.heartbeat_ms));
  session.on_ack([](const std::string& name) {
    // Artifacts stay: the worker removes the folder. A stored checkpoint only takes space.
    if (name.starts_with("checkpoint-")) unlink(name.c_str());
  });
  PipeChannel channel(session);
  return static_cast<int>(execute(job, channel));
}

int run_by_hand(const char* path) {
  try {
    const JobFile file = read_job_file(path);
    if (chdir(file.work_folder.c_str()) != 0)
      throw engine::core::Error("io_error", "cannot enter " + file.work_folder, std::strerror(errno));
    Console console;
    return static_cast<int>(execute(file.job, console));
  } catch (const engine::core::Error& error) {
    std::fprintf(stderr, "pgtrain-trainer: %s\n", error.message.c_str());
    if (!error.detail.empty()) std::fprintf(stderr, "  detail: %s\n", error.detail.c_str());
    if (!error.hint.empty()) std::fprintf(stderr, "  hint: %s\n", error.hint.c_str());
    return static_cast<int>(ExitCode::Failed);
  }
}

int print_devices() {
  std::fputs(devices_text().c_str(), stdout);
  return 0;
}

int print_usage(std::FILE* where) {
  std::fputs(
      "usage: pgtrain-trainer               speak the protocol on standard input and output (started by a pgtrain worker)\n"
      "       pgtrain-trainer devices       list what can be trained on here\n"
      "       pgtrain-trainer run JOB_FILE  do a job written by hand\n"
      "       pgtrain-trainer --version\n",
      where);
  return where == stdout ? 0 : static_cast<int>(ExitCode::ProtocolViolation);
}

}  // namespace
}  // namespace pgtrain::trainer

int main(int count, char** arguments) {
  using namespace pgtrain::trainer;
  start_again(arguments, count == 1 && !isatty(STDIN_FILENO));
  const auto is = [&](int index, const char* word) { return count > index && std::strcmp(arguments[index], word) == 0; };
  if (count == 1) return isatty(STDIN_FILENO) ? print_usage(stderr) : serve();
  if (count == 2 && is(1, "devices")) return print_devices();
  if (count == 3 && is(1, "run")) return run_by_hand(arguments[2]);
  if (count == 2 && is(1, "--version")) {
    std::printf("pgtrain-trainer %s, protocol %u\n", pgtrain::protocol::build_id(), pgtrain::protocol::protocol_version);
    return 0;
  }
  return print_usage(count == 2 && is(1, "--help") ? stdout : stderr);
}
