// See child.hpp. Between fork and exec only async-signal-safe calls are made.
#include "pg/worker/child.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "pg/errors.hpp"

namespace pgtrain::pg::worker {
namespace {

// Children of this process that were not waited for yet. Written with signals blocked around a start.
std::array<volatile pid_t, 8> children{};

bool remember(pid_t pid) {
  for (volatile pid_t &slot : children)
    if (slot == 0) {
      slot = pid;
      return true;
    }
  return false;
}

void forget(pid_t pid) {
  for (volatile pid_t &slot : children)
    if (slot == pid) slot = 0;
}

bool has_room() {
  for (volatile pid_t &slot : children)
    if (slot == 0) return true;
  return false;
}

struct Pipe {
  int read = -1, write = -1;
  Pipe() = default;
  Pipe(const Pipe &) = delete;
  Pipe &operator=(const Pipe &) = delete;
  ~Pipe() {
    close_end(read);
    close_end(write);
  }
  void open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
      throw Error(code::Unavailable, std::string("cannot make a pipe to the trainer: ") + std::strerror(errno));
    read = ends[0];
    write = ends[1];
  }
  static void close_end(int &end) {
    if (end >= 0) ::close(end);
    end = -1;
  }
  static int take(int &end) {
    const int taken = end;
    end = -1;
    return taken;
  }
};

constexpr int report_descriptor = 3;

void write_file(const char *path, const char *text) {
  const int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  if (::write(file, text, strlen(text)) < 0) { /* best effort: some kernels refuse it */ }
  close(file);
}

[[noreturn]] void report_and_exit(int error) {
  if (::write(report_descriptor, &error, sizeof error) < 0) { /* the exit code tells as well */ }
  _exit(127);
}

[[noreturn]] void become(const char *const *arguments, const char *const *environment, const char *folder, pid_t parent, int input,
                         int output, int errors, int report) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before the line above.
  if (getppid() != parent) _exit(126);
  struct sigaction plain;
  memset(&plain, 0, sizeof plain);
  plain.sa_handler = SIG_DFL;
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) sigaction(signal_number, &plain, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // High numbers first: none of the four ends can then be overwritten by a dup2 of another.
  const int high_input = fcntl(input, F_DUPFD, 10), high_output = fcntl(output, F_DUPFD, 10);
  const int high_errors = fcntl(errors, F_DUPFD, 10), high_report = fcntl(report, F_DUPFD, 10);
  if (dup2(high_input, 0) < 0 || dup2(high_output, 1) < 0 || dup2(high_errors, 2) < 0 || dup2(high_report, report_descriptor) < 0) _exit(127);
  fcntl(report_descriptor, F_SETFD, FD_CLOEXEC);
  syscall(SYS_close_range, report_descriptor + 1, ~0U, 0);
  // The kernel shall take the trainer before the server; and no image of a user's data is left on the disk.
  write_file("/proc/self/oom_score_adj", "500");
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  umask(077);
  if (chdir(folder) != 0) report_and_exit(errno);
  execve(arguments[0], const_cast<char *const *>(arguments), const_cast<char *const *>(environment));
  report_and_exit(errno);
}

std::vector<const char *> pointers(const std::vector<std::string> &texts) {
  std::vector<const char *> result;
  for (const std::string &text : texts) result.push_back(text.c_str());
  result.push_back(nullptr);
  return result;
}

void set_nonblocking(int descriptor) { fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK); }

ExitStatus status_of(int wait_status) {
  if (WIFEXITED(wait_status)) return ExitStatus{true, WEXITSTATUS(wait_status)};
  return ExitStatus{false, WTERMSIG(wait_status)};
}

}  // namespace

std::string ExitStatus::describe() const {
  if (is_exit) return "exit code " + std::to_string(code);
  const char *name = sigabbrev_np(code);
  return "signal " + std::to_string(code) + (name != nullptr ? std::string(" (SIG") + name + ")" : "");
}

