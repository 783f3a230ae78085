// Runs that start from a model: each method lowers the held-out loss, its plan is close, and a run cut anywhere and resumed ends in the
// same bytes.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <random>

#include "../poisoned_backend.hpp"
#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/data/documents.hpp"
#include "engine/io/file.hpp"
#include "engine/models/model.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/evaluation.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/generation.hpp"
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
  std::unique_ptr<backend::Backend> device_ = open_poisoned();
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
  const auto roomy = run(options("lora"), questions(60));
  std::uint64_t least = all.peak_bytes;
  for (const char* level : {"cheap", "blocks"}) {
    SCOPED_TRACE(level);
    asked.recompute = level, asked.memory_limit_bytes = 0;
    const MemoryPlan plan = plan_training(asked, *device_);
    ASSERT_LT(plan.peak_bytes, least);
    least = plan.peak_bytes;
    asked.recompute = "auto", asked.memory_limit_bytes = least;
    EXPECT_EQ(plan_training(asked, *device_).recompute, level);
    const auto tight = run(asked, questions(60));
    EXPECT_LE(tight->result.peak_bytes, least);
    EXPECT_LE(static_cast<double>(least), 1.05 * static_cast<double>(tight->result.peak_bytes));
    EXPECT_EQ(tight->file("adapter_model.safetensors"), roomy->file("adapter_model.safetensors"));
  }
  asked.memory_limit_bytes = least - 1;
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

// A checkpoint on the way is the model that a run to that step ends with.
TEST_F(FineTuning, ACheckpointIsAModel) {
  for (const std::string method : {"lora", "qlora", "full", "dora and whole modules"}) {
    SCOPED_TRACE(method);
    TrainingOptions asked = options(method[0] == 'd' ? "lora" : method);
    if (method[0] == 'd') asked.use_dora = true, asked.modules_to_save = {"norm"};
    asked.schedule = "constant", asked.warmup_steps = 0, asked.steps = 6;
    const auto early = run(asked, questions(40));
    asked.steps = 12, asked.checkpoint_every = 6;
    const auto whole = run(asked, questions(40));
    ASSERT_EQ(whole->watcher.checkpoints.size(), 1u);
    const ModelFiles stopped{early->folder.path(), base_.path("base")}, ended{whole->folder.path(), base_.path("base")},
        kept{"", base_.path("base"), whole->watcher.checkpoints[0], resolve(asked)};
    GenerateOptions generate_options;
    generate_options.temperature = 0, generate_options.max_tokens = 24, generate_options.precision = "fp32";
    const auto text_of = [&](const ModelFiles& files) { return generate(files, {"What is 3?"}, generate_options, *device_)[0].text; };
    EXPECT_EQ(text_of(kept), text_of(stopped));
    const auto loss_of = [&](const ModelFiles& files) { return evaluate(files, resolve(asked), true, whole->folder.path("data"), base_.path(), *device_, [] {}).loss; };
    EXPECT_EQ(loss_of(kept), loss_of(stopped));
    EXPECT_NE(loss_of(kept), loss_of(ended));
  }
}

TEST_F(FineTuning, ResumesPreferencesExactly) {
  for (const char* method : {"lora", "qlora", "full"}) {
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
    EXPECT_EQ(found->watcher.evaluations.front().accuracy, 0.0) << "not even by rounding";
    EXPECT_EQ(found->watcher.steps.front().accuracy, 0.0);
    EXPECT_LT(found->result.loss_after, 0.4);
    EXPECT_EQ(found->watcher.evaluations.back().accuracy, 1.0);
  }
}

