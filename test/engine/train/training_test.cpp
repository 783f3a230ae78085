// Whole runs on small texts: learning, exact resume, stop requests, limits, failures by name, artifacts, generation.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <random>

#include "../naive_backend.hpp"
#include "../model_folder.hpp"
#include "../poisoned_backend.hpp"
#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/core/utf8.hpp"
#include "engine/data/documents.hpp"
#include "engine/io/file.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/train/generation.hpp"
#include "engine/train/training.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::train {
namespace {

// Sentences of a small grammar: much to learn in little time.
std::vector<std::string> sentences(int count, unsigned seed) {
  std::mt19937 random(seed);
  static const char* const kWho[] = {"the cat", "a dog", "my sister", "the old k\xC3\xB6nig"};
  static const char* const kDoes[] = {"sees", "likes", "paints", "\xE6\x97\xA5\xE6\x9C\xAC"};
  static const char* const kWhat[] = {"the moon", "a red house", "two birds"};
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i)
    out.push_back(std::string(kWho[random() % 4]) + " " + kDoes[random() % 4] + " " + kWhat[random() % 3] + (random() % 2 != 0 ? " today." : "."));
  return out;
}

TrainingOptions small_options() {
  TrainingOptions options;
  options.layers = 1, options.width = 16, options.heads = 2, options.context = 16, options.batch_size = 2;
  options.steps = 8, options.learning_rate = 1e-2, options.precision = "fp32", options.held_out_fraction = 0.1, options.evaluation_batches = 2;
  options.progress_interval_seconds = 0;
  return options;
}

struct Recorder : Observer {
  std::vector<std::string> tasks;
  std::vector<Progress> steps;
  std::vector<std::pair<EvaluationPhase, double>> evaluations;
  std::vector<std::string> samples;
  std::vector<std::pair<std::int64_t, std::string>> checkpoints;
  MemoryPlan planned;
  int asked = 0;
  std::function<StopRequest(Recorder&)> decide;

  void task(const std::string& name, const std::string& state) override { tasks.push_back(name + " " + state); }
  void plan(const MemoryPlan& plan) override { planned = plan; }
  void progress(const Progress& progress) override { steps.push_back(progress); }
  void evaluation(EvaluationPhase phase, const Evaluation& found, std::int64_t) override { evaluations.emplace_back(phase, found.loss); }
  void sample(std::int64_t, const std::string&, const std::string& text) override { samples.push_back(text); }
  void checkpoint(std::int64_t step, const std::string& path, std::uint64_t bytes, const std::string& sha256) override {
    EXPECT_EQ(bytes, std::filesystem::file_size(path));
    EXPECT_EQ(sha256, core::sha256_hex(io::MappedFile(path).bytes()));
    checkpoints.emplace_back(step, path);
  }
  StopRequest stop_requested() override {
    ++asked;
    return decide ? decide(*this) : StopRequest::None;
  }
};

struct WholeRun {
  TemporaryFolder folder;
  Recorder recorder;
  TrainingResult result;

  WholeRun(const TrainingOptions& options, const std::vector<std::string>& texts, backend::Backend& device, const std::string& checkpoint = "",
      std::function<StopRequest(Recorder&)> decide = {}) {
    io::write_file(folder.path("data.samples"), data::encode_documents(texts));
    recorder.decide = std::move(decide);
    result = train(options, folder.path("data.samples"), checkpoint, folder.path(), device, recorder);
  }
  std::string file(const char* name) const { return std::string(io::MappedFile(folder.path(name)).bytes()); }
};

std::string code_of(const std::function<void()>& act, std::string* message = nullptr) {
  try {
    act();
  } catch (const core::Error& error) {
    if (message != nullptr) *message = error.message + " " + error.detail;
    EXPECT_FALSE(error.hint.empty()) << error.message;
    return error.code;
  }
  return "no error";
}

std::unique_ptr<backend::Backend> cpu() { return open_poisoned(); }

