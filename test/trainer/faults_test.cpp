// faults_test.cpp: the fake trainer's faults are what they are called; worker tests build on that.
#include <signal.h>

#include "trainer/child.hpp"

namespace pgtrain::trainer::test {
namespace {

using namespace protocol;
const std::string program = PGTRAIN_FAKE_TRAINER;

struct Ending {
  Transcript run;
  Exit exit;
};

Ending with_script(const std::string& script, uint32_t attempt = 1) {
  JobFolder folder(1, attempt);
  Child child(program, folder);
  down::Job job = small_job(folder, {{"steps", "6"}, {"checkpoint_every", "4"}, {"sample_prompt", "fake: " + script}});
  job.attempt = attempt;
  start_job(child, job);
  Ending ending;
  ending.run = play(child, folder);
  ending.exit = child.wait();
  return ending;
}

TEST(Faults, DeathAtEachPoint) {
  for (const char* point : {"job", "plan", "data", "step3", "checkpoint", "publish", "done"}) {
    EXPECT_EQ(with_script(std::string("segv@") + point).exit.signal, SIGSEGV) << point;
    EXPECT_EQ(with_script(std::string("exit3@") + point).exit.code, 3) << point;
  }
  EXPECT_EQ(with_script("kill@step2").exit.signal, SIGKILL);
  EXPECT_EQ(with_script("abort@step2").exit.signal, SIGABRT);
  EXPECT_EQ(with_script("segv@step3").run.progress.size(), 3u);
  EXPECT_FALSE(with_script("quit@publish").run.done);
}

TEST(Faults, OnlyInTheAttemptNamed) {
  EXPECT_EQ(with_script("kill@step2#1", 1).exit.signal, SIGKILL);
  EXPECT_EQ(with_script("kill@step2#1", 2).exit.code, 0);
}

TEST(Faults, FailuresByName) {
  const Ending ending = with_script("fail:device_fault@step1");
  ASSERT_TRUE(ending.run.failed);
  EXPECT_EQ(ending.run.failed->code, FailureCode::DeviceFault);
  EXPECT_EQ(ending.exit.code, 1);
}

TEST(Faults, AMistypedScriptNeverPasses) {
  const Ending ending = with_script("sgev@step1");
  ASSERT_TRUE(ending.run.failed);
  EXPECT_NE(ending.run.failed->message.find("sgev@step1"), std::string::npos);
}

// Plays until the stream breaks or falls silent; the child is killed by its owner.
std::string violation(const std::string& script) {
  JobFolder folder;
  Child child(program, folder);
  start_job(child, small_job(folder, {{"steps", "6"}, {"sample_prompt", "fake: " + script}}));
  while (child.next()) {
  }
  EXPECT_FALSE(child.is_timed_out()) << script;
  return child.error();
}

TEST(Faults, BrokenStreams) {
  EXPECT_NE(violation("garbage@step2"), "");
  EXPECT_NE(violation("huge@step2").find("4294967295"), std::string::npos);
  EXPECT_NE(violation("partial@step2").find("inside a frame"), std::string::npos);
  EXPECT_NE(violation("badutf8@step2").find("UTF-8"), std::string::npos);
  EXPECT_NE(violation("traversal@publish").find("../evil"), std::string::npos);
}

TEST(Faults, FloodArrivesWhole) {
  JobFolder folder;
  size_t count = 0;
  Child child(program, folder);
  start_job(child, small_job(folder, {{"steps", "2"}, {"sample_prompt", "fake: flood:100@step1 noise@step2"}}));
  play(child, folder, [&](const UpMessage& message) { count += std::holds_alternative<up::Metric>(message) ? 1 : 0; });
  EXPECT_EQ(child.wait().code, 0);
  EXPECT_GE(count, 100000u);
}

TEST(Faults, BeforeTheJobIsKnown) {
  JobFolder folder(77, 2);
  const fs::path copy = folder.path().parent_path() / "fake";
  fs::copy_file(program, copy);
  const auto ending = [&](const std::string& line) {
    folder.write("../fake.script", line);
    Child child(copy.string(), folder);
    start_job(child, small_job(folder, {{"steps", "2"}}));
    Ending found;
    found.run = play(child, folder);
    found.exit = child.wait();
    return found;
  };
  EXPECT_EQ(ending("77 segv@start\n").exit.signal, SIGSEGV);
  EXPECT_TRUE(ending("77 segv@start\n").run.all.empty());
  EXPECT_EQ(ending("77 segv@hello\n").run.all.size(), 1u);
  EXPECT_EQ(ending("77.2 exit3@start\n").exit.code, 3);
  EXPECT_EQ(ending("77.1 exit3@start\n").exit.code, 0);
  EXPECT_EQ(ending("78 exit3@start\n* exit4@hello\n").exit.code, 4);
  const Ending version = ending("* version@start\n");
  ASSERT_FALSE(version.run.all.empty());
  EXPECT_EQ(std::get<up::Hello>(version.run.all[0]).version, 99u);
}

}  // namespace
}  // namespace pgtrain::trainer::test
