// session_test.cpp: the trainer's end of the pipe, tested through the fake trainer, which shares it with the real one.
#include <signal.h>
#include <unistd.h>

#include "trainer/child.hpp"
#include "trainer/session.hpp"

namespace pgtrain::trainer::test {
namespace {

using namespace protocol;
const std::string program = PGTRAIN_FAKE_TRAINER;

TEST(Session, AWholeRun) {
  JobFolder folder;
  const Transcript run = run_job(program, folder, small_job(folder, {{"steps", "10"}, {"checkpoint_every", "4"}}));
  ASSERT_TRUE(run.plan && run.done);
  EXPECT_TRUE(std::holds_alternative<up::Hello>(run.all.front()));
  EXPECT_TRUE(std::holds_alternative<up::Done>(run.all.back()));
  EXPECT_EQ(run.progress.size(), 10u);
  EXPECT_EQ(run.done->steps, 10);
  EXPECT_EQ(run.files.size(), 5u) << "two checkpoints and three artifacts";
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"config.json", "data.samples", "model.safetensors", "tokenizer.json"}))
      << "stored checkpoints are deleted";
}

// Sends bytes to a fresh trainer and expects it to say why it will not go on.
std::string refusal(const std::string& bytes) {
  JobFolder folder;
  Child child(program, folder);
  child.send_bytes(bytes);
  const Transcript run = play(child, folder);
  EXPECT_EQ(child.wait().code, 2);
  if (!run.failed) return "";
  EXPECT_EQ(run.failed->code, FailureCode::ProtocolViolation);
  return run.failed->message;
}

TEST(Session, ABrokenWorkerIsToldSo) {
  JobFolder folder;
  const std::string hello = encode(down::Hello{protocol_version, "test"});
  const std::string job = encode(small_job(folder, {{"steps", "100000"}}));
  EXPECT_NE(refusal(encode(down::Hello{99, "next year's"})).find("version 99 (build next year's)"), std::string::npos);
  EXPECT_NE(refusal(job).find("before Hello"), std::string::npos);
  EXPECT_NE(refusal("psql: error\n").find("unknown message type"), std::string::npos);
  EXPECT_NE(refusal(std::string("J\xff\xff\xff\xff", 5)).find("4294967295"), std::string::npos);
}

TEST(Session, ASecondJobIsRefused) {
  JobFolder folder;
  Child child(program, folder);
  const down::Job job = small_job(folder, {{"steps", "100000"}});
  start_job(child, job);
  child.send(job);
  const Transcript run = play(child, folder);
  ASSERT_TRUE(run.failed);
  EXPECT_NE(run.failed->message.find("second Job"), std::string::npos);
  child.wait();
}

TEST(Session, EndOfInputBeforeAJobMeansLeave) {
  JobFolder folder;
  Child child(program, folder);
  child.close_input();
  play(child, folder);
  EXPECT_EQ(child.wait().code, 4);
}

TEST(Session, JobInSingleBytes) {
  JobFolder folder;
  Child child(program, folder);
  const std::string bytes = encode(down::Hello{protocol_version, "test"}) + encode(small_job(folder, {{"steps", "2"}}));
  for (const char byte : bytes) child.send_bytes(std::string(1, byte));
  EXPECT_TRUE(play(child, folder).done);
  EXPECT_EQ(child.wait().code, 0);
}

// Would take minutes and makes no checkpoint by itself, however long the test is kept from acting.
down::Job long_job(const JobFolder& folder) { return small_job(folder, {{"steps", "100000"}, {"checkpoint_every", "0"}}); }

// Starts a long run and does something at its fifth step.
Transcript interrupted(const JobFolder& folder, const down::Job& job, const std::function<void(Child&)>& act, int code = 0) {
  Child child(program, folder);
  start_job(child, job);
  bool is_done = false;
  const Transcript run = play(child, folder, [&](const UpMessage& message) {
    const auto* now = std::get_if<up::Progress>(&message);
    if (now != nullptr && now->step >= 5 && !is_done) {
      is_done = true;
      act(child);
    }
  });
  EXPECT_EQ(child.wait().code, code);
  return run;
}

TEST(Session, CancelKeepsNothing) {
  JobFolder folder;
  const Transcript run = interrupted(folder, long_job(folder), [](Child& child) { child.send(down::Cancel{}); });
  ASSERT_TRUE(run.done);
  EXPECT_EQ(run.done->status, DoneStatus::Cancelled);
  EXPECT_TRUE(run.files.empty());
}

TEST(Session, PauseTerminateAndEndOfInputAllLeaveACheckpoint) {
  const std::function<void(Child&)> ways[] = {[](Child& child) { child.send(down::Pause{}); }, [](Child& child) { child.signal(SIGTERM); },
                                              [](Child& child) { child.close_input(); }};
  for (const auto& way : ways) {
    JobFolder folder;
    const Transcript run = interrupted(folder, long_job(folder), way);
    ASSERT_TRUE(run.done);
    EXPECT_EQ(run.done->status, DoneStatus::Paused);
    ASSERT_EQ(run.files.size(), 1u);
    EXPECT_EQ(run.files.begin()->second.step, run.done->steps);
  }
}

