// run_test.cpp: whole runs of the real trainer through its pipe: plan, train to Done, generate from what was trained.
#include <algorithm>
#include <fstream>

#include "protocol/run_config.hpp"
#include "trainer/child.hpp"

namespace pgtrain::trainer::test {
namespace {

using namespace protocol;
const std::string program = PGTRAIN_TRAINER;

TEST(Run, TrainsToDone) {
  JobFolder folder;
  const Transcript run =
      run_job(program, folder, small_job(folder, {{"steps", "30"}, {"samples", "1"}, {"sample_tokens", "8"}, {"checkpoint_every", "10"}}));
  ASSERT_FALSE(run.failed) << run.failed->message;
  ASSERT_TRUE(run.plan && run.done);
  EXPECT_TRUE(std::holds_alternative<up::Hello>(run.all.front()));
  EXPECT_TRUE(std::holds_alternative<up::Done>(run.all.back()));
  EXPECT_EQ(run.done->status, DoneStatus::Completed);
  EXPECT_EQ(run.done->steps, 30);
  EXPECT_EQ(run.done->tokens, run.plan->planned_tokens);
  EXPECT_EQ(run.plan->tokens_per_step, 16u * 64);
  EXPECT_LE(run.done->peak_bytes, run.plan->peak_bytes) << "the plan is an upper bound";
  EXPECT_LT(run.done->loss_after, run.done->loss_before) << "it learns";
  EXPECT_FALSE(run.progress.empty());
  EXPECT_EQ(run.progress.back().step, 30);
  EXPECT_EQ(run.evaluations.front().phase, EvaluationPhase::Before);
  EXPECT_EQ(run.evaluations.back().phase, EvaluationPhase::After);
  EXPECT_FALSE(run.samples.empty());
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json"}) EXPECT_TRUE(run.files.count(name)) << name;
  EXPECT_TRUE(run.files.count("checkpoint-10.safetensors"));
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"config.json", "data.samples", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}));
  ASSERT_FALSE(run.logs.empty());
  EXPECT_NE(run.logs.front().text.find("sandbox:"), std::string::npos);
}

TEST(Run, EvaluatesOnTheValidationSamplesOfTheJob) {
  JobFolder folder;
  down::Job job = small_job(folder, {{"steps", "6"}, {"evaluate_every", "3"}});
  job.validation = folder.write_samples({"the number 12", "the number 13 is odd", "the number 14"}, "validation.samples");
  const Transcript run = run_job(program, folder, job);
  ASSERT_TRUE(run.done) << (run.failed ? run.failed->message : "");
  ASSERT_EQ(run.evaluations.size(), 3u);
  for (const up::Evaluation& found : run.evaluations) {
    EXPECT_EQ(found.samples, 3u);
    EXPECT_EQ(found.tokens, 13u + 20 + 13 + 3) << "each byte and each end";
  }
  job.validation.bytes += 1;
  const Transcript other = run_job(program, folder, job, 1);
  ASSERT_TRUE(other.failed);
  EXPECT_EQ(other.failed->code, FailureCode::DataInvalid);
  job.validation.bytes -= 1;
  job.config.emplace_back("held_out_fraction", "0.1");
  const Transcript both = run_job(program, folder, job, 1);
  ASSERT_TRUE(both.failed);
  EXPECT_EQ(both.failed->code, FailureCode::ConfigInvalid);
}

TEST(Run, SaysThatOneSampleLeavesNothingToEvaluateOn) {
  const auto warnings = [](const std::vector<ConfigPair>& config, bool has_validation) {
    JobFolder folder;
    down::Job job = small_job(folder, config);
    job.data = folder.write_samples({"a"});
    if (has_validation) job.validation = folder.write_samples({"b"}, "validation.samples");
    const Transcript run = run_job(program, folder, job);
    EXPECT_EQ(run.evaluations.size(), has_validation ? 2u : 0u);
    return std::count_if(run.logs.begin(), run.logs.end(), [](const up::Log& log) { return log.level == LogLevel::Warning && log.text.find("nothing is held out") != std::string::npos; });
  };
  EXPECT_EQ(warnings({{"steps", "2"}}, false), 1);
  EXPECT_EQ(warnings({{"steps", "2"}, {"held_out_fraction", "0"}}, false), 0) << "nothing was asked for";
  EXPECT_EQ(warnings({{"steps", "2"}}, true), 0);
}

TEST(Run, EqualSeedsGiveEqualBytes) {
  std::string models[3];
  const char* seeds[] = {"5", "5", "6"};
  for (int i = 0; i < 3; ++i) {
    JobFolder folder;
    models[i] = run_job(program, folder, small_job(folder, {{"steps", "5"}, {"seed", seeds[i]}})).contents["model.safetensors"];
  }
  EXPECT_FALSE(models[0].empty());
  EXPECT_EQ(models[0], models[1]);
  EXPECT_NE(models[0], models[2]);
}

TEST(Run, PlanAnswersAndLeaves) {
  JobFolder folder;
  down::Job job = small_job(folder);
  job.kind = JobKind::Plan;
  job.data = {"", 1000000, ""};
  const Transcript run = run_job(program, folder, job);
  ASSERT_TRUE(run.plan && run.done);
  EXPECT_GT(run.plan->parameters, 100000u);
  EXPECT_GE(run.plan->peak_bytes, run.plan->weight_bytes + run.plan->gradient_bytes + run.plan->optimizer_bytes);
  EXPECT_GT(run.plan->device_memory_bytes, 0u);
  EXPECT_FALSE(run.plan->device.empty());
  EXPECT_TRUE(run.files.empty());
}

