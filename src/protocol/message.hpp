// message.hpp: every message between worker and trainer, told once. Each struct lists its fields in
// `visit`, in wire order; encoder and decoder both follow that list, so they cannot disagree.
// Encoding (all integers in network order): u8, u32, u64, i64; f64 as its IEEE bits; text as u32 length and UTF-8
// bytes without NUL; a list as u32 count and its items; an enumeration as one u8.
// A number that was not measured is NaN. docs/protocol.md tells who says what when.
// Called by the module's workers and by the trainer; nothing here throws but std::bad_alloc.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "protocol/frame.hpp"

namespace pgtrain::protocol {

/// Raised by one whenever a message, a field or a meaning changes. Hello itself never changes its shape.
inline constexpr uint32_t protocol_version = 4;

inline constexpr double not_measured = std::numeric_limits<double>::quiet_NaN();

/// Build id of this side, said in Hello and printed by --version; for people, never compared.
const char* build_id();

enum class JobKind : uint8_t { Train = 0, Plan = 1, Generate = 2, Evaluate = 3, Import = 4, Measure = 5, Export = 6 };
/// Where an Export leaves its files, within the job folder.
inline constexpr const char* export_folder = "export";

enum class PromptKind : uint8_t { Text = 0, Messages = 1 };
enum class TaskState : uint8_t { Started = 0, Finished = 1, Failed = 2 };
enum class EvaluationPhase : uint8_t { Before = 0, During = 1, After = 2 };
enum class FileKind : uint8_t { Checkpoint = 0, Artifact = 1 };
enum class LogLevel : uint8_t { Debug = 0, Info = 1, Warning = 2 };
enum class DoneStatus : uint8_t { Completed = 0, Cancelled = 1, Paused = 2 };

/// Why a trainer gave up. name_of() gives the label that end_reason has in SQL.
enum class FailureCode : uint8_t {
  ConfigInvalid = 0,
  DataInvalid = 1,
  OutOfMemory = 2,
  DeviceFault = 3,
  NonFiniteLoss = 4,
  ModelMissing = 5,
  ArtifactInvalid = 6,
  IoError = 7,
  ProtocolViolation = 8,
  InternalError = 9,
};

const char* name_of(JobKind kind);
const char* name_of(PromptKind kind);
const char* name_of(TaskState state);
const char* name_of(EvaluationPhase phase);
const char* name_of(FileKind kind);
const char* name_of(LogLevel level);
const char* name_of(DoneStatus status);
const char* name_of(FailureCode code);

/// A file in the job folder that the worker put there. Name empty: no such file.
/// `sha256` empty: not checked; else 64 lower-case hex digits, checked by the trainer before use.
struct InputFile {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.name), field(self.bytes), field(self.sha256);
  }
};

/// What to write when the job's kind is Generate; Evaluate writes its answers by it too, to its data's prompts.
struct GenerateOptions {
  std::vector<std::string> prompts;
  PromptKind kind = PromptKind::Text;  ///< Messages: each prompt is a JSON list of {role, content}
  uint32_t max_tokens = 0;
  double temperature = 0;  ///< 0: always the likeliest token
  uint32_t top_k = 0;      ///< 0: no limit
  double top_p = 1;
  double min_p = 0;                ///< share of the likeliest token's probability; 0: no limit
  double repetition_penalty = 1;   ///< 1: none
  std::vector<std::string> stop;   ///< an answer ends before any of these
  uint64_t seed = 0;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.prompts), field(self.kind), field(self.max_tokens), field(self.temperature), field(self.top_k), field(self.top_p);
    field(self.min_p), field(self.repetition_penalty), field(self.stop), field(self.seed);
  }
};

using ConfigPair = std::pair<std::string, std::string>;

// ---------------------------------------------------------------- down: worker to trainer
namespace down {

struct Hello {
  static constexpr char type = 'H';
  static constexpr uint32_t cap = 1024;
  uint32_t version = protocol_version;
  std::string build;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.version), field(self.build);
  }
};