TEST(Session, ResumedEqualsUninterrupted) {
  JobFolder first;
  const Transcript paused = interrupted(first, long_job(first), [](Child& child) { child.send(down::Pause{}); });
  ASSERT_TRUE(paused.done);
  ASSERT_EQ(paused.files.size(), 1u);
  // The fake trainer's steps do not depend on how many there are, so that the end can lie behind wherever it was paused.
  const std::vector<ConfigPair> config = {{"steps", std::to_string(paused.done->steps + 10)}, {"checkpoint_every", "0"}};
  JobFolder whole;
  const Transcript expected = run_job(program, whole, small_job(whole, config));
  JobFolder second(1, 2);
  down::Job job = small_job(second, config);
  second.write("checkpoint.safetensors", paused.contents.begin()->second);
  job.resume = {"checkpoint.safetensors", paused.contents.begin()->second.size(), paused.files.begin()->second.sha256};
  const Transcript resumed = run_job(program, second, job);
  EXPECT_EQ(resumed.contents.at("model.safetensors"), expected.contents.at("model.safetensors"));
  EXPECT_EQ(resumed.progress.size(), 10u) << "it did not start again";
}

TEST(Session, APeerThatStopsReadingIsNoticed) {
  JobFolder folder;
  Child child(program, folder);
  down::Job job = small_job(folder, {{"steps", "100000"}});
  job.grace_ms = 200;
  start_job(child, job);
  child.next();
  child.close_output();
  const Exit exit = child.wait();
  EXPECT_EQ(exit.signal, 0) << "no SIGPIPE";
}

TEST(Session, AHungTrainerLeavesAtTheGraceTimeOnceInputEnds) {
  JobFolder folder;
  Child child(program, folder);
  down::Job job = small_job(folder, {{"steps", "10"}, {"sample_prompt", "fake: hang@step3"}});
  job.grace_ms = 100;
  start_job(child, job);
  play(child, folder, [&](const UpMessage& message) {
    const auto* now = std::get_if<up::Progress>(&message);
    if (now != nullptr && now->step == 3) child.close_input();
  });
  EXPECT_EQ(child.wait(5s).code, 4);
}

TEST(Session, HeartbeatsCountWork) {
  JobFolder folder;
  Child child(program, folder);
  start_job(child, long_job(folder));
  int beats = 0;
  const Transcript run = play(child, folder, [&](const UpMessage& message) {
    if (std::holds_alternative<up::Heartbeat>(message) && ++beats == 4) child.send(down::Cancel{});
  });
  EXPECT_EQ(child.wait().code, 0);
  ASSERT_GE(run.heartbeats.size(), 4u);
  for (size_t i = 1; i < run.heartbeats.size(); ++i) EXPECT_GT(run.heartbeats[i].work_units, run.heartbeats[i - 1].work_units);
  EXPECT_GT(run.heartbeats.back().resident_bytes, 100000u);
}

// The heart beats in a thread of its own, which may be about to speak when the run ends.
TEST(Session, NothingIsSaidAfterTheLastWord) {
  int down_ends[2], up_ends[2];
  ASSERT_EQ(pipe(down_ends), 0);
  ASSERT_EQ(pipe(up_ends), 0);
  const up::Failed failed{FailureCode::DeviceFault, "the device fell", "", ""};
  prepare_signals();
  {
    Session session(down_ends[0], up_ends[1]);
    EXPECT_TRUE(session.send(failed));
    EXPECT_FALSE(session.send(up::Heartbeat{1, 1}));
    EXPECT_FALSE(session.send(up::Done{}));
  }
  close(up_ends[1]);
  std::string said(1000, '\0');
  const ssize_t count = read(up_ends[0], said.data(), said.size());
  ASSERT_GT(count, 0);
  said.resize(static_cast<size_t>(count));
  EXPECT_EQ(said, encode(failed));
  for (const int end : {down_ends[0], down_ends[1], up_ends[0]}) close(end);
}

TEST(Session, AHungTrainerIsSilent) {
  JobFolder folder;
  Child child(program, folder);
  start_job(child, small_job(folder, {{"steps", "10"}, {"sample_prompt", "fake: hang@step3"}}));
  for (;;) {
    const auto message = child.next();
    ASSERT_TRUE(message);
    const auto* now = std::get_if<up::Progress>(&*message);
    if (now != nullptr && now->step == 3) break;
  }
  // What was said before the hang may still come; then 25 heartbeat intervals of silence.
  while (child.next(500ms)) {
  }
  EXPECT_TRUE(child.is_timed_out());
}

TEST(Session, ACheckpointWaitsForTheAckOfTheOneBefore) {
  JobFolder folder;
  Child child(program, folder);
  start_job(child, small_job(folder, {{"steps", "50"}, {"checkpoint_every", "10"}}));
  std::vector<std::string> announced;
  int64_t step = 0;
  // Heartbeats go on while it waits for the worker; a dozen of them after the second checkpoint was due are enough.
  for (int beats = 0; beats < 12;) {
    const auto message = child.next();
    ASSERT_TRUE(message);
    if (auto* file = std::get_if<up::File>(&*message)) announced.push_back(file->name);
    if (auto* now = std::get_if<up::Progress>(&*message)) step = now->step;
    if (step == 20 && std::holds_alternative<up::Heartbeat>(*message)) ++beats;
  }
  EXPECT_EQ(announced, std::vector<std::string>{"checkpoint-10.safetensors"});
  EXPECT_EQ(step, 20);
}

}  // namespace
}  // namespace pgtrain::trainer::test