TEST(Training, LowersTheHeldOutLossOfARealTextByMoreThanFortyPercent) {
  TrainingOptions options;
  options.size = "nano";
  options.precision = "fp32";
  options.steps = 250;
  options.samples = 2;
  options.sample_prompt = "the";
  options.sample_tokens = 40;
  const auto device = cpu();
  const WholeRun run(options, sentences(400, 5), *device);
  ASSERT_TRUE(run.result.has_evaluation);
  EXPECT_NEAR(run.result.loss_before, std::log(257.0), 0.3);
  EXPECT_LT(run.result.loss_after, 0.6 * run.result.loss_before);
  EXPECT_EQ(run.result.steps, 250);
  EXPECT_EQ(run.result.tokens, 250u * 16 * 64);
  ASSERT_EQ(run.recorder.samples.size(), 2u);
  for (const std::string& text : run.recorder.samples) EXPECT_EQ(core::first_invalid_utf8(text), std::string::npos) << text;
  // The plan is an upper bound, and a close one.
  EXPECT_GE(run.recorder.planned.peak_bytes, run.result.peak_bytes);
  EXPECT_LE(static_cast<double>(run.recorder.planned.peak_bytes), 1.05 * static_cast<double>(run.result.peak_bytes));
  EXPECT_EQ(run.recorder.planned.peak_bytes, plan_training(options, *device).peak_bytes);
}

TEST(Training, EqualSeedsGiveEqualBytesAndOtherSeedsOthers) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  const WholeRun first(options, sentences(50, 1), *device), second(options, sentences(50, 1), *device);
  for (const char* name : {kModelFile, kConfigFile, kTokenizerFile}) EXPECT_EQ(first.file(name), second.file(name)) << name;
  options.seed = 2;
  const WholeRun other(options, sentences(50, 1), *device);
  EXPECT_NE(first.file(kModelFile), other.file(kModelFile));
}

// Pauses at some sixty questions, from the first to the last, and continues: the result never differs from an uninterrupted run.
void check_resume(const std::string& precision, const std::string& tokenizer) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.precision = precision;
  options.tokenizer = tokenizer;
  if (tokenizer == "bpe") options.vocab_size = 280;
  options.gradient_accumulation = 2;
  options.evaluate_every = 3;
  const auto texts = sentences(60, 9);
  const WholeRun whole(options, texts, *device);
  ASSERT_EQ(whole.result.status, TrainingStatus::Completed);
  const int questions = whole.recorder.asked;
  ASSERT_GT(questions, 20);
  int resumed_runs = 0;
  for (int pause_at = 1; pause_at <= questions; pause_at += 1 + questions / 60) {
    SCOPED_TRACE(pause_at);
    const WholeRun paused(options, texts, *device, "", [&](Recorder& r) { return r.asked == pause_at ? StopRequest::Pause : StopRequest::None; });
    ASSERT_EQ(paused.result.status, TrainingStatus::Paused);
    ASSERT_TRUE(paused.result.artifacts.empty());
    if (paused.recorder.checkpoints.empty()) continue;  // nothing had begun yet
    ++resumed_runs;
    const WholeRun continued(options, texts, *device, paused.recorder.checkpoints.back().second);
    ASSERT_EQ(continued.result.status, TrainingStatus::Completed);
    ASSERT_EQ(continued.result.steps, whole.result.steps);
    ASSERT_EQ(continued.result.tokens, whole.result.tokens);
    ASSERT_EQ(continued.result.loss_before, whole.result.loss_before);
    ASSERT_EQ(continued.result.loss_after, whole.result.loss_after);
    for (const char* name : {kModelFile, kConfigFile, kTokenizerFile}) ASSERT_EQ(continued.file(name), whole.file(name)) << name;
  }
  EXPECT_GT(resumed_runs, 5);
}

TEST(Resume, IsExactInFp32) { check_resume("fp32", "byte"); }
TEST(Resume, IsExactInBf16) { check_resume("bf16", "byte"); }
TEST(Resume, IsExactWithALearntTokenizer) { check_resume("fp32", "bpe"); }

