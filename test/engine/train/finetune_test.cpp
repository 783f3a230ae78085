// Runs that start from a model: each method lowers the held-out loss, its plan is close, and a run cut anywhere and resumed ends in the
// same bytes.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <random>

#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/data/documents.hpp"
#include "engine/io/file.hpp"
#include "engine/models/model.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {
namespace {

namespace fs = std::filesystem;

models::ModelConfig small_llama() {
  models::ModelConfig config;
  config.model_type = "qwen3";
  config.layers = 2, config.width = 64, config.heads = 4, config.kv_heads = 2, config.head_width = 16, config.inner_width = 128, config.context = 64, config.vocab_size = 257;
  config.ties_head = true, config.qk_norm = true;
  config.slides.assign(2, false);
  config.eos = {256};
  config.stored_type = "float32";
  return config;
}

// A model from nothing, as a folder that others could have made.
void write_base(const std::string& folder, const models::ModelConfig& config, backend::Backend& device) {
  fs::create_directories(folder);
  const models::Tuning whole;
  const graph::Graph graph = models::build_model(config, whole, core::DType::F32, 1, 16);
  graph::ParameterStore store(graph, device, graph::Mode::Evaluate);
  models::draw_weights(config, 7, store);
  const tokenizers::Tokenizer tokenizer = tokenizers::Tokenizer::bytes();
  write_exports({.folder = folder, .config = config, .tuning = whole, .store = store, .tokenizer = tokenizer, .kinds = {ExportKind::Merged}});
}

std::vector<std::string> questions(int count) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i) {
    const std::string number = std::to_string(i % 7);
    out.push_back(R"({"prompt": "What is )" + number + R"(?", "completion": " It is )" + number + number + R"(."})");
  }
  return out;
}

std::vector<std::string> preferences(int count) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i) out.push_back(R"({"prompt": "Say )" + std::to_string(i % 7) + R"(:", "chosen": " yes", "rejected": " no!"})");
  return out;
}

struct Watcher : Observer {
  std::vector<Evaluation> evaluations;
  std::vector<Progress> steps;
  std::vector<std::string> checkpoints;
  MemoryPlan planned;
  DataFacts facts;
  int asked = 0, pause_at = 0;

  void plan(const MemoryPlan& plan) override { planned = plan; }
  void data(const DataFacts& found) override { facts = found; }
  void progress(const Progress& progress) override { steps.push_back(progress); }
  void evaluation(EvaluationPhase, const Evaluation& found, std::int64_t) override { evaluations.push_back(found); }
  void checkpoint(std::int64_t, const std::string& path, std::uint64_t, const std::string&) override { checkpoints.push_back(path); }
  StopRequest stop_requested() override { return ++asked == pause_at ? StopRequest::Pause : StopRequest::None; }
};

class FineTuning : public testing::Test {
 protected:
  FineTuning() { write_base(base_.path("base"), small_llama(), *device_); }

  TrainingOptions options(const std::string& method) {
    TrainingOptions out;
    out.base_folder = base_.path("base"), out.base_name = "base", out.method = method, out.loss_on = "answers", out.long_samples = "truncate";
    out.exports = {method == "full" ? "merged" : "peft"};
    out.lora_rank = 4, out.lora_alpha = 8, out.lora_dropout = 0.1;
    out.context = 48, out.batch_size = 2, out.gradient_accumulation = 2, out.steps = 12, out.learning_rate = method == "full" ? 3e-3 : 2e-2;
    out.precision = "fp32", out.held_out_fraction = 0.1, out.evaluate_every = 4, out.weight_decay = 0;
    return out;
  }

  struct Outcome {
    TemporaryFolder folder;
    Watcher watcher;
    TrainingResult result;
    std::string file(const std::string& name) const { return std::string(io::MappedFile(folder.path(name)).bytes()); }
  };
  std::unique_ptr<Outcome> run(const TrainingOptions& options, const std::vector<std::string>& records, const std::string& checkpoint = "", int pause_at = 0) {
    auto out = std::make_unique<Outcome>();
    out->watcher.pause_at = pause_at;
    io::write_file(out->folder.path("data"), data::encode_documents(records));
    out->result = train(options, out->folder.path("data"), checkpoint, out->folder.path(), *device_, out->watcher);
    return out;
  }