/// The only job that this trainer will ever do.
struct Job {
  static constexpr char type = 'J';
  static constexpr uint32_t cap = 4 << 20;
  uint64_t run_id = 0;
  uint32_t attempt = 0;
  JobKind kind = JobKind::Train;
  std::string device;               ///< cpu or cuda:N
  uint32_t threads = 0;             ///< 0: as many as the machine has cores
  uint64_t memory_limit_bytes = 0;  ///< 0: what the device has
  uint32_t heartbeat_ms = 1000;
  uint32_t grace_ms = 10000;       ///< how long a last checkpoint may take once told to leave
  std::vector<ConfigPair> config;  ///< as given or as frozen; the trainer freezes it again
  InputFile data;                  ///< Train, Evaluate: the samples. Plan, Measure: only `bytes` is looked at
  InputFile validation;            ///< Train: samples to evaluate on, in place of a part of the data
  InputFile resume;                ///< Train: checkpoint to continue from. Generate, Evaluate, Export: the model, in place of `model`
  std::vector<InputFile> model;    ///< Generate, Evaluate, Export: artifacts of a run; none, and no checkpoint: the base model itself
  std::vector<InputFile> base;     ///< files of the base model, in the folder `base`: a Hugging Face folder's or one GGUF
  std::string base_config;         ///< Plan and Measure with a base model: its config.json, in place of its files
  std::string base_name;           ///< how adapters call their base model
  int64_t submitted_at = 0;        ///< seconds since 1970: the date that chat templates print, the same in each attempt
  GenerateOptions generate;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.run_id), field(self.attempt), field(self.kind), field(self.device), field(self.threads);
    field(self.memory_limit_bytes), field(self.heartbeat_ms), field(self.grace_ms), field(self.config);
    field(self.data), field(self.validation), field(self.resume), field(self.model), field(self.base), field(self.base_config), field(self.base_name);
    field(self.submitted_at), field(self.generate);
  }
};

/// Stop within one micro-batch, keep nothing: answered by Done cancelled.
struct Cancel {
  static constexpr char type = 'C';
  static constexpr uint32_t cap = 0;

  template <class Self, class Visitor>
  static void visit(Self&, Visitor&&) {}
};

/// Write a checkpoint and leave: answered by File checkpoint, then Done paused.
struct Pause {
  static constexpr char type = 'P';
  static constexpr uint32_t cap = 0;

  template <class Self, class Visitor>
  static void visit(Self&, Visitor&&) {}
};

/// A file named by an upward File is stored; the trainer may delete or replace it.
struct Ack {
  static constexpr char type = 'A';
  static constexpr uint32_t cap = 512;
  std::string name;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.name);
  }
};

}  // namespace down

// ---------------------------------------------------------------- up: trainer to worker
namespace up {

struct Hello {
  static constexpr char type = 'h';
  static constexpr uint32_t cap = 4096;
  uint32_t version = protocol_version;
  std::string build;
  std::string device;  ///< what this machine offers, for people

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.version), field(self.build), field(self.device);
  }
};

/// What the run needs, in bytes, before anything of it is allocated. First answer to Train, Plan and Measure.
struct Plan {
  static constexpr char type = 'p';
  static constexpr uint32_t cap = 4096;
  uint64_t parameters = 0;
  uint64_t weight_bytes = 0, gradient_bytes = 0, optimizer_bytes = 0, activation_bytes = 0, workspace_bytes = 0, data_bytes = 0;
  uint64_t peak_bytes = 0;
  uint64_t tokens_per_step = 0;
  uint64_t planned_tokens = 0;  ///< steps x tokens_per_step
  uint64_t device_memory_bytes = 0;
  std::string device;     ///< model name of the device, for people
  std::string precision;  ///< fp32 or bf16: what `auto` became
  std::string recompute;  ///< none, cheap or blocks: what `auto` became
  uint64_t trained_parameters = 0;  ///< of `parameters`, those that train
  int64_t steps = 0;                ///< an estimate from the bytes of the data where the run counts in epochs

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.parameters), field(self.weight_bytes), field(self.gradient_bytes), field(self.optimizer_bytes);
    field(self.activation_bytes), field(self.workspace_bytes), field(self.data_bytes), field(self.peak_bytes);
    field(self.tokens_per_step), field(self.planned_tokens), field(self.device_memory_bytes), field(self.device), field(self.precision);
    field(self.recompute), field(self.trained_parameters), field(self.steps);
  }
};