TEST(Resume, FollowsPeriodicCheckpointsThroughSeveralAttempts) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.checkpoint_every = 2;
  const auto texts = sentences(60, 3);
  const WholeRun whole(options, texts, *device);
  ASSERT_EQ(whole.recorder.checkpoints.size(), 3u);  // after 2, 4 and 6 of 8
  const WholeRun last(options, texts, *device, whole.recorder.checkpoints.back().second);
  EXPECT_EQ(last.file(kModelFile), whole.file(kModelFile));
  EXPECT_EQ(last.recorder.steps.size(), 2u);
}

TEST(Resume, ACheckpointIsTheModelThatARunToItsStepEndsWith) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.tokenizer = "bpe", options.precision = "fp32", options.schedule = "constant", options.warmup_steps = 0, options.checkpoint_every = 4;
  const auto texts = sentences(60, 3);
  const WholeRun whole(options, texts, *device);
  ASSERT_EQ(whole.recorder.checkpoints.size(), 1u);  // after 4 of 8
  const ModelFiles kept{"", "", whole.recorder.checkpoints[0].second, resolve(options)};
  options.steps = 4;
  const WholeRun early(options, texts, *device);
  GenerateOptions asked;
  asked.max_tokens = 20, asked.seed = 5;
  const auto text_of = [&](const ModelFiles& files) { return generate(files, {"the"}, asked, *device)[0].text; };
  EXPECT_EQ(text_of(kept), text_of({early.folder.path(), ""}));
  EXPECT_NE(text_of(kept), text_of({whole.folder.path(), ""}));
  // What belongs to another model is refused by name.
  ModelFiles other = kept;
  other.trained_with.layers += 1;
  EXPECT_EQ(code_of([&] { text_of(other); }), "model_invalid");
}

TEST(Resume, RefusesOtherOptionsOtherDataAndDamage) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.checkpoint_every = 4;
  const auto texts = sentences(60, 3);
  const WholeRun first(options, texts, *device);
  const std::string checkpoint = first.recorder.checkpoints.at(0).second;
  std::string message;
  TrainingOptions other = options;
  other.learning_rate = 2e-2;
  EXPECT_EQ(code_of([&] { WholeRun(other, texts, *device, checkpoint); }, &message), "config_invalid");
  EXPECT_NE(message.find("learning_rate"), std::string::npos) << message;
  other = options;
  other.precision = "bf16";
  EXPECT_EQ(code_of([&] { WholeRun(other, texts, *device, checkpoint); }, &message), "config_invalid");
  EXPECT_NE(message.find("fp32"), std::string::npos) << message;
  EXPECT_EQ(code_of([&] { WholeRun(options, sentences(60, 4), *device, checkpoint); }), "data_invalid");
  const std::string good(io::MappedFile(checkpoint).bytes());
  const TemporaryFolder folder;
  std::mt19937 random(test::seed());
  int refused = 0;
  for (int round = 0; round < 40; ++round) {
    std::string bad = good;
    if (round % 2 == 0) bad.resize(random() % bad.size());
    else for (int i = 0; i < 3; ++i) bad[random() % std::min<std::size_t>(bad.size(), 3000)] = static_cast<char>(random());
    io::write_file(folder.path("bad"), bad);
    const std::string code = code_of([&] { WholeRun(options, texts, *device, folder.path("bad")); });
    EXPECT_TRUE(code == "model_invalid" || code == "config_invalid" || code == "data_invalid" || code == "no error") << code;
    refused += code != "no error";
  }
  EXPECT_GT(refused, 20);  // every cut, and most changes of the header
}

TEST(Training, LeavesWithinAMicroBatchWhenCancelled) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.steps = 1000000;
  options.gradient_accumulation = 4;
  const WholeRun run(options, sentences(50, 1), *device, "", [](Recorder& r) { return r.steps.size() >= 3 ? StopRequest::Cancel : StopRequest::None; });
  EXPECT_EQ(run.result.status, TrainingStatus::Cancelled);
  EXPECT_EQ(run.result.steps, 3);
  EXPECT_TRUE(run.recorder.checkpoints.empty());
  EXPECT_FALSE(std::filesystem::exists(run.folder.path(kModelFile)));
}

