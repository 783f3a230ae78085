// sandbox_files.cpp: file rules by Landlock. The kernel's interface is written out here, since the headers of older
// systems lack what newer kernels offer; rights that the running kernel does not know are left out by its version.
#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

#include "trainer/sandbox_parts.hpp"

namespace pgtrain::trainer {

namespace {

// Numbers of the kernel's interface (the same on every architecture).
constexpr long call_create_ruleset = 444, call_add_rule = 445, call_restrict_self = 446;
constexpr uint32_t flag_version = 1;
constexpr int rule_path_beneath = 1;

enum : uint64_t {
  Execute = 1ull << 0,
  WriteFile = 1ull << 1,
  ReadFile = 1ull << 2,
  ReadDir = 1ull << 3,
  RemoveDir = 1ull << 4,
  RemoveFile = 1ull << 5,
  MakeDir = 1ull << 7,
  MakeRegular = 1ull << 8,
  MakeSymlink = 1ull << 12,
  Refer = 1ull << 13,        // version 2
  Truncate = 1ull << 14,     // version 3
  IoctlDevice = 1ull << 15,  // version 5
};
constexpr uint64_t all_of_version_1 = (1ull << 13) - 1;
constexpr uint64_t network_all = 3;  // bind and connect of TCP, version 4
constexpr uint64_t scope_all = 3;    // abstract sockets and signals, version 6

struct RulesetAttributes {
  uint64_t handled_files = 0, handled_network = 0, scoped = 0;
};

struct __attribute__((packed)) PathAttributes {
  uint64_t allowed = 0;
  int32_t folder = -1;
};

class Ruleset {
 public:
  explicit Ruleset(int version) {
    RulesetAttributes attributes;
    attributes.handled_files = all_of_version_1;
    if (version >= 2) attributes.handled_files |= Refer;
    if (version >= 3) attributes.handled_files |= Truncate;
    if (version >= 5) attributes.handled_files |= IoctlDevice;
    if (version >= 4) attributes.handled_network = network_all;
    if (version >= 6) attributes.scoped = scope_all;
    handled_ = attributes.handled_files;
    const size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
    descriptor_ = static_cast<int>(syscall(call_create_ruleset, &attributes, size, 0));
  }
  ~Ruleset() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  Ruleset(const Ruleset&) = delete;
  Ruleset& operator=(const Ruleset&) = delete;

  // Allows `rights` on and below a path. A path that is not there needs no rule.
  void allow(const char* path, uint64_t rights) {
    const int folder = open(path, O_PATH | O_CLOEXEC);
    if (folder < 0) return;
    struct stat about;
    if (fstat(folder, &about) == 0 && !S_ISDIR(about.st_mode)) rights &= Execute | WriteFile | ReadFile | Truncate | IoctlDevice;
    PathAttributes attributes;
    attributes.allowed = rights & handled_;
    attributes.folder = folder;
    if (syscall(call_add_rule, descriptor_, rule_path_beneath, &attributes, 0) != 0 && errno_ == 0) errno_ = errno;
    close(folder);
  }

  void allow_matching(const char* pattern, uint64_t rights) {
    glob_t found = {};
    if (glob(pattern, 0, nullptr, &found) == 0)
      for (size_t i = 0; i < found.gl_pathc; ++i) allow(found.gl_pathv[i], rights);
    globfree(&found);
  }

  bool restrict_self() {
    if (errno_ == 0 && syscall(call_restrict_self, descriptor_, 0) != 0) errno_ = errno;
    return errno_ == 0;
  }

  bool is_open() const { return descriptor_ >= 0; }
  int error() const { return errno_; }

 private:
  int descriptor_ = -1, errno_ = 0;
  uint64_t handled_ = 0;
};

std::string program_folder() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return {};
  const std::string whole(path, static_cast<size_t>(length));
  return whole.substr(0, whole.rfind('/'));
}

// Opens this process's folder of /proc for good and returns its path. A rule is bound to an inode, and the kernel
// makes a new one for a /proc folder that nobody holds. Stays open when the program is started again.
std::string keep_own_process_folder() {
  const std::string path = "/proc/" + std::to_string(getpid());
  [[maybe_unused]] static const int held = open(path.c_str(), O_PATH);
  return path;
}

// Folders that the administrator gave the dynamic linker (a CUDA library outside the usual places), but none that holds the
// working folder and with it the server's data.
void allow_library_path(Ruleset& rules, uint64_t rights) {
  const char* given = getenv("LD_LIBRARY_PATH");
  char working[PATH_MAX], folder[PATH_MAX];
  if (given == nullptr || getcwd(working, sizeof working) == nullptr) return;
  std::istringstream words(given);
  for (std::string word; std::getline(words, word, ':');) {
    if (!word.starts_with('/') || realpath(word.c_str(), folder) == nullptr) continue;
    const std::string inside = std::strcmp(folder, "/") == 0 ? "/" : std::string(folder) + "/";
    if (!(std::string(working) + "/").starts_with(inside)) rules.allow(folder, rights);
  }
}

}  // namespace

std::string restrict_files() {
  const int version = static_cast<int>(syscall(call_create_ruleset, nullptr, 0, flag_version));
  if (version < 1) return "file rules (Landlock: " + std::string(std::strerror(errno)) + ")";
  Ruleset rules(version);
  if (!rules.is_open()) return "file rules (Landlock: " + std::string(std::strerror(errno)) + ")";

  constexpr uint64_t read = ReadFile | ReadDir;
  constexpr uint64_t load = read | Execute;  // libraries are mapped executable
  constexpr uint64_t work = read | WriteFile | RemoveFile | MakeRegular | Truncate;
  constexpr uint64_t device = ReadFile | WriteFile | IoctlDevice;
  for (const char* folder : {"/usr", "/lib", "/lib64", "/lib32", "/opt", "/nix/store"}) rules.allow(folder, load);
  rules.allow(program_folder().c_str(), load);
  allow_library_path(rules, load);
  for (const char* file : {"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/nvidia"})
    rules.allow(file, read);
  // Of /proc only what is about the machine and about this process: other processes' folders hold environments.
  for (const char* name : {"/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/devices", "/proc/modules", "/proc/version",
                           "/proc/filesystems", "/proc/sys", "/proc/driver", "/sys"})
    rules.allow(name, read);
  // cuInit names its threads by writing /proc/PID/task/TID/comm and fails with error 304 if it may not. What else can be
  // written there is this process's own, and belongs to root once it is not dumpable.
  rules.allow(keep_own_process_folder().c_str(), read | WriteFile);
  for (const char* file : {"/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"}) rules.allow(file, ReadFile | WriteFile);
  rules.allow_matching("/dev/nvidia*", device | ReadDir);
  rules.allow("/dev/dxg", device);  // the card as WSL2 shows it
  rules.allow(".", work);
  // A link to a folder beside: its files are second names of those that the server keeps, also for others.
  rules.allow("base", read);
  if (!rules.restrict_self()) return "file rules (Landlock: " + std::string(std::strerror(rules.error())) + ")";
  if (version < 3) return "+rules for truncating files (Landlock version " + std::to_string(version) + ", needs 3)";
  return {};
}

}  // namespace pgtrain::trainer
