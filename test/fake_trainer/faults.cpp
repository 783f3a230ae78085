// faults.cpp: the faults themselves.
#include "fake_trainer/faults.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <thread>

namespace pgtrain::fake_trainer {

using namespace protocol;
using trainer::Stop;

namespace {

void die_of(int number) {
  const rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  signal(number, SIG_DFL);
  raise(number);
  _exit(99);
}

// Silent and deaf, for ever; only a kill ends it.
[[noreturn]] void hang() {
  for (;;) pause();
}

std::string sha_of_nothing() { return std::string(64, '0'); }

void send_file(Scene& scene, const std::string& name, uint64_t bytes, const std::string& sha256, FileKind kind = FileKind::Artifact) {
  scene.session->send(up::File{kind, name, 1, bytes, sha256});
  hang();  // the worker must end this by itself
}

void write_small(const char* name) {
  const int file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file < 0 || write(file, "12345", 5) != 5) _exit(98);
  close(file);
}

FailureCode failure_named(const std::string& name) {
  for (int code = 0; code <= static_cast<int>(FailureCode::InternalError); ++code)
    if (name == name_of(static_cast<FailureCode>(code))) return static_cast<FailureCode>(code);
  return FailureCode::InternalError;
}

// Makes no further step until it is asked to stop, or let go on by a file "go" in its folder.
void hold(trainer::Session& session) {
  while (session.stop_requested() == Stop::None && !session.is_deserted() && access("go", F_OK) != 0) {
    session.worked();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

// Many messages at a time: however slow the machine is for a while, without end there is a second in which it is too much. No more than
// a pipe takes in one piece, because the heart beats in between.
void flood(const std::string& thousands) {
  const std::string message = encode(up::Metric{1, "flood", 1.0});
  const int at_once = static_cast<int>(PIPE_BUF / message.size());
  std::string piece;
  for (int i = 0; i < at_once; ++i) piece += message;
  for (int sent = 0; thousands.empty() || sent < 1000 * std::atoi(thousands.c_str()); sent += at_once)
    if (!write_raw(piece)) return;
}

// A grandchild that outlives its parent unless the worker ends the whole process group.
void fork_and_hang() {
  if (fork() == 0) hang();
  hang();
}

void commit(Scene& scene, const Fault& fault) {
  const std::string& action = fault.action;
  if (action == "segv") die_of(SIGSEGV);
  if (action == "kill") die_of(SIGKILL);
  if (action == "abort") die_of(SIGABRT);
  if (action == "exit") _exit(std::atoi(fault.argument.c_str()));
  if (action == "quit") _exit(0);
  if (action == "hang") hang();
  if (action == "fork") fork_and_hang();
  if (action == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(fault.argument.c_str())));
  if (action == "hold" && scene.session != nullptr) hold(*scene.session);
  if (action == "closeout") {
    close(1);
    hang();
  }
  if (action == "garbage") {
    write_raw("loss is 3.2 at step 7\nSegmentation fault (core dumped)\n");
    hang();
  }
  if (action == "flood") flood(fault.argument);
  if (action == "huge") {
    write_raw(std::string("l\xff\xff\xff\xff", 5));
    hang();
  }
  if (action == "partial") {
    const std::string frame = encode(up::Log{LogLevel::Info, "this sentence is never finished"});
    write_raw(frame.substr(0, frame.size() / 2));
    _exit(0);
  }
  if (action == "badutf8") {
    std::string frame = encode(up::Log{LogLevel::Info, "xx"});
    frame[frame.size() - 1] = '\xff';
    write_raw(frame);
    hang();
  }
  if (action == "badstate") {
    write_raw(encode(up::Done{}));
    write_raw(encode(up::Progress{}));
    hang();
  }
  if (action == "badsha" || action == "badbytes") {
    write_small("bad.bin");
    send_file(scene, "bad.bin", action == "badbytes" ? 7 : 5,
              action == "badsha" ? sha_of_nothing() : "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5");
  }
  if (action == "badcheckpoint") {
    write_small("bad.bin");
    send_file(scene, "bad.bin", 5, sha_of_nothing(), FileKind::Checkpoint);
  }
  if (action == "traversal") send_file(scene, "../evil", 5, sha_of_nothing());
  if (action == "pipe") {
    // Opening it would wait for somebody to write into it.
    if (mkfifo("pipe.bin", 0600) != 0) _exit(98);
    send_file(scene, "pipe.bin", 5, sha_of_nothing());
  }
  if (action == "missing") send_file(scene, "not_there.bin", 5, sha_of_nothing());
  if (action == "noise")
    for (int i = 0; i < 16384; ++i)
      if (write(2, "noise on the error stream, 64 bytes a line, repeated many times\n", 64) < 0) break;
  if (action == "fail") {
    scene.session->send(up::Failed{failure_named(fault.argument), "scripted failure " + fault.argument, "the script said so", "none"});
    _exit(1);
  }
}

}  // namespace

bool write_raw(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t count = write(1, bytes.data() + sent, bytes.size() - sent);
    if (count > 0)
      sent += static_cast<size_t>(count);
    else if (errno != EINTR && errno != EAGAIN)
      return false;
  }
  return true;
}

void reach(Scene& scene, const std::string& point) {
  for (const Fault& fault : scene.script.faults)
    if (fault.point == point && (fault.attempt == 0 || fault.attempt == scene.attempt)) commit(scene, fault);
}

}  // namespace pgtrain::fake_trainer
