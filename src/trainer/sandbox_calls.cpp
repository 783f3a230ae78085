// sandbox_calls.cpp: the seccomp filter. A refused call gets EPERM rather than death, so that a library which only
// probes (CUDA looks for helpers) goes on without. Refused: new processes, other programs, sockets, System V and
// io_uring ways around the rules, and everything that reaches into other processes: the trainer runs under the server's
// account, so the account alone would let it stop the postmaster. One kind of socket stays, because CUDA's cuInit fails with
// error 304 without it: it binds an abstract Unix socket (@cuda-uvmfd-...) and listens there for peers of CUDA IPC. With
// connecting and accepting refused nothing goes through such a socket, and without datagrams nothing can be sent unconnected.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "trainer/sandbox_parts.hpp"

namespace pgtrain::trainer {

namespace {

#if defined(__x86_64__)
constexpr unsigned native = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr unsigned native = AUDIT_ARCH_AARCH64;
#else
constexpr unsigned native = 0;
#endif

// Calls that are refused whatever their arguments. Numbers from 424 on are the same on every architecture.
const long refused[] = {
#ifdef SYS_fork
    SYS_fork,
    SYS_vfork,
#endif
    SYS_execve,
    SYS_execveat,
    SYS_connect,
    SYS_accept,
    SYS_accept4,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_tkill,
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_msgget,
    SYS_semget,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_personality,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_setuid,
    SYS_setgid,
    SYS_setpriority,
    424 /* pidfd_send_signal */,
    425 /* io_uring_setup */,
    426 /* io_uring_enter */,
    427 /* io_uring_register */,
    428 /* open_tree */,
    429 /* move_mount */,
    434 /* pidfd_open */,
    438 /* pidfd_getfd */,
    440 /* process_madvise */,
    442 /* mount_setattr */,
};

constexpr unsigned refuse_with(unsigned error) { return SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA); }

// Low word of an argument on these (little-endian) machines.
size_t argument(int index) { return offsetof(seccomp_data, args) + 8 * static_cast<size_t>(index); }

class Program {
 public:
  void load(size_t offset) { add(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset))); }
  void give(unsigned verdict) { add(BPF_STMT(BPF_RET | BPF_K, verdict)); }

  // If the loaded word equals `value`, gives the verdict; else goes on.
  void if_equal(unsigned value, unsigned verdict) {
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
    give(verdict);
  }

  // If the loaded word is not `value`, gives the verdict; else goes on.
  void unless_equal(unsigned value, unsigned verdict) {
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0));
    give(verdict);
  }

  // Refuses every number from `first` on: the second call table of x86-64 (x32) begins there.
  void refuse_from(unsigned first) {
    add(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 1));
    give(refuse_with(ENOSYS));
  }

  // If call `number` is made with an argument word (at `offset`) other than `value`, refuses it; else allows it.
  void only_with(long number, size_t offset, unsigned value) {
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 4));
    load(offset);
    if_equal(value, SECCOMP_RET_ALLOW);
    give(refuse_with(EPERM));
  }

  // If call `number` is made without any of `bits` in an argument word, refuses it; else allows it.
  void only_with_bits(long number, size_t offset, unsigned bits) {
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 4));
    load(offset);
    add(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1));
    give(SECCOMP_RET_ALLOW);
    give(refuse_with(EPERM));
  }

  // Allows call `number` (which makes sockets) for Unix sockets with connections, and refuses it for all others.
  void only_unix_connections(long number) {
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 8));
    load(argument(0));
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 0, 5));
    load(argument(1));
    add(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf));  // the rest are flags
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOCK_STREAM, 1, 0));
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOCK_SEQPACKET, 0, 1));
    give(SECCOMP_RET_ALLOW);
    give(refuse_with(EPERM));
  }

  bool install() {
    sock_fprog program = {static_cast<unsigned short>(code_.size()), code_.data()};
    // For every thread: libraries have started some before main.
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
  }

 private:
  void add(sock_filter instruction) { code_.push_back(instruction); }
  std::vector<sock_filter> code_;
};

}  // namespace

std::string filter_calls() {
  if (native == 0) return "call filter (not written for this processor)";
  constexpr unsigned clone_thread = 0x00010000;
  const auto self = static_cast<unsigned>(getpid());
  Program filter;
  filter.load(offsetof(seccomp_data, arch));
  filter.unless_equal(native, refuse_with(EPERM));  // the numbers below are of this call table only
  filter.load(offsetof(seccomp_data, nr));
  filter.refuse_from(0x40000000);
  for (const long number : refused) filter.if_equal(static_cast<unsigned>(number), refuse_with(EPERM));
  // clone3 hides its flags behind a pointer; told that it does not exist, libraries fall back to clone.
  filter.if_equal(435, refuse_with(ENOSYS));
  filter.only_with_bits(SYS_clone, argument(0), clone_thread);
  filter.only_with(SYS_kill, argument(0), self);
  filter.only_with(SYS_tgkill, argument(0), self);
  filter.only_with(SYS_prlimit64, argument(0), 0);
  filter.only_unix_connections(SYS_socket);
  filter.only_unix_connections(SYS_socketpair);
  filter.give(SECCOMP_RET_ALLOW);
  if (!filter.install()) return "call filter (seccomp: " + std::string(std::strerror(errno)) + ")";
  return {};
}

}  // namespace pgtrain::trainer