  // Pauses at some twenty questions, from the first to the last, and goes on: the files never differ from those of a whole run.
  void check_resume(const TrainingOptions& options, const std::vector<std::string>& records) {
    const auto whole = run(options, records);
    ASSERT_EQ(whole->result.status, TrainingStatus::Completed);
    int resumed = 0;
    for (int pause_at = 1; pause_at <= whole->watcher.asked; pause_at += 1 + whole->watcher.asked / 20) {
      SCOPED_TRACE(pause_at);
      const auto paused = run(options, records, "", pause_at);
      ASSERT_EQ(paused->result.status, TrainingStatus::Paused);
      if (paused->watcher.checkpoints.empty()) continue;  // nothing had begun yet
      ++resumed;
      const auto continued = run(options, records, paused->watcher.checkpoints.back());
      ASSERT_EQ(continued->result.status, TrainingStatus::Completed);
      ASSERT_EQ(continued->result.tokens, whole->result.tokens);
      ASSERT_EQ(continued->result.loss_after, whole->result.loss_after);
      for (const Artifact& artifact : whole->result.artifacts) ASSERT_EQ(continued->file(artifact.name), whole->file(artifact.name)) << artifact.name;
    }
    EXPECT_GT(resumed, 5);
  }

  TemporaryFolder base_;
  std::unique_ptr<backend::Backend> device_ = backend::open("cpu");
};

TEST_F(FineTuning, EveryMethodLowersTheHeldOutLossWithinItsPlan) {
  for (const char* method : {"lora", "qlora", "full"}) {
    SCOPED_TRACE(method);
    TrainingOptions asked = options(method);
    asked.steps = 150;
    asked.lora_dropout = 0;
    const auto found = run(asked, questions(120));
    // Beside frozen weights that were drawn by chance an adapter has less to work with.
    EXPECT_LT(found->result.loss_after, (asked.method == "full" ? 0.5 : 0.85) * found->result.loss_before);
    EXPECT_GT(found->watcher.evaluations.back().accuracy, found->watcher.evaluations.front().accuracy);
    EXPECT_GT(found->watcher.evaluations.back().tokens, 0u);
    EXPECT_GE(found->watcher.planned.peak_bytes, found->result.peak_bytes);
    EXPECT_LE(static_cast<double>(found->watcher.planned.peak_bytes), 1.05 * static_cast<double>(found->result.peak_bytes));
    EXPECT_EQ(found->watcher.planned.peak_bytes, plan_training(asked, *device_).peak_bytes);
    TrainingOptions by_config = asked;
    by_config.base_folder.clear(), by_config.base_config = open_base(asked.base_folder)->config().to_json();
    EXPECT_EQ(found->watcher.planned.peak_bytes, plan_training(by_config, *device_).peak_bytes) << "its configuration is enough for a plan";
  }
}

TEST_F(FineTuning, ForgetsActivationsWhereTheyDoNotFit) {
  TrainingOptions asked = options("lora");
  const MemoryPlan all = plan_training(asked, *device_);
  EXPECT_EQ(all.recompute, "none");
  asked.recompute = "blocks";
  const MemoryPlan least = plan_training(asked, *device_);
  ASSERT_LT(least.peak_bytes, all.peak_bytes);
  asked.recompute = "auto", asked.memory_limit_bytes = least.peak_bytes;
  EXPECT_EQ(plan_training(asked, *device_).recompute, "blocks");
  const auto tight = run(asked, questions(60)), roomy = run(options("lora"), questions(60));
  EXPECT_LE(tight->result.peak_bytes, least.peak_bytes);
  EXPECT_EQ(tight->file("adapter_model.safetensors"), roomy->file("adapter_model.safetensors"));
  asked.memory_limit_bytes = least.peak_bytes - 1;
  EXPECT_THROW(run(asked, questions(60)), core::Error);
}