TEST(Training, CompletesEarlyAtMaxSeconds) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.steps = 1000000;
  options.max_seconds = 0.3;
  const WholeRun run(options, sentences(50, 1), *device);
  EXPECT_EQ(run.result.status, TrainingStatus::Completed);
  EXPECT_TRUE(run.result.reached_max_seconds);
  EXPECT_LT(run.result.steps, 1000000);
  EXPECT_EQ(run.result.artifacts.size(), 5u);
}

TEST(Training, NamesTheStepAndTheLastGoodLossWhenItDiverges) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.learning_rate = 1e12;
  options.schedule = "constant";
  options.gradient_clip = 0;
  options.steps = 50;
  std::string message;
  EXPECT_EQ(code_of([&] { WholeRun(options, sentences(50, 1), *device); }, &message), "non_finite_loss");
  EXPECT_NE(message.find("Last good loss"), std::string::npos) << message;
}

TEST(Training, RefusesWhatCannotFitWithTheNumbers) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.memory_limit_bytes = 1 << 16;
  std::string message;
  EXPECT_EQ(code_of([&] { WholeRun(options, sentences(50, 1), *device); }, &message), "out_of_memory");
  EXPECT_NE(message.find("MiB"), std::string::npos) << message;
}

TEST(Training, CountsTruncatedTokensAndRefusesLongSamplesWhenAsked) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.steps = 1;
  options.held_out_fraction = 0;
  options.long_samples = "truncate";
  const std::vector<std::string> texts = {std::string(15, 'a'), std::string(26, 'b')};
  const WholeRun run(options, texts, *device);
  EXPECT_EQ(run.result.truncated_documents, 1u);
  EXPECT_EQ(run.result.truncated_tokens, 11u);  // 26 tokens and the end mark, of which the context takes 16
  EXPECT_FALSE(run.result.has_evaluation);
  options.long_samples = "error";
  EXPECT_EQ(code_of([&] { WholeRun(options, texts, *device); }), "data_invalid");
}

TEST(Training, RunsEveryScheduleAndASingleDocument) {
  const auto device = cpu();
  for (const char* schedule : {"cosine", "linear", "constant"}) {
    TrainingOptions options = small_options();
    options.schedule = schedule;
    const WholeRun run(options, {std::string(300, 'x') + "yz"}, *device);
    EXPECT_EQ(run.result.held_out_documents, 1u);
    EXPECT_LT(run.result.loss_after, run.result.loss_before);
  }
}

TEST(Training, ATokenizerLearnsNothingOfTheValidationTexts) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.tokenizer = "bpe", options.vocab_size = 280;
  options.held_out_fraction = 0;
  const WholeRun alone(options, sentences(40, 1), *device);
  options.held_out_fraction = 0.05, options.evaluation_batches = 0;
  const TemporaryFolder folder;
  options.validation_path = folder.path("validation");
  io::write_file(options.validation_path, data::encode_documents({std::string(400, 'q') + "zzzz", "the moon"}));
  const WholeRun validated(options, sentences(40, 1), *device);
  EXPECT_FALSE(alone.result.has_evaluation);
  ASSERT_TRUE(validated.result.has_evaluation);
  EXPECT_EQ(validated.result.held_out_documents, 2u);
  for (const char* name : {kModelFile, kTokenizerFile}) EXPECT_EQ(validated.file(name), alone.file(name)) << name;
}

