// The door of the engine: plan a run, try out how fast it is, train it; generation.hpp asks what it left behind.
//
// Called by src/trainer (and by the tests). Nothing here knows of Postgres, jobs or pipes. Failures are
// core::Error exceptions with one of the codes config_invalid, data_invalid, out_of_memory, device_fault,
// non_finite_loss, model_invalid, io_error; nothing else leaves these functions.
// train() writes only into work_folder: checkpoint.safetensors while it runs, and model.safetensors,
// config.json and tokenizer.json when it has completed and has read them back.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace pgtrain::engine::backend {
struct Backend;
}  // namespace pgtrain::engine::backend

namespace pgtrain::engine::train {

// What the user asked for. A field of 0 (or -1 where 0 means something) takes the preset's value; resolve() fills
// them all, and its result is what a run is frozen as.
struct TrainingOptions {
  // The model to start from: a folder with what a Hugging Face folder holds, or with one GGUF file. Empty: a new model. To plan,
  // its config.json is enough. The name is what adapters call it.
  std::string base_folder, base_config, base_name;
  std::string validation_path;           // samples to evaluate on, all of them; empty: a part of the run's own is held out
  std::string method = "full";           // full | lora | qlora
  std::string objective = "supervised";  // supervised | dpo
  double dpo_beta = 0.1;
  std::string loss_on = "all";           // answers | all; of records, which runs with a base model have
  std::string chat_template;             // empty: the base model's own
  std::int64_t template_time = 0;        // seconds since 1970: the date that templates print
  int lora_rank = 16;
  double lora_alpha = 32, lora_dropout = 0;
  std::vector<std::string> lora_targets = {"all-linear"}, modules_to_save;
  bool use_rslora = false, use_dora = false;
  std::string family = "gpt";            // of a new model
  std::string size = "tiny";       // nano micro tiny small medium base
  int layers = 0, width = 0, heads = 0, context = 0;
  std::string tokenizer = "byte";  // byte | bpe (learnt from the run's own documents)
  int vocab_size = 0;              // bpe: tokens wanted, 0 = 2048; byte is always 257
  std::string precision = "auto";  // auto | fp32 | bf16
  std::string artifact_precision = "fp32";  // fp32 | bf16; of whole weights
  std::string adapter_precision = "fp32";   // fp32 | bf16 | fp16
  std::vector<std::string> exports = {"merged"};  // peft | merged | gguf_f16 | gguf_q8_0 | gguf_q4_k
  std::int64_t steps = 500;        // 0 = by epochs
  double epochs = 0;
  int batch_size = 0;              // sequences per micro-batch, 0 = by size
  int gradient_accumulation = 1;   // micro-batches per step
  std::string long_samples = "split";  // error | split | truncate
  double learning_rate = 0;        // 0 = by size
  double min_learning_rate_ratio = 0.1;
  std::string schedule = "cosine"; // cosine | linear | constant
  int warmup_steps = -1;           // -1 = a tenth of the steps, at most 100
  std::string optimizer = "adamw"; // adamw | adamw_8bit | muon
  std::string moments = "fp32";    // fp32 | bf16
  double weight_decay = 0.1;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double gradient_clip = 1.0;      // 0 = off
  double held_out_fraction = 0.05; // 0 = no evaluation; always 0 with validation_path
  int evaluation_batches = 16;     // at most this many micro-batches of held-out text per evaluation, 0 = all
  int evaluate_every = 0;          // 0 = before and after only
  int checkpoint_every = 0;        // 0 = only when asked to leave
  int early_stopping_patience = 0; // evaluations without a lower loss after which training ends; 0 = never
  double early_stopping_threshold = 0;
  std::string recompute = "auto";  // auto | none | cheap | blocks
  int samples = 0;                 // texts drawn after training (and after each evaluation in between)
  int sample_tokens = 64;
  std::string sample_prompt;
  double sample_temperature = 0.8;
  int sample_top_k = 50;
  double sample_top_p = 1.0;
  std::uint64_t seed = 1;
  double max_seconds = 0;          // 0 = no limit; reached: the run completes with the steps it has made
  std::uint64_t memory_limit_bytes = 0;  // 0 = what the device has
  double progress_interval_seconds = 0.25;  // at most one Progress in this time
};

// Every default filled in and every value checked; config_invalid names the field and what is allowed.
TrainingOptions resolve(const TrainingOptions& options);

// Bytes are predicted before anything is allocated; peak_bytes is what is held at once on the device.
struct MemoryPlan {
  std::uint64_t parameters = 0;
  std::uint64_t weight_bytes = 0, gradient_bytes = 0, optimizer_bytes = 0;
  std::uint64_t activation_bytes = 0, workspace_bytes = 0, data_bytes = 0;
  std::uint64_t peak_bytes = 0;
  std::uint64_t tokens_per_step = 0;
  std::string precision;  // what auto became: fp32 | bf16
  std::string recompute;  // what auto became: none | cheap | blocks
  std::uint64_t trained_parameters = 0;  // of `parameters`
};
MemoryPlan plan_training(const TrainingOptions& options, const backend::Backend& backend);

// What a run takes on a device that others may use too, measured in a second or so.
struct Speed {
  double step_seconds = 0;
  double evaluation_seconds = 0;  // of each micro-batch of held-out samples
  int layers = 0;                 // of the model that was tried out
};
// poll() is called between the things that are timed, and may throw. out_of_memory and config_invalid where even a
// few layers take too much memory or time.
Speed measure_speed(const TrainingOptions& options, backend::Backend& backend, const std::function<void()>& poll);

enum class StopRequest { None, Cancel, Pause };
enum class EvaluationPhase { Before, During, After };

// What was measured on held-out samples. With objective dpo the loss is that of preferences, per pair, and the accuracy the share of
// pairs whose chosen answer is preferred.
struct Evaluation {
  double loss = 0;                // nats per token that is learned
  double accuracy = 0;            // share of these that were the likeliest
  std::uint64_t tokens = 0;       // that it was measured on; pairs with dpo
  std::uint64_t samples = 0;
};

// What the data is, once it is in tokens.
struct DataFacts {
  std::uint64_t samples = 0, held_out_samples = 0;
  std::uint64_t tokens = 0, learned_tokens = 0;  // of an epoch
  std::uint64_t truncated_samples = 0, truncated_tokens = 0;
  std::int64_t steps = 0;
};

struct Progress {
  std::int64_t step = 0, steps = 0;
  double loss = 0, accuracy = 0, learning_rate = 0, gradient_norm = 0;
  std::uint64_t tokens = 0;  // trained on so far, resumed part included
  double tokens_per_second = 0, seconds = 0;
  std::uint64_t peak_bytes = 0;
};

// Told what happens while it happens, on the thread that called train(). An exception thrown from here ends the run.
class Observer {
 public:
  virtual ~Observer() = default;
  // name: read_data, train_tokenizer, tokenize, build_model, evaluate, train, sample, save, check; state: started | done
  virtual void task(const std::string& name, const std::string& state) { (void)name, (void)state; }
  virtual void plan(const MemoryPlan& plan) { (void)plan; }
  virtual void data(const DataFacts& facts) { (void)facts; }
  virtual void progress(const Progress& progress) { (void)progress; }
  virtual void evaluation(EvaluationPhase phase, const Evaluation& found, std::int64_t step) { (void)phase, (void)found, (void)step; }
  virtual void sample(std::int64_t step, const std::string& prompt, const std::string& text) {
    (void)step, (void)prompt, (void)text;
  }
  // The file is complete and synced; it may be copied now and is replaced by the next one.
  virtual void checkpoint(std::int64_t step, const std::string& path, std::uint64_t bytes, const std::string& sha256) {
    (void)step, (void)path, (void)bytes, (void)sha256;
  }
  // Asked at least once per micro-batch and per evaluation batch.
  virtual StopRequest stop_requested() { return StopRequest::None; }
};

enum class TrainingStatus { Completed, Cancelled, Paused };

struct Artifact {
  std::string name, path;
  std::uint64_t bytes = 0;
  std::string sha256;  // lower-case hex
};

struct TrainingResult {
  TrainingStatus status = TrainingStatus::Completed;
  bool has_evaluation = false;          // the two losses below mean something
  double loss_before = 0, loss_after = 0;  // held-out
  double final_training_loss = 0;
  std::int64_t steps = 0;
  std::uint64_t tokens = 0;
  double seconds = 0, tokens_per_second = 0;  // of this attempt, training steps only
  std::uint64_t peak_bytes = 0;
  std::uint64_t documents = 0, held_out_documents = 0;
  std::uint64_t truncated_tokens = 0, truncated_documents = 0;
  std::uint64_t parameters = 0;
  bool reached_max_seconds = false, stopped_early = false;
  std::vector<Artifact> artifacts;      // empty unless completed
};

// Pause and Cancel both leave within a micro-batch; Pause writes a checkpoint first. A run continued from a
// checkpoint (checkpoint_path not empty) ends in the same bytes as one that was never interrupted.
TrainingResult train(const TrainingOptions& options, const std::string& documents_path,
                     const std::string& checkpoint_path, const std::string& work_folder,
                     backend::Backend& backend, Observer& observer);

// How generate() of generation.hpp writes.
struct GenerateOptions {
  bool is_chat = false;      // prompts are JSON lists of messages
  std::string chat_template; // empty: the model's own
  int max_tokens = 64;
  double temperature = 0.8;  // 0 = always the likeliest token
  int top_k = 0;             // 0 = off
  double top_p = 1.0;
  double min_p = 0;              // share of the likeliest token's probability, 0 = off
  double repetition_penalty = 1; // 1 = none
  std::vector<std::string> stop; // the text ends before any of these
  std::uint64_t seed = 1;
  std::string precision = "auto";  // auto | fp32 | bf16
};

struct GenerateResult {
  std::string text;        // valid UTF-8, without the prompt
  int tokens = 0, prompt_tokens = 0;
  int left_out = 0;        // tokens at the beginning of a prompt that is longer than the model sees
  std::string end_reason;  // end_of_text | stop | max_tokens | context_full | stopped
};

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kCheckpointFile = "checkpoint.safetensors";

}  // namespace pgtrain::engine::train