TEST_F(FineTuning, AnAdapterComesBackWithItsOptions) {
  const auto found = run(options("lora"), questions(60));
  const AdapterFolder adapter(found->folder.path(), small_llama());
  EXPECT_EQ(adapter.options().rank, 4);
  EXPECT_EQ(adapter.options().alpha, 8);
  EXPECT_EQ(adapter.base_name(), "base");
}

TEST_F(FineTuning, ResumesExactly) {
  for (const char* method : {"lora", "qlora", "full"}) {
    SCOPED_TRACE(method);
    check_resume(options(method), questions(60));
  }
}

TEST_F(FineTuning, ResumesPreferencesExactly) {
  for (const char* method : {"lora", "full"}) {
    SCOPED_TRACE(method);
    TrainingOptions asked = options(method);
    asked.objective = "dpo";
    check_resume(asked, preferences(40));
  }
}

TEST_F(FineTuning, PreferencesAreLearned) {
  for (const char* method : {"lora", "full"}) {
    SCOPED_TRACE(method);
    TrainingOptions asked = options(method);
    asked.objective = "dpo", asked.steps = 40, asked.learning_rate = std::string(method) == "full" ? 1e-3 : 5e-3, asked.lora_dropout = 0;
    const auto found = run(asked, preferences(40));
    EXPECT_NEAR(found->result.loss_before, std::log(2.0), 1e-6) << "nothing is preferred over the reference, which the model still is";
    EXPECT_LT(found->result.loss_after, 0.4);
    EXPECT_EQ(found->watcher.evaluations.back().accuracy, 1.0);
  }
}

TEST_F(FineTuning, EpochsShowEachSampleSoOften) {
  TrainingOptions asked = options("lora");
  asked.steps = 0, asked.epochs = 2, asked.held_out_fraction = 0, asked.evaluate_every = 0, asked.gradient_accumulation = 1;
  const auto two = run(asked, questions(50));
  EXPECT_EQ(two->result.steps, two->watcher.facts.steps);
  EXPECT_EQ(two->result.tokens, 2 * two->watcher.facts.tokens);
  asked.epochs = 0.5;
  const auto half = run(asked, questions(50));
  EXPECT_NEAR(static_cast<double>(half->result.steps), 0.25 * static_cast<double>(two->result.steps), 1.0);
}

TEST_F(FineTuning, EndsEarlyWhenTheHeldOutLossFallsNoMore) {
  TrainingOptions asked = options("lora");
  asked.steps = 400, asked.evaluate_every = 2, asked.early_stopping_patience = 2, asked.early_stopping_threshold = 0.5;
  const auto found = run(asked, questions(60));
  EXPECT_TRUE(found->result.stopped_early);
  EXPECT_LT(found->result.steps, 400);
  EXPECT_EQ(found->result.status, TrainingStatus::Completed);
}

TEST_F(FineTuning, MistakesAreNamed) {
  const auto code_of = [&](const TrainingOptions& asked, const std::vector<std::string>& records, std::string* message) {
    try {
      run(asked, records);
    } catch (const core::Error& error) {
      *message = error.message;
      return error.code;
    }
    return std::string("no error");
  };
  std::string message;
  EXPECT_EQ(code_of(options("lora"), preferences(10), &message), "data_invalid") << message;
  TrainingOptions asked = options("lora");
  asked.objective = "dpo";
  EXPECT_EQ(code_of(asked, questions(10), &message), "data_invalid") << message;
  asked = options("lora");
  asked.lora_targets = {"no_such_module"};
  EXPECT_EQ(code_of(asked, questions(10), &message), "config_invalid");
  EXPECT_NE(message.find("no_such_module"), std::string::npos) << message;
  EXPECT_EQ(code_of(options("lora"), {R"({"messages": [{"role": "user", "content": "x"}]})"}, &message), "data_invalid") << "this model has no chat template";
  asked = options("lora");
  asked.context = 65;
  EXPECT_EQ(code_of(asked, questions(10), &message), "config_invalid");
  EXPECT_NE(message.find("64"), std::string::npos) << message;
}

}  // namespace
}  // namespace pgtrain::engine::train