TEST(Options, AreCheckedByName) {
  const auto refusal = [](const std::function<void(TrainingOptions&)>& change) {
    TrainingOptions options;
    change(options);
    std::string message;
    EXPECT_EQ(code_of([&] { resolve(options); }, &message), "config_invalid");
    return message.substr(0, message.find(':'));
  };
  EXPECT_EQ(refusal([](auto& o) { o.family = "llama"; }), "family");
  EXPECT_EQ(refusal([](auto& o) { o.size = "huge"; }), "size");
  EXPECT_EQ(refusal([](auto& o) { o.steps = 0; }), "steps");
  EXPECT_EQ(refusal([](auto& o) { o.heads = 7; }), "heads");
  EXPECT_EQ(refusal([](auto& o) { o.width = 136, o.heads = 1; }), "heads");
  EXPECT_EQ(refusal([](auto& o) { o.learning_rate = std::nan(""); }), "learning_rate");
  EXPECT_EQ(refusal([](auto& o) { o.vocab_size = 300; }), "vocab_size");
  EXPECT_EQ(refusal([](auto& o) { o.samples = 1, o.sample_tokens = 5000; }), "sample_tokens");
  EXPECT_EQ(refusal([](auto& o) { o.sample_prompt = "\xFF"; }), "sample_prompt");
  const TrainingOptions filled = resolve({});
  EXPECT_EQ(filled.width, 256);
  EXPECT_EQ(filled.vocab_size, 257);
  EXPECT_GT(filled.learning_rate, 0);
  EXPECT_EQ(filled.warmup_steps, 50);
}

TEST(Artifacts, AreStoredInBf16WhenAsked) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.artifact_precision = "bf16";
  const WholeRun run(options, sentences(50, 1), *device);
  const io::SafetensorsFile file(run.folder.path(kModelFile));
  for (const io::StoredTensor& tensor : file.tensors()) EXPECT_EQ(tensor.type, io::StoredType::BF16);
  EXPECT_NE(run.file(kConfigFile).find("bfloat16"), std::string::npos);
  for (const Artifact& artifact : run.result.artifacts) EXPECT_EQ(artifact.sha256, core::sha256_hex(io::MappedFile(artifact.path).bytes()));
}

TEST(Generate, ContinuesTextDeterministicallyAndKeepsItsLimits) {
  const auto device = cpu();
  TrainingOptions options = small_options();
  options.context = 32, options.width = 32, options.layers = 2, options.steps = 150;
  const WholeRun run(options, sentences(200, 8), *device);
  Ask ask;
  ask.prompt = "the cat";
  ask.max_tokens = 12;
  const GenerateResult first = answer(run.folder.path(), ask, *device), second = answer(run.folder.path(), ask, *device);
  EXPECT_EQ(first.text, second.text);
  EXPECT_LE(first.tokens, 12);
  EXPECT_EQ(core::first_invalid_utf8(first.text), std::string::npos);
  ask.temperature = 0;
  const std::string greedy = answer(run.folder.path(), ask, *device).text;
  ask.seed = 99;
  EXPECT_EQ(answer(run.folder.path(), ask, *device).text, greedy);
  ask.prompt = std::string(500, 'x') + "the cat";
  ask.max_tokens = 1000;
  const GenerateResult full = answer(run.folder.path(), ask, *device);
  EXPECT_LE(full.tokens, 32);
  int asked = 0;
  ask.max_tokens = 30;
  EXPECT_EQ(answer(run.folder.path(), ask, *device, [&] { return ++asked == 3; }).end_reason, "stopped");
  ask.prompt = "\xC3";
  EXPECT_EQ(code_of([&] { answer(run.folder.path(), ask, *device); }), "config_invalid");
}

TEST(Generate, RefusesDamagedModelsByFile) {
  const auto device = cpu();
  const WholeRun run(small_options(), sentences(50, 1), *device);
  std::string message;
  for (const char* name : {kModelFile, kConfigFile, kTokenizerFile}) {
    const std::string good = run.file(name);
    io::write_file(run.folder.path(name), good.substr(0, good.size() / 2));
    EXPECT_EQ(code_of([&] { answer(run.folder.path(), {}, *device); }, &message), "model_invalid") << name;
    EXPECT_NE(message.find(name), std::string::npos) << message;
    std::filesystem::remove(run.folder.path(name));
    EXPECT_EQ(code_of([&] { answer(run.folder.path(), {}, *device); }, &message), "model_invalid") << name;
    EXPECT_NE(message.find(name), std::string::npos) << message;
    io::write_file(run.folder.path(name), good);
  }
  EXPECT_NO_THROW(answer(run.folder.path(), {}, *device));
}

}  // namespace
}  // namespace pgtrain::engine::train
