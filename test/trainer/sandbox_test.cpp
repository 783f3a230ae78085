// sandbox_test.cpp: inside the sandbox, what is forbidden fails and what training needs works.
#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "trainer/child.hpp"

namespace pgtrain::trainer::test {
namespace {

const std::string program = PGTRAIN_FAKE_TRAINER;

TEST(Sandbox, ForbidsAndAllows) {
  JobFolder folder;
  const fs::path secret = folder.path().parent_path() / "secret";
  std::ofstream(secret) << "a secret of the server";
  Child child(program, folder, {"probe-sandbox", secret});
  std::istringstream lines(child.read_text());
  std::map<std::string, std::string> found;
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos) found[line.substr(0, colon)] = line.substr(colon + 1);
  }
  ASSERT_EQ(child.wait().code, 0);
  for (const char* act : {"thread", "write_own_folder", "rename_own_file", "truncate_own_file", "unlink_own_file", "read_library_folder",
                          "read_cpu_info", "read_own_status", "read_own_maps", "read_thread_status", "random_numbers"})
    EXPECT_EQ(found[act], " ok") << act << " is needed";
  if (found["parts"].find("calls") != std::string::npos) {
    for (const char* act : {"fork", "raw_vfork_clone", "spawn", "exec", "signal_parent", "signal_group", "read_parent_memory",
                            "shared_memory", "socket_inet", "socket_inet6", "socket_unix", "io_uring"})
      EXPECT_EQ(found[act], " EPERM") << act;
  }
  if (found["parts"].find("files") != std::string::npos) {
    for (const char* act : {"read_forbidden", "write_forbidden", "read_passwords", "create_in_tmp", "create_in_parent",
                            "parent_memory_file", "parent_environment", "parent_command_line"})
      EXPECT_EQ(found[act], " EACCES") << act;
    EXPECT_EQ(fs::file_size(secret), 22u);
  }
  if (found["parts"] != " files calls") GTEST_SKIP() << "this system offers only a part of the sandbox:" << found["report"];
}

}  // namespace
}  // namespace pgtrain::trainer::test