void Child::start(const ChildCommand &command) {
  if (!has_room()) throw Error(code::Internal, "pgtrain: too many trainers in one process");
  Pipe input, output, errors, report;
  input.open();
  output.open();
  errors.open();
  report.open();
  const std::vector<const char *> arguments = pointers(command.arguments), environment = pointers(command.environment);

  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) become(arguments.data(), environment.data(), command.folder.c_str(), parent, input.read, output.write, errors.write, report.write);
  const int fork_error = errno;
  if (pid > 0) {
    setpgid(pid, pid);
    remember(pid);
    pid_ = pid;
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) throw Error(code::Unavailable, std::string("cannot start the trainer: ") + std::strerror(fork_error));

  input_ = Pipe::take(input.write);
  output_ = Pipe::take(output.read);
  errors_ = Pipe::take(errors.read);
  Pipe::close_end(report.write);
  for (const int descriptor : {input_, output_, errors_}) set_nonblocking(descriptor);
  // Closed by a successful exec, so this waits no longer than the exec itself.
  int exec_error = 0;
  ssize_t got;
  do got = ::read(report.read, &exec_error, sizeof exec_error);
  while (got < 0 && errno == EINTR);
  if (got == static_cast<ssize_t>(sizeof exec_error)) {
    kill_and_wait();
    throw Error(code::Unavailable, "cannot start the trainer \"" + command.arguments[0] + "\": " + std::strerror(exec_error), {},
                "Look at pgtrain.trainer_program; by default it is installed beside the module.");
  }
}

bool Child::read_output(std::string &bytes, size_t most) {
  std::array<char, 65536> buffer;
  size_t total = 0;
  while (total < most) {
    const ssize_t got = ::read(output_, buffer.data(), std::min(buffer.size(), most - total));
    if (got > 0) {
      bytes.append(buffer.data(), static_cast<size_t>(got));
      total += static_cast<size_t>(got);
    } else if (got == 0) {
      return false;
    } else if (errno != EINTR) {
      return errno == EAGAIN || errno == EWOULDBLOCK;
    }
  }
  return true;
}

void Child::read_errors(std::string &bytes, size_t most) {
  std::array<char, 4096> buffer;
  size_t total = 0;
  while (errors_ >= 0 && total < most) {
    const ssize_t got = ::read(errors_, buffer.data(), buffer.size());
    if (got <= 0) return;
    bytes.append(buffer.data(), static_cast<size_t>(got));
    total += static_cast<size_t>(got);
  }
}

void Child::write(std::string_view bytes) {
  unwritten_.append(bytes);
  flush();
}

void Child::flush() {
  while (input_ >= 0 && !unwritten_.empty()) {
    // SIGPIPE is ignored in server processes, so a reader that is gone gives an error code.
    const ssize_t put = ::write(input_, unwritten_.data(), unwritten_.size());
    if (put > 0) {
      unwritten_.erase(0, static_cast<size_t>(put));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return;
    } else if (errno != EINTR) {
      unwritten_.clear();
      return;
    }
  }
}

void Child::close_input() {
  unwritten_.clear();
  Pipe::close_end(input_);
}

void Child::terminate() {
  if (pid_ > 0) kill(-pid_, SIGTERM);
}

void Child::kill_now() {
  if (pid_ > 0) kill(-pid_, SIGKILL);
}

bool Child::poll_exit(ExitStatus &status) {
  if (pid_ > 0) {
    siginfo_t info;
    info.si_pid = 0;
    if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0) return false;
    // Not waited for yet, so its number still names its group: what it may have left behind there goes with it.
    kill_and_wait_only();
  }
  status = status_;
  return true;
}

ExitStatus Child::kill_and_wait() {
  kill_and_wait_only();
  close_all();
  return status_;
}

void Child::kill_and_wait_only() {
  if (pid_ <= 0) return;
  kill_now();
  int wait_status = 0;
  pid_t got;
  do got = waitpid(pid_, &wait_status, 0);
  while (got < 0 && errno == EINTR);
  if (got == pid_) status_ = status_of(wait_status);
  forget(pid_);
  pid_ = 0;
}

void Child::close_all() {
  Pipe::close_end(input_);
  Pipe::close_end(output_);
  Pipe::close_end(errors_);
  unwritten_.clear();
}

void kill_children() {
  for (volatile pid_t &slot : children) {
    const pid_t pid = slot;
    if (pid <= 0) continue;
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    slot = 0;
  }
}

}  // namespace pgtrain::pg::worker