// With a model that is deeper than what is tried out. The bounds are wide because others use the machine at the same time.
TEST(Run, MeasuresWhatStepsTake) {
  const std::vector<ConfigPair> config = {{"layers", "8"}, {"width", "128"}, {"heads", "4"}, {"context", "128"}, {"steps", "12"}, {"batch_size", "4"}, {"gradient_accumulation", "2"}, {"held_out_fraction", "0"}};
  JobFolder folder;
  down::Job job = small_job(folder, config);
  job.kind = JobKind::Measure;
  job.data = {"", 1000000, ""};
  const Transcript measured = run_job(program, folder, job);
  ASSERT_TRUE(measured.plan && measured.speed && measured.done);
  EXPECT_EQ(measured.speed->layers, 3u);
  EXPECT_GT(measured.speed->step_seconds, measured.speed->evaluation_seconds);
  EXPECT_GT(measured.speed->evaluation_seconds, 0.0);
  EXPECT_TRUE(measured.files.empty());
  JobFolder second;
  const Transcript run = run_job(program, second, small_job(second, config));
  ASSERT_TRUE(run.done);
  const double found = run.done->seconds / 12;
  EXPECT_LT(measured.speed->step_seconds, 4 * found);
  EXPECT_GT(measured.speed->step_seconds, found / 4);
}

TEST(Run, GeneratesFromWhatWasTrained) {
  JobFolder folder;
  const Transcript trained = run_job(program, folder, small_job(folder, {{"steps", "20"}}));
  ASSERT_TRUE(trained.done);
  JobFolder second(2);
  down::Job job;
  job.kind = JobKind::Generate;
  job.device = "cpu";
  job.threads = 1;
  for (const auto& [name, content] : trained.contents) {
    if (!name.starts_with("checkpoint")) {
      second.write(name, content);
      job.model.push_back({name, content.size(), trained.files.at(name).sha256});
    }
  }
  job.generate.prompts = {"the number "};
  job.generate.max_tokens = 12;
  job.generate.seed = 1;
  const Transcript one = run_job(program, second, job), other = run_job(program, second, job);
  const auto text_of = [](const Transcript& run) {
    std::string text;
    for (const up::Piece& piece : run.pieces) text += piece.text;
    return text;
  };
  ASSERT_FALSE(one.pieces.empty());
  ASSERT_TRUE(one.done);
  EXPECT_GT(one.done->tokens, 0u);
  EXPECT_LE(one.done->tokens, 12u);
  EXPECT_EQ(text_of(one), text_of(other));
  EXPECT_NE(one.pieces.back().end_reason, "");
  job.kind = JobKind::Evaluate;
  job.data = second.write_samples({"the number 12", "the number 13 is odd"});
  const Transcript measured = run_job(program, second, job);
  ASSERT_EQ(measured.evaluations.size(), 1u);
  EXPECT_EQ(measured.evaluations[0].samples, 2u);
  EXPECT_EQ(measured.evaluations[0].tokens, 35u) << "each byte and each end";
  EXPECT_GT(measured.evaluations[0].loss, 0);
  second.write("model.safetensors", "changed");
  const Transcript broken = run_job(program, second, job, 1);
  ASSERT_TRUE(broken.failed);
  EXPECT_EQ(broken.failed->code, FailureCode::ArtifactInvalid);
  EXPECT_NE(broken.failed->message.find("model.safetensors"), std::string::npos);
}

// Libraries start threads before main; the rules must hold in those as well. The file rules cannot be seen from outside,
// but "no new privileges" is set with them, before the program is started again.
TEST(Run, EveryThreadIsInTheSandbox) {
  JobFolder folder;
  Child child(program, folder);
  down::Job job = small_job(folder, {{"steps", "100000"}});
  job.threads = 2;
  start_job(child, job);
  while (const auto message = child.next())
    if (std::holds_alternative<up::Progress>(*message)) break;
  size_t threads = 0;
  for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(child.pid()) + "/task")) {
    std::ifstream status(task.path() / "status");
    const std::string text((std::istreambuf_iterator<char>(status)), std::istreambuf_iterator<char>());
    EXPECT_NE(text.find("NoNewPrivs:\t1"), std::string::npos) << text;
    EXPECT_NE(text.find("Seccomp:\t2"), std::string::npos) << text;
    ++threads;
  }
  EXPECT_GE(threads, 3u);
}

// The protocol's table of sizes and the engine's must agree: what is frozen is accepted, with the frozen sizes.
TEST(Run, EverySizeIsPlannedAsItIsFrozen) {
  for (const char* size : {"nano", "micro", "tiny", "small", "medium", "base"}) {
    JobFolder folder;
    down::Job job = small_job(folder, {{"steps", "10"}});
    job.kind = JobKind::Plan;
    job.config[0].second = size;
    RunConfig config;
    ConfigError error;
    ASSERT_TRUE(freeze_config(job.config, config, error));
    job.config = config.pairs();
    Child child(program, folder);
    start_job(child, job);
    const Transcript run = play(child, folder);
    child.wait();
    ASSERT_TRUE(run.plan) << size << (run.failed ? run.failed->message : "");
    EXPECT_EQ(run.plan->tokens_per_step, config.tokens_per_step()) << size;
    const uint64_t width = config.unsigned64("width"), layers = config.unsigned64("layers");
    const uint64_t per_layer = 12 * width * width + 13 * width;
    const uint64_t expected = layers * per_layer + (config.unsigned64("vocab_size") + config.unsigned64("context")) * width + 2 * width;
    EXPECT_EQ(run.plan->parameters, expected) << size;
  }
}

}  // namespace
}  // namespace pgtrain::trainer::test
