// sandbox_test.cpp: inside the sandbox, what is forbidden fails and what training needs works.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "trainer/child.hpp"

namespace pgtrain::trainer::test {
namespace {

const std::string program = PGTRAIN_FAKE_TRAINER;

using Outcomes = std::map<std::string, std::string>;

Outcomes probe(const JobFolder& folder, const fs::path& secret) {
  std::ofstream(secret) << "a secret of the server";
  // As the server gives it: second names of files that it keeps, in a folder beside.
  const fs::path beside = folder.path().string() + ".base", kept = folder.path().parent_path() / "kept";
  fs::remove_all(beside), fs::remove(kept), fs::remove(folder.path() / "base");
  fs::create_directory(beside);
  std::ofstream(kept) << "weights of others";
  fs::create_hard_link(kept, beside / "weights");
  fs::create_symlink("../" + beside.filename().string(), folder.path() / "base");
  Child child(program, folder, {"probe-sandbox", secret});
  std::istringstream lines(child.read_text());
  Outcomes found;
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos) found[line.substr(0, colon)] = line.substr(colon + 1);
  }
  EXPECT_EQ(child.wait().code, 0);
  return found;
}

// A variable of the environment that children inherit, for as long as this lives.
struct Variable {
  const char* name;
  Variable(const char* name_, const std::string& value) : name(name_) { setenv(name, value.c_str(), 1); }
  ~Variable() { unsetenv(name); }
};

TEST(Sandbox, ForbidsAndAllows) {
  JobFolder folder;
  const fs::path secret = folder.path().parent_path() / "secret";
  Outcomes found = probe(folder, secret);
  for (const char* act : {"thread", "write_own_folder", "rename_own_file", "truncate_own_file", "unlink_own_file", "read_base", "read_library_folder",
                          "read_cpu_info", "read_own_status", "read_own_maps", "read_thread_status", "random_numbers"})
    EXPECT_EQ(found[act], " ok") << act << " is needed";
  if (found["parts"].find("calls") != std::string::npos) {
    for (const char* act : {"fork", "raw_vfork_clone", "spawn", "exec", "signal_parent", "signal_group", "read_parent_memory",
                            "shared_memory", "socket_inet", "socket_inet6", "socket_unix_datagram", "socket_netlink", "socket_pair_inet",
                            "connect", "accept", "io_uring"})
      EXPECT_EQ(found[act], " EPERM") << act;
  }
  if (found["parts"].find("files") != std::string::npos) {
    for (const char* act : {"read_forbidden", "write_forbidden", "read_passwords", "create_in_tmp", "create_in_parent", "write_base",
                            "truncate_base", "remove_base", "create_in_base", "parent_memory_file", "parent_environment", "parent_command_line"})
      EXPECT_EQ(found[act], " EACCES") << act;
    EXPECT_EQ(found["take_base"], " EXDEV");
    EXPECT_EQ(fs::file_size(secret), 22u);
    EXPECT_EQ(fs::file_size(folder.path().parent_path() / "kept"), 17u);
  }
  if (found["parts"] != " files calls") GTEST_SKIP() << "this system offers only a part of the sandbox:" << found["report"];
}

// cuInit gives up with error 304 when one of these is refused; there is no card here to say so.
TEST(Sandbox, LeavesCudaWhatItCannotStartWithout) {
  JobFolder folder;
  int acts = 0;
  for (const auto& [act, outcome] : probe(folder, folder.path().parent_path() / "secret")) {
    if (!act.starts_with("cuda_")) continue;
    ++acts;
    EXPECT_EQ(outcome, " ok") << act;
  }
  EXPECT_GE(acts, 12);
}

TEST(Sandbox, CanBeLeftOutInParts) {
  JobFolder folder;
  const fs::path secret = folder.path().parent_path() / "secret";
  const std::string whole = probe(folder, secret)["parts"];
  if (whole != " files calls") GTEST_SKIP() << "this system offers only a part of the sandbox:" << whole;
  const Outcomes cases = {{"files", " files"}, {"calls", " calls"}, {"off", ""}, {"on", " files calls"}};
  for (const auto& [setting, parts] : cases) {
    Variable sandbox("PGTRAIN_SANDBOX", setting);
    Outcomes found = probe(folder, secret);
    EXPECT_EQ(found["parts"], parts) << setting;
    EXPECT_EQ(found["socket_inet"] == " EPERM", parts.find("calls") != std::string::npos) << setting << found["socket_inet"];
    EXPECT_EQ(found["read_forbidden"] == " EACCES", parts.find("files") != std::string::npos) << setting << found["read_forbidden"];
    EXPECT_EQ(found["report"].find("PGTRAIN_SANDBOX") != std::string::npos, parts != whole) << found["report"];
  }
}

TEST(Sandbox, OpensTheLibraryPathButNotTheServersFolder) {
  JobFolder folder;
  const fs::path libraries = folder.path().parent_path().parent_path() / (folder.path().parent_path().filename().string() + "_libraries");
  fs::create_directory(libraries);
  if (probe(folder, libraries / "library")["read_forbidden"] == " EACCES") {
    {
      Variable path("LD_LIBRARY_PATH", "relative:" + libraries.string() + ":/no-such-folder");
      Outcomes found = probe(folder, libraries / "library");
      EXPECT_EQ(found["read_forbidden"], " ok");
      EXPECT_EQ(found["write_forbidden"], " EACCES");
    }
    Variable path("LD_LIBRARY_PATH", folder.path().parent_path().string() + ":/");
    EXPECT_EQ(probe(folder, folder.path().parent_path() / "secret")["read_forbidden"], " EACCES") << "it holds the working folder";
  }
  fs::remove_all(libraries);
}

}  // namespace
}  // namespace pgtrain::trainer::test