// Where the model is still its reference, the gradient is beta / 2 times that of how much likelier the chosen answer is.
TEST_F(FineTuning, TheGradientOfPreferencesGrowsWithBeta) {
  TrainingOptions asked = options("lora");
  asked.objective = "dpo", asked.steps = 1, asked.lora_dropout = 0;
  std::vector<double> norms;
  for (const double beta : {0.1, 0.2, 0.8}) {
    asked.dpo_beta = beta;
    const auto found = run(asked, preferences(40));
    ASSERT_EQ(found->watcher.steps.size(), 1u);
    norms.push_back(found->watcher.steps[0].gradient_norm / beta);
    EXPECT_GT(norms.back(), 0);
    EXPECT_NEAR(norms.back() / norms.front(), 1, 1e-3) << beta;
    EXPECT_GE(found->watcher.planned.peak_bytes, found->result.peak_bytes);
    EXPECT_LE(static_cast<double>(found->watcher.planned.peak_bytes), 1.05 * static_cast<double>(found->result.peak_bytes));
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
  // Also where it leaves after the evaluation that ended it, while the rest is measured and written.
  check_resume(asked, questions(60));
}

// The model is that of a run that holds nothing out; what is measured at its end is what evaluate() finds on the same samples.
TEST_F(FineTuning, AValidationSetIsEvaluatedOnAndNeverLearned) {
  const auto path = [&](const std::vector<std::string>& records) {
    const std::string out = base_.path("validation");
    io::write_file(out, data::encode_documents(records));
    return out;
  };
  for (const std::string method : {"lora", "qlora", "full", "dpo"}) {
    SCOPED_TRACE(method);
    const bool is_dpo = method == "dpo";
    const auto samples = [&](int count) { return is_dpo ? preferences(count) : questions(count); };
    TrainingOptions asked = options(is_dpo ? "lora" : method);
    if (is_dpo) asked.objective = "dpo";
    asked.evaluation_batches = 0;
    asked.held_out_fraction = 0, asked.evaluate_every = 0;
    const auto alone = run(asked, samples(40));
    asked.held_out_fraction = 0.1, asked.evaluate_every = 4;  // the first has no effect beside a validation set
    asked.validation_path = path(samples(45));
    const auto validated = run(asked, samples(40));
    EXPECT_FALSE(alone->result.has_evaluation);
    EXPECT_EQ(validated->watcher.facts.samples, 40u);
    EXPECT_EQ(validated->watcher.facts.held_out_samples, 45u);
    ASSERT_EQ(validated->watcher.evaluations.size(), 4u) << "before, at 4 and 8, after";
    for (const Artifact& artifact : alone->result.artifacts) EXPECT_EQ(validated->file(artifact.name), alone->file(artifact.name)) << artifact.name;
    EXPECT_EQ(validated->watcher.evaluations.back().samples, 45u);
    const ModelFiles files{validated->folder.path(), base_.path("base")};
    if (method != "qlora") {  // whose base is asked unquantised
      const Evaluation found = is_dpo ? evaluate_preferences(files, resolve(asked), asked.validation_path, base_.path(), *device_, [] {})
                                      : evaluate(files, resolve(asked), true, asked.validation_path, base_.path(), *device_, [] {});
      EXPECT_NEAR(validated->result.loss_after, found.loss, 1e-5 * found.loss);
      EXPECT_EQ(validated->watcher.evaluations.back().tokens, found.tokens);
      EXPECT_EQ(found.samples, 45u);
    }
    if (method == "lora" || is_dpo) check_resume(asked, samples(40));
  }
  TrainingOptions asked = options("lora");
  const auto refusal = [&](const std::vector<std::string>& records, const std::string& checkpoint = "") {
    asked.validation_path = path(records);
    try {
      run(asked, questions(40), checkpoint);
    } catch (const core::Error& error) {
      return error.code + ": " + error.message;
    }
    return std::string("no error");
  };
  EXPECT_EQ(refusal(preferences(3)), "data_invalid: validation data: sample 1: a preference, in a supervised run");
  EXPECT_EQ(refusal({}), "data_invalid: validation data: there are no samples");
  EXPECT_EQ(refusal({questions(1)[0], "{}"}).substr(0, 41), "data_invalid: validation data: sample 2: ");
  asked.long_samples = "error";
  EXPECT_EQ(refusal({R"({"text": ")" + std::string(100, 'x') + R"("})"}).substr(0, 44), "data_invalid: validation data: sample 1 has ");
  // A checkpoint is of its validation set too: its best and its early end were measured on that.
  asked = options("lora");
  asked.checkpoint_every = 6, asked.validation_path = path(questions(9));
  const auto whole = run(asked, questions(40));
  ASSERT_EQ(whole->watcher.checkpoints.size(), 1u);
  EXPECT_EQ(refusal(questions(8), whole->watcher.checkpoints[0]), "data_invalid: the checkpoint was made from other samples");
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
  // One that cannot be used is named by its construct where it matters; texts are learned all the same.
  io::write_file(base_.path("base") + "/chat_template.jinja", "{% include 'other' %}");
  EXPECT_EQ(code_of(options("lora"), {R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]})"}, &message), "data_invalid");
  EXPECT_NE(message.find("include"), std::string::npos) << message;
  EXPECT_EQ(code_of(options("lora"), questions(10), &message), "no error") << message;
  asked = options("lora");
  asked.chat_template = "{{ messages | unheard_of }}", asked.base_config = small_llama().to_json(), asked.base_folder.clear();
  EXPECT_THROW(plan_training(asked, *device_), core::Error) << "a plan knows it too";
  asked = options("lora");
  asked.context = 65;
  EXPECT_EQ(code_of(asked, questions(10), &message), "config_invalid");
  EXPECT_NE(message.find("64"), std::string::npos) << message;
  // What llama.cpp would compute otherwise a plan knows, not the end of a run.
  models::ModelConfig rotated = small_llama();
  rotated.rope.kind = models::RopeKind::Yarn, rotated.rope.factor = 2, rotated.rope.original_context = 32, rotated.rope.fast_turns = 16;
  asked = options("lora");
  asked.base_folder.clear(), asked.base_config = rotated.to_json();
  EXPECT_GT(plan_training(asked, *device_).peak_bytes, 0u);
  asked.exports = {"peft", "gguf_q8_0"};
  try {
    plan_training(asked, *device_);
    ADD_FAILURE() << "llama.cpp knows no other beta_fast";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "config_invalid");
    EXPECT_NE(error.message.find("exports: gguf_q8_0: llama.cpp computes yarn with beta_fast 32"), std::string::npos) << error.message;
  }
}

}  // namespace
}  // namespace pgtrain::engine::train
