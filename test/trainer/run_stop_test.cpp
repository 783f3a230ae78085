// run_stop_test.cpp: a run that is cancelled, paused, deserted or killed: how fast it leaves, what it leaves behind, and
// that it goes on exactly.
#include <signal.h>

#include <random>

#include "trainer/child.hpp"
#include "support/seed.hpp"

namespace pgtrain::trainer::test {
namespace {

using namespace protocol;
const std::string program = PGTRAIN_TRAINER;
using Clock = std::chrono::steady_clock;

// Starts a run, acts once at the first Progress of at least `step`, and plays on to the end.
Transcript act_at(const JobFolder& folder, const down::Job& job, int64_t step, const std::function<void(Child&)>& act,
                  std::chrono::milliseconds* latency = nullptr) {
  Child child(program, folder);
  start_job(child, job);
  std::optional<Clock::time_point> acted;
  const Transcript run = play(child, folder, [&](const UpMessage& message) {
    const auto* now = std::get_if<up::Progress>(&message);
    if (now == nullptr || now->step < step || acted) return;
    acted = Clock::now();
    act(child);
  });
  EXPECT_EQ(child.wait().code, 0);
  EXPECT_TRUE(acted) << "the run ended before the test could act";
  if (latency != nullptr && acted) *latency = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - *acted);
  return run;
}

TEST(RunStop, CancelIsQuickAndKeepsNothing) {
  std::chrono::milliseconds latency = 1h;
  // One micro-batch of this size takes milliseconds. Of a busy machine that stood still meanwhile another try tells more.
  for (int tries = 0; tries < 5 && latency > 3s; ++tries) {
    JobFolder folder;
    const down::Job job = small_job(folder, {{"steps", "100000"}, {"batch_size", "4"}, {"checkpoint_every", "0"}});
    const Transcript run = act_at(folder, job, 1, [](Child& child) { child.send(down::Cancel{}); }, &latency);
    ASSERT_TRUE(run.done);
    EXPECT_EQ(run.done->status, DoneStatus::Cancelled);
    EXPECT_TRUE(run.files.empty());
    EXPECT_EQ(folder.names(), std::vector<std::string>{"data.samples"});
  }
  EXPECT_LT(latency.count(), 3000);
}

TEST(RunStop, PausedAndResumedEqualsUninterrupted) {
  const std::vector<ConfigPair> config = {{"steps", "400"}, {"batch_size", "2"}, {"evaluate_every", "150"}, {"evaluation_batches", "2"}};
  JobFolder whole;
  const Transcript expected = run_job(program, whole, small_job(whole, config));
  ASSERT_TRUE(expected.done);
  const std::function<void(Child&)> ways[] = {[](Child& child) { child.send(down::Pause{}); }, [](Child& child) { child.close_input(); },
                                              [](Child& child) { child.signal(SIGTERM); }};
  for (const auto& way : ways) {
    std::optional<Transcript> found;
    // One that was done before it was asked says nothing: then another one.
    for (int tries = 0; tries < 20 && !(found && found->done && found->done->status == DoneStatus::Paused); ++tries) {
      JobFolder first;
      found = act_at(first, small_job(first, config), 1, way);
    }
    const Transcript& paused = *found;
    ASSERT_TRUE(paused.done);
    ASSERT_EQ(paused.done->status, DoneStatus::Paused);
    ASSERT_EQ(paused.files.size(), 1u);
    const auto& [name, file] = *paused.files.begin();
    EXPECT_EQ(file.kind, FileKind::Checkpoint);
    EXPECT_EQ(file.step, paused.done->steps);
    EXPECT_LT(file.step, 400);
    JobFolder second(1, 2);
    down::Job job = small_job(second, config);
    second.write("checkpoint.safetensors", paused.contents.at(name));
    job.resume = {"checkpoint.safetensors", file.bytes, file.sha256};
    const Transcript resumed = run_job(program, second, job);
    ASSERT_TRUE(resumed.done) << (resumed.failed ? resumed.failed->message : "");
    EXPECT_EQ(resumed.done->steps, 400);
    EXPECT_EQ(resumed.done->tokens, expected.done->tokens);
    EXPECT_TRUE(resumed.contents.at("model.safetensors") == expected.contents.at("model.safetensors")) << "paused at step " << file.step;
  }
}

TEST(RunStop, KilledAtAnyTimeLeavesNothingOutsideItsFolder) {
  std::mt19937 random(pgtrain::test::seed());
  for (int round = 0; round < 6; ++round) {
    JobFolder folder;
    const fs::path around = folder.path().parent_path();
    Child child(program, folder);
    start_job(child, small_job(folder, {{"steps", "100000"}, {"checkpoint_every", "2"}, {"batch_size", "2"}}));
    const uint64_t messages = 3 + random() % 60;
    for (uint64_t i = 0; i < messages; ++i) {
      const auto message = child.next();
      ASSERT_TRUE(message);
      if (auto* file = std::get_if<up::File>(&*message)) {
        EXPECT_EQ(folder.read(file->name).size(), file->bytes) << "an announced file is whole";
        child.send(down::Ack{file->name});
      }
    }
    child.signal(SIGKILL);
    EXPECT_EQ(child.wait().signal, SIGKILL);
    size_t entries = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(around)) ++entries;
    EXPECT_EQ(entries, 1u) << "only the job folder";
    for (const std::string& name : folder.names()) EXPECT_TRUE(name == "data.samples" || name.starts_with("checkpoint")) << name;
  }
}

TEST(RunStop, MaxSecondsCompletesWithWhatThereIs) {
  JobFolder folder;
  const Transcript run = run_job(program, folder, small_job(folder, {{"steps", "10000000"}, {"batch_size", "2"}, {"max_seconds", "0.3"}}));
  ASSERT_TRUE(run.done);
  EXPECT_EQ(run.done->status, DoneStatus::Completed);
  EXPECT_LT(run.done->steps, 10000000);
  EXPECT_TRUE(run.files.count("model.safetensors"));
}

}  // namespace
}  // namespace pgtrain::trainer::test
