// probe.cpp: the acts tried inside the sandbox; test/trainer/sandbox_test.cpp says which of them may succeed.
#include "fake_trainer/probe.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "trainer/sandbox.hpp"

extern char** environ;

namespace pgtrain::fake_trainer {

namespace {

void say(const char* act, bool worked) {
  std::printf("%s: %s\n", act, worked ? "ok" : strerrorname_np(errno));
  std::fflush(stdout);
}

void say_error(const char* act, int error) {
  errno = error;
  say(act, error == 0);
}

bool try_open(const char* path, int flags) {
  const int file = open(path, flags | O_CLOEXEC, 0600);
  if (file >= 0) close(file);
  return file >= 0;
}

bool try_read(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  char byte = 0;
  const bool worked = file >= 0 && read(file, &byte, 1) == 1;
  const int error = errno;
  if (file >= 0) close(file);
  errno = error;
  return worked;
}

void try_processes() {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  say("fork", child > 0);
  if (child > 0) waitpid(child, nullptr, 0);
  say("raw_vfork_clone", syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr) >= 0);
  char program[] = "/bin/true";
  char* arguments[] = {program, nullptr};
  pid_t spawned = 0;
  say_error("spawn", posix_spawn(&spawned, program, nullptr, nullptr, arguments, environ));
  say("exec", execve(program, arguments, environ) == 0);
  say("signal_parent", kill(getppid(), 0) == 0);
  say("signal_group", kill(0, 0) == 0);
  char byte = 0;
  const iovec here = {&byte, 1}, there = {&byte, 1};
  say("read_parent_memory", process_vm_readv(getppid(), &here, 1, &there, 1, 0) >= 0);
  say("shared_memory", shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600) >= 0);
}

void try_network() {
  say("socket_inet", socket(AF_INET, SOCK_STREAM, 0) >= 0);
  say("socket_inet6", socket(AF_INET6, SOCK_DGRAM, 0) >= 0);
  say("socket_unix_datagram", socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) >= 0);
  say("socket_netlink", socket(AF_NETLINK, SOCK_RAW, 0) >= 0);
  int pair[2];
  say("socket_pair_inet", socketpair(AF_INET, SOCK_STREAM, 0, pair) == 0);
  say("connect", connect(-1, nullptr, 0) == 0);
  say("accept", accept(-1, nullptr, nullptr) >= 0);
  say("io_uring", syscall(425, 8, nullptr) >= 0);
}

// What cuInit of NVIDIA's driver was seen to do (strace in public reports and confinement profiles) and fails without.
void try_what_cuda_does() {
  const int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  say("cuda_socket", listener >= 0);
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  const int length = std::snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "pgtrain-probe-uvmfd-%d", getpid());
  say("cuda_bind", bind(listener, reinterpret_cast<sockaddr*>(&name), static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length)) == 0);
  say("cuda_listen", listen(listener, 16) == 0);
  std::thread worker([] {
    const std::string comm = "/proc/self/task/" + std::to_string(syscall(SYS_gettid)) + "/comm";
    const int file = open(comm.c_str(), O_RDWR | O_CLOEXEC);
    say("cuda_thread_name", file >= 0 && write(file, "cuda-EvtHandlr", 14) == 14);
    if (file >= 0) close(file);
  });
  worker.join();
  say("cuda_memory_file", syscall(SYS_memfd_create, "probe", 1 /* MFD_CLOEXEC */) >= 0);
  void* code = mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  say("cuda_executable_memory", code != MAP_FAILED);
  void* range = mmap(nullptr, size_t(1) << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  say("cuda_address_space", range != MAP_FAILED);
  say("cuda_event", eventfd(0, EFD_CLOEXEC) >= 0);
  for (const char* file : {"/proc/sys/vm/mmap_min_addr", "/proc/devices", "/proc/version", "/proc/meminfo"})
    say((std::string("cuda_read ") + file).c_str(), try_open(file, O_RDONLY));
  say("cuda_read_devices_of_the_bus", try_open("/sys/devices/system", O_RDONLY | O_DIRECTORY));
}

void try_needed() {
  int done = 0;
  std::thread([&done] { done = 1; }).join();
  say("thread", done == 1);
  say("write_own_folder", try_open("own_file", O_WRONLY | O_CREAT));
  say("rename_own_file", rename("own_file", "own_file_2") == 0);
  say("truncate_own_file", truncate("own_file_2", 10) == 0);
  say("unlink_own_file", unlink("own_file_2") == 0);
  say("read_base", try_read("base/weights"));
  say("read_library_folder", try_open("/usr/lib", O_RDONLY | O_DIRECTORY));
  say("read_cpu_info", try_read("/proc/cpuinfo"));
  say("read_own_status", try_read("/proc/self/status"));
  say("read_own_maps", try_read("/proc/self/maps"));
  say("read_thread_status", try_read("/proc/thread-self/status"));
  say("random_numbers", try_open("/dev/urandom", O_RDONLY));
}

}  // namespace

int probe_sandbox(const char* forbidden_file) {
  const trainer::SandboxReport report = trainer::enter_sandbox(trainer::enter_file_rules());
  std::printf("report: %s\n", report.text().c_str());
  std::printf("parts:%s%s\n", report.has_file_rules ? " files" : "", report.has_call_filter ? " calls" : "");
  say("read_forbidden", try_open(forbidden_file, O_RDONLY));
  say("write_forbidden", try_open(forbidden_file, O_WRONLY));
  say("read_passwords", try_open("/etc/passwd", O_RDONLY));
  say("create_in_tmp", try_open((std::string("/tmp/pgtrain_probe_") + std::to_string(getpid())).c_str(), O_WRONLY | O_CREAT));
  say("create_in_parent", try_open("../probe_file", O_WRONLY | O_CREAT));
  say("write_base", try_open("base/weights", O_WRONLY));
  say("truncate_base", truncate("base/weights", 0) == 0);
  say("remove_base", unlink("base/weights") == 0);
  say("create_in_base", try_open("base/more", O_WRONLY | O_CREAT));
  say("take_base", link("base/weights", "weights") == 0);
  say("truncate_forbidden", truncate(forbidden_file, 0) == 0);
  say("parent_memory_file", try_open(("/proc/" + std::to_string(getppid()) + "/mem").c_str(), O_RDONLY));
  say("parent_environment", try_read("/proc/" + std::to_string(getppid()) + "/environ"));
  say("parent_command_line", try_read("/proc/" + std::to_string(getppid()) + "/cmdline"));
  try_processes();
  try_network();
  try_what_cuda_does();
  try_needed();
  return 0;
}

}  // namespace pgtrain::fake_trainer
