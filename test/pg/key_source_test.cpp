// Reading root keys: only from a file that is the server's alone, or from a command that ends well and in time.
#include "pg/crypto/key_source.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>

#include "pg/errors.hpp"

namespace pgtrain::pg::crypto {
namespace {

class KeySource : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/pgtrain-keys.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    for (const char *name : {"/keys", "/link", "/pipe", "/note"}) unlink((folder_ + name).c_str());
    rmdir(folder_.c_str());
  }
  std::string write(const std::string &text, mode_t mode) {
    const std::string path = folder_ + "/keys";
    std::ofstream(path) << text;
    chmod(path.c_str(), mode);
    return path;
  }
  std::string folder_;
};

// Detail and hint of the refusal.
template <class Body>
std::string refusal(Body &&body) {
  try {
    body();
  } catch (const Error &error) {
    EXPECT_STREQ(error.sqlstate(), "PT503");
    EXPECT_FALSE(error.hint().empty());
    return error.detail();
  }
  return "nothing was thrown";
}

TEST_F(KeySource, ReadsAFileOfTheServersOwn) {
  EXPECT_EQ(read_key_file(write("some text\n", 0600)).view(), "some text\n");
  EXPECT_EQ(read_key_file(write("", 0400)).size(), 0u);
  const std::string path = write("text", 0600), link = folder_ + "/link";
  ASSERT_EQ(symlink(path.c_str(), link.c_str()), 0);
  EXPECT_EQ(read_key_file(link).view(), "text");
}

TEST_F(KeySource, RefusesAFileThatOthersMayUse) {
  for (const mode_t mode : {0604u, 0602u, 0640u, 0620u, 0610u, 0601u, 0777u})
    EXPECT_NE(refusal([&] { read_key_file(write("text", mode)); }).find("Others than the server's user may use it"), std::string::npos) << mode;
}

TEST_F(KeySource, RefusesWhatIsNoFileAtOnce) {
  EXPECT_EQ(refusal([&] { read_key_file(folder_ + "/none"); }), "No such file or directory.");
  EXPECT_EQ(refusal([&] { read_key_file(folder_); }), "It is no regular file.");
  const std::string pipe = folder_ + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(refusal([&] { read_key_file(pipe); }), "It is no regular file.");
  EXPECT_NE(refusal([&] { read_key_file(write(std::string(key_text_max, 'x'), 0600)); }).find("bytes or more"), std::string::npos);
}

TEST_F(KeySource, ReadsWhatACommandPrints) {
  EXPECT_EQ(read_key_command("printf 'some '; printf text", 10000).view(), "some text");
  EXPECT_EQ(read_key_command("cat", 10000).size(), 0u);  // its input is empty
  EXPECT_EQ(read_key_command("true", 10000).size(), 0u);
}

TEST_F(KeySource, RefusesACommandThatEndsBadly) {
  EXPECT_EQ(refusal([] { read_key_command("echo key; exit 7", 10000); }), "It ended with status 7.");
  EXPECT_EQ(refusal([] { read_key_command("echo key; kill -9 $$", 10000); }), "It was killed by a signal.");
  EXPECT_EQ(refusal([] { read_key_command("no-such-program-anywhere 2>/dev/null", 10000); }), "It ended with status 127.");
  EXPECT_NE(refusal([] { read_key_command("yes", 10000); }).find("bytes or more"), std::string::npos);
}

// Where the shell was kept from coming as far as it shall, it is given longer.
TEST_F(KeySource, EndsACommandThatTakesTooLongAndItsChildren) {
  const std::string note = folder_ + "/note";
  const auto began = std::chrono::steady_clock::now();
  pid_t child = 0;
  for (int limit_ms = 200; child == 0 && limit_ms <= 5000; limit_ms *= 5) {
    EXPECT_NE(refusal([&] { read_key_command("sleep 100 & echo $! > " + note + "; wait", limit_ms); }).find("was killed"), std::string::npos);
    std::ifstream(note) >> child;
  }
  std::string deaf;
  for (int limit_ms = 200; deaf.find("did not end in time") == std::string::npos && limit_ms <= 5000; limit_ms *= 5)
    deaf = refusal([&] { read_key_command("exec >&-; sleep 100", limit_ms); });
  EXPECT_NE(deaf.find("did not end in time"), std::string::npos) << deaf;
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(50));
  ASSERT_GT(child, 0);
  // Gone, or dead and not yet collected by whoever inherited it.
  for (int tried = 0; tried < 1000 && kill(child, 0) == 0; ++tried) {
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string text((std::istreambuf_iterator<char>(stat)), {});
    if (text.find(") Z ") != std::string::npos) return;
    usleep(10000);
  }
  EXPECT_NE(kill(child, 0), 0);
}

// The server starts with its signals blocked; the command must not inherit that.
TEST_F(KeySource, StartsACommandWithoutBlockedSignals) {
  sigset_t all, before;
  sigfillset(&all);
  ASSERT_EQ(sigprocmask(SIG_BLOCK, &all, &before), 0);
  const LockedBytes mask = read_key_command("grep SigBlk /proc/self/status", 10000);
  ASSERT_EQ(sigprocmask(SIG_SETMASK, &before, nullptr), 0);
  EXPECT_EQ(mask.view(), "SigBlk:\t0000000000000000\n");
}

}  // namespace
}  // namespace pgtrain::pg::crypto
