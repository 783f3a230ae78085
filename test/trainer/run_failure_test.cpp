// run_failure_test.cpp: what a run says when it cannot be done: the right code, and a message with the numbers.
#include "trainer/child.hpp"

namespace pgtrain::trainer::test {
namespace {

using namespace protocol;
const std::string program = PGTRAIN_TRAINER;

up::Failed failure_of(const JobFolder& folder, const down::Job& job) {
  const Transcript run = run_job(program, folder, job, 1);
  EXPECT_FALSE(run.done);
  if (!run.failed) {
    ADD_FAILURE() << "it did not fail";
    return {};
  }
  EXPECT_TRUE(std::holds_alternative<up::Failed>(run.all.back())) << "Failed is the last word";
  EXPECT_TRUE(run.files.empty());
  return *run.failed;
}

TEST(RunFailure, TooManyThreadsAreRefusedBeforeAnyIsStarted) {
  JobFolder folder;
  down::Job job = small_job(folder);
  for (const uint32_t threads : {1025u, 100000u, 0x80000001u, 0xffffffffu}) {
    job.threads = threads;
    const up::Failed failed = failure_of(folder, job);
    EXPECT_EQ(failed.code, FailureCode::ConfigInvalid) << failed.message;
    EXPECT_NE(failed.message.find(std::to_string(threads)), std::string::npos) << failed.message;
  }
}

// Whatever the reason, a device that does not open names the way out of the sandbox, which may be it.
TEST(RunFailure, ACudaDeviceThatDoesNotOpenNamesTheSandbox) {
  JobFolder folder;
  down::Job job = small_job(folder);
  job.device = "cuda:77";
  const Transcript run = run_job(program, folder, job, 1);
  ASSERT_TRUE(run.failed);
  EXPECT_EQ(run.failed->code, FailureCode::DeviceFault);
  ASSERT_FALSE(run.logs.empty());
  const std::string& report = run.logs.front().text;
  const bool is_sandboxed = report.find("Landlock),") != std::string::npos || report.find("seccomp),") != std::string::npos;
  EXPECT_EQ(run.failed->hint.find("PGTRAIN_SANDBOX=off") != std::string::npos, is_sandboxed) << run.failed->hint << "\n" << report;
}

TEST(RunFailure, BadDataIsNamed) {
  JobFolder folder;
  down::Job job = small_job(folder);
  job.data = folder.write_samples({"good", "bad \xff byte"});
  const up::Failed utf8 = failure_of(folder, job);
  EXPECT_EQ(utf8.code, FailureCode::DataInvalid);
  EXPECT_NE((utf8.message + utf8.detail).find("2"), std::string::npos) << utf8.message << utf8.detail;
  const std::string cut("\x40\0\0\0short", 9);
  folder.write("data.samples", cut);
  job.data.bytes = cut.size();
  EXPECT_EQ(failure_of(folder, job).code, FailureCode::DataInvalid);
  folder.write("data.samples", "");
  job.data.bytes = 0;
  EXPECT_EQ(failure_of(folder, job).code, FailureCode::DataInvalid);
  job.data.bytes = 12;
  EXPECT_NE(failure_of(folder, job).message.find("12"), std::string::npos);
  job.data.name = "other.samples";
  EXPECT_EQ(failure_of(folder, job).code, FailureCode::IoError);
}

TEST(RunFailure, ChangedDataIsNoticed) {
  JobFolder folder;
  down::Job job = small_job(folder);
  job.data.sha256 = std::string(64, '0');
  const up::Failed failed = failure_of(folder, job);
  EXPECT_EQ(failed.code, FailureCode::DataInvalid);
  EXPECT_NE(failed.message.find("data.samples"), std::string::npos);
}

TEST(RunFailure, AModelThatDoesNotFitIsRefusedWithTheNumbers) {
  JobFolder folder;
  down::Job job = small_job(folder, {{"layers", "96"}, {"width", "8192"}, {"heads", "64"}, {"context", "8192"}, {"batch_size", "64"}});
  const up::Failed huge = failure_of(folder, job);
  EXPECT_EQ(huge.code, FailureCode::OutOfMemory);
  EXPECT_NE(huge.message.find("iB"), std::string::npos) << huge.message;
  EXPECT_NE(huge.hint.find("batch_size"), std::string::npos);
  down::Job limited = small_job(folder);
  limited.memory_limit_bytes = 1 << 20;
  const up::Failed over = failure_of(folder, limited);
  EXPECT_EQ(over.code, FailureCode::OutOfMemory);
  EXPECT_NE(over.message.find("1.0 MiB"), std::string::npos) << over.message;
}

TEST(RunFailure, ALossThatIsNoNumberEndsTheRun) {
  JobFolder folder;
  const up::Failed failed =
      failure_of(folder, small_job(folder, {{"learning_rate", "1e9"}, {"warmup_steps", "0"}, {"gradient_clip", "0"}, {"steps", "300"}}));
  EXPECT_EQ(failed.code, FailureCode::NonFiniteLoss) << failed.message;
}

TEST(RunFailure, ConfigAndDeviceAreChecked) {
  JobFolder folder;
  const up::Failed unknown = failure_of(folder, small_job(folder, {{"learning_rat", "1"}}));
  EXPECT_EQ(unknown.code, FailureCode::ConfigInvalid);
  EXPECT_NE(unknown.hint.find("learning_rate"), std::string::npos);
  down::Job job = small_job(folder);
  job.device = "cuda:99";
  EXPECT_EQ(failure_of(folder, job).code, FailureCode::DeviceFault);
}

TEST(RunFailure, ABrokenCheckpointIsRefused) {
  JobFolder folder;
  down::Job job = small_job(folder, {{"steps", "5"}});
  folder.write("checkpoint.safetensors", "not a checkpoint at all");
  job.resume = {"checkpoint.safetensors", 23, ""};
  EXPECT_EQ(failure_of(folder, job).code, FailureCode::ArtifactInvalid);
  job.resume.sha256 = std::string(64, 'f');
  EXPECT_EQ(failure_of(folder, job).code, FailureCode::ArtifactInvalid);
}

TEST(RunFailure, GenerateWithoutModel) {
  JobFolder folder;
  down::Job job;
  job.kind = JobKind::Generate;
  job.device = "cpu";
  EXPECT_EQ(failure_of(folder, job).code, FailureCode::ModelMissing);
}

}  // namespace
}  // namespace pgtrain::trainer::test