/// What the data turned out to be, once it is in tokens: the true steps of a run that counts in epochs.
struct Data {
  static constexpr char type = 'a';
  static constexpr uint32_t cap = 256;
  uint64_t samples = 0, held_out_samples = 0;
  uint64_t tokens = 0;          ///< of an epoch, all that the model looks at
  uint64_t learned_tokens = 0;  ///< of these, those that count in the loss
  uint64_t truncated_samples = 0, truncated_tokens = 0;
  int64_t steps = 0;
  uint64_t planned_tokens = 0;  ///< steps x tokens_per_step

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.samples), field(self.held_out_samples), field(self.tokens), field(self.learned_tokens), field(self.truncated_samples);
    field(self.truncated_tokens), field(self.steps), field(self.planned_tokens);
  }
};

/// A part of the run began or ended: read_data, evaluate_before, train, ...
struct Task {
  static constexpr char type = 't';
  static constexpr uint32_t cap = 1024;
  std::string name;
  TaskState state = TaskState::Started;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.name), field(self.state);
  }
};

struct Progress {
  static constexpr char type = 'r';
  static constexpr uint32_t cap = 256;
  int64_t step = 0, steps = 0;
  double loss = not_measured, learning_rate = not_measured, gradient_norm = not_measured;
  uint64_t tokens = 0;  ///< trained on since the run's first attempt began
  double tokens_per_second = not_measured;
  double seconds = 0;  ///< of this attempt
  uint64_t peak_bytes = 0;
  double accuracy = not_measured;  ///< share of the tokens that were the likeliest

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.step), field(self.steps), field(self.loss), field(self.learning_rate), field(self.gradient_norm);
    field(self.tokens), field(self.tokens_per_second), field(self.seconds), field(self.peak_bytes), field(self.accuracy);
  }
};

struct Metric {
  static constexpr char type = 'm';
  static constexpr uint32_t cap = 1024;
  int64_t step = 0;
  std::string name;
  double value = not_measured;
  uint64_t samples = 0;  ///< that it was measured on

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.step), field(self.name), field(self.value), field(self.samples);
  }
};

struct Evaluation {
  static constexpr char type = 'e';
  static constexpr uint32_t cap = 256;
  EvaluationPhase phase = EvaluationPhase::During;
  int64_t step = 0;
  double loss = not_measured;
  uint64_t tokens = 0;             ///< that it was measured on
  double accuracy = not_measured;  ///< share of them that were the likeliest
  uint64_t samples = 0;            ///< that they came from

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.phase), field(self.step), field(self.loss), field(self.tokens), field(self.accuracy), field(self.samples);
  }
};

/// A piece of the answer to a prompt of Generate, whole characters. `end_reason` is empty but for the last piece of each prompt:
/// end_of_text, stop, max_tokens or context_full.
struct Piece {
  static constexpr char type = 'w';
  static constexpr uint32_t cap = 1 << 20;
  uint32_t prompt = 0;  ///< its place in the job, from 0
  std::string text;
  std::string end_reason;
  uint32_t prompt_tokens = 0, tokens = 0;  ///< so far

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.prompt), field(self.text), field(self.end_reason), field(self.prompt_tokens), field(self.tokens);
  }
};

/// The answer to Import: what the files are. JSON with architecture (config.json as this version writes it), model_type, parameters,
/// context_length, vocab_size, stored_types, has_chat_template, warnings.
struct Description {
  static constexpr char type = 'i';
  static constexpr uint32_t cap = 1 << 20;
  std::string json;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.json);
  }
};

/// The answer to Measure: what was tried out on the device, with a model of the run's shape and fewer layers.
struct Speed {
  static constexpr char type = 'v';
  static constexpr uint32_t cap = 64;
  double step_seconds = not_measured;
  double evaluation_seconds = not_measured;  ///< of a micro-batch of held-out samples
  uint32_t layers = 0;                       ///< of the model that was tried out

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.step_seconds), field(self.evaluation_seconds), field(self.layers);
  }
};

/// Text that the model wrote: a look inside a training run.
struct Sample {
  static constexpr char type = 's';
  static constexpr uint32_t cap = 1 << 20;
  int64_t step = 0;
  std::string prompt;
  std::string text;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.step), field(self.prompt), field(self.text);
  }
};

