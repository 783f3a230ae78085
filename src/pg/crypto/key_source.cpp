// Reading root keys from a file or a command, see key_source.hpp.
#include "pg/crypto/key_source.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "pg/errors.hpp"

extern char **environ;

namespace pgtrain::pg::crypto {
namespace {

std::string system_error(int error) { return std::strerror(error); }

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  int number() const { return number_; }
  void close() {
    if (number_ >= 0) ::close(number_);
    number_ = -1;
  }

 private:
  int number_;
};

[[noreturn]] void refuse_file(const std::string &path, const std::string &why, const std::string &hint) {
  throw Error(code::Unavailable, "the file of the root keys, \"" + path + "\", cannot be used", why, hint);
}

[[noreturn]] void refuse_command(const std::string &why) {
  throw Error(code::Unavailable, "pgtrain.root_key_command gave no root keys", why,
              "Run it by hand under the server's user: it must print the keys, one a line, and end with status 0.");
}

void check_file(int file, const std::string &path) {
  struct stat about;
  if (fstat(file, &about) != 0) refuse_file(path, system_error(errno), "See that the server's user can read it.");
  if (!S_ISREG(about.st_mode)) refuse_file(path, "It is no regular file.", "Name a file, or print the keys by pgtrain.root_key_command.");
  if (about.st_uid != geteuid())
    refuse_file(path, "It belongs to user " + std::to_string(about.st_uid) + ", the server runs as " + std::to_string(geteuid()) + ".",
                "Give it to the server's user: chown, then chmod 600.");
  if ((about.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    char mode[8];
    std::snprintf(mode, sizeof mode, "%04o", about.st_mode & 07777u);
    refuse_file(path, std::string("Others than the server's user may use it: its mode is ") + mode + ".", "chmod 600 " + path);
  }
}

using Clock = std::chrono::steady_clock;

// Milliseconds left, never less than 0.
int left(Clock::time_point end) {
  return static_cast<int>(std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count()));
}

// Leads the command's process group, so that ending it ends what it started. Its end is waited for in any case.
class Command {
 public:
  Command(const std::string &command, int output) {
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_init(&actions);
    // The server starts with its signals blocked, and its handlers are not for others.
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    char shell[] = "/bin/sh", option[] = "-c";
    char *arguments[] = {shell, option, const_cast<char *>(command.c_str()), nullptr};
    const int error = posix_spawn(&process_, shell, &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (error != 0) {
      process_ = 0;
      refuse_command("It cannot be started: " + system_error(error) + ".");
    }
  }
  ~Command() {
    if (process_ == 0) return;
    kill(-process_, SIGKILL);
    (void)wait_for_end(0);
  }
  Command(const Command &) = delete;
  Command &operator=(const Command &) = delete;

  // Status as of waitpid.
  int end(Clock::time_point limit) {
    int status = 0;
    while (!wait_for_end(WNOHANG, &status)) {
      if (left(limit) == 0) refuse_command("It closed its output and did not end in time.");
      (void)poll(nullptr, 0, 5);
    }
    return status;
  }

 private:
  bool wait_for_end(int options, int *status = nullptr) {
    int own = 0;
    pid_t ended;
    do ended = waitpid(process_, &own, options);
    while (ended < 0 && errno == EINTR);
    if (ended == 0) return false;
    process_ = 0;
    if (status != nullptr) *status = ended < 0 ? -1 : own;
    return true;
  }

  pid_t process_ = 0;
};

}  // namespace

LockedBytes read_key_file(const std::string &path) {
  // Not blocking: opening a pipe would wait for its writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.number() < 0) refuse_file(path, system_error(errno) + ".", "Name an existing file in pgtrain.root_key_file, or bring it back.");
  check_file(file.number(), path);
  LockedBytes text(key_text_max);
  size_t size = 0;
  for (;;) {
    const ssize_t got = read(file.number(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse_file(path, system_error(errno) + ".", "See that the server's user can read it.");
    if (got == 0) break;
    size += static_cast<size_t>(got);
    if (size == text.size()) refuse_file(path, "It has " + std::to_string(key_text_max) + " bytes or more.", "Remove what is no key.");
  }
  text.truncate(size);
  return text;
}

LockedBytes read_key_command(const std::string &command, int limit_ms) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) refuse_command(system_error(errno) + ".");
  const Descriptor output(ends[0]);
  Descriptor input(ends[1]);
  const Clock::time_point limit = Clock::now() + std::chrono::milliseconds(limit_ms);
  Command running(command, input.number());
  input.close();
  LockedBytes text(key_text_max);
  size_t size = 0;
  for (;;) {
    pollfd wanted{output.number(), POLLIN, 0};
    const int ready = poll(&wanted, 1, left(limit));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) refuse_command("It did not end within " + std::to_string(limit_ms / 1000) + " seconds, and was killed.");
    const ssize_t got = read(output.number(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse_command(system_error(errno) + ".");
    if (got == 0) break;
    size += static_cast<size_t>(got);
    if (size == text.size()) refuse_command("It printed " + std::to_string(key_text_max) + " bytes or more.");
  }
  const int status = running.end(limit);
  if (status == -1 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    refuse_command(status != -1 && WIFEXITED(status) ? "It ended with status " + std::to_string(WEXITSTATUS(status)) + "." : "It was killed by a signal.");
  text.truncate(size);
  return text;
}

}  // namespace pgtrain::pg::crypto