/// A finished file in the job folder. It stays unchanged until the Ack of its name.
struct File {
  static constexpr char type = 'f';
  static constexpr uint32_t cap = 1024;
  FileKind kind = FileKind::Checkpoint;
  std::string name;
  int64_t step = 0;
  uint64_t bytes = 0;
  std::string sha256;  ///< 64 lower-case hex digits

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.kind), field(self.name), field(self.step), field(self.bytes), field(self.sha256);
  }
};

/// Work went on since the last one. Not sent while nothing moves, so silence means hung.
struct Heartbeat {
  static constexpr char type = 'b';
  static constexpr uint32_t cap = 64;
  uint64_t work_units = 0;      ///< micro-batches and the like, ever growing
  uint64_t resident_bytes = 0;  ///< of the process, as the kernel counts

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.work_units), field(self.resident_bytes);
  }
};

struct Log {
  static constexpr char type = 'l';
  static constexpr uint32_t cap = 8192;
  LogLevel level = LogLevel::Info;
  std::string text;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.level), field(self.text);
  }
};

/// The last message of a trainer that gave up.
struct Failed {
  static constexpr char type = 'x';
  static constexpr uint32_t cap = 16384;
  FailureCode code = FailureCode::InternalError;
  std::string message, detail, hint;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.code), field(self.message), field(self.detail), field(self.hint);
  }
};

/// The last message of a trainer that did what it was told. After it comes only end of file.
/// Completed with fewer steps than configured: max_seconds was reached, and the artifacts are of that moment.
struct Done {
  static constexpr char type = 'd';
  static constexpr uint32_t cap = 256;
  DoneStatus status = DoneStatus::Completed;
  double loss_before = not_measured, loss_after = not_measured;
  int64_t steps = 0;
  uint64_t tokens = 0;
  double seconds = 0, tokens_per_second = not_measured;
  uint64_t peak_bytes = 0;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& field) {
    field(self.status), field(self.loss_before), field(self.loss_after), field(self.steps), field(self.tokens);
    field(self.seconds), field(self.tokens_per_second), field(self.peak_bytes);
  }
};

}  // namespace up

// ---------------------------------------------------------------- reading and writing

using DownMessage = std::variant<down::Hello, down::Job, down::Cancel, down::Pause, down::Ack>;
using UpMessage = std::variant<up::Hello, up::Plan, up::Data, up::Piece, up::Description, up::Speed, up::Task, up::Progress, up::Metric, up::Evaluation, up::Sample, up::File, up::Heartbeat,
                               up::Log, up::Failed, up::Done>;

/// Returns the whole frame of a message, ready for write(). Text is made valid first (bad UTF-8 and NUL become
/// U+FFFD), and the longest text is cut and ends in "…" where the payload would burst the cap of its type.
/// A Job is never cut, since that would change what is asked for: over its cap it gives an empty text.
template <class Message>
std::string encode(const Message& message);

/// Decodes a frame read from the peer. False: the frame breaks the rules and `error` says which field and how:
/// unknown type, missing or left-over bytes, text that is not UTF-8, an enumeration out of range, a file name
/// that is not a plain relative name, a sha256 that is not 64 hex digits, a Hello of another version is NOT
/// an error here: look at its `version` first.
bool decode(const Frame& frame, DownMessage& message, std::string& error);
bool decode(const Frame& frame, UpMessage& message, std::string& error);

/// True for names of 1..128 of [A-Za-z0-9._-] that do not begin with a dot: no folder, no traversal, no hidden file.
bool is_safe_file_name(std::string_view name);

/// True for 64 lower-case hexadecimal digits.
bool is_sha256_hex(std::string_view text);

/// Returns text as valid UTF-8 without NUL, each bad byte replaced by U+FFFD.
std::string clean_utf8(std::string_view text);

/// True when clean_utf8 would change nothing.
bool is_clean_utf8(std::string_view text);

/// Says what to tell a user whose trainer speaks another version.
std::string version_mismatch_text(uint32_t ours, uint32_t theirs, std::string_view their_build);

}  // namespace pgtrain::protocol
