// main.cpp: a trainer that speaks the real protocol, trains nothing and commits scripted faults, so that what a worker does
// about a trainer's misbehaviour is tested in milliseconds. Its artifact depends on seed, data and every step, so that
// exact resume shows. `pgtrain-fake-trainer probe-sandbox FILE` tries what the sandbox forbids.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "engine/core/sha256.hpp"
#include "fake_trainer/faults.hpp"
#include "fake_trainer/probe.hpp"
#include "protocol/run_config.hpp"

namespace pgtrain::fake_trainer {

using namespace protocol;
using engine::core::sha256_hex;
using trainer::ExitCode;
using trainer::Session;
using trainer::Stop;

namespace {

std::string read_whole(const std::string& name) {
  std::ifstream file(name, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Stands for the trained weights: changes with every step and with nothing else.
struct State {
  int64_t step = 0;
  std::string chain;
};

class Run {
 public:
  Run(Session& session, Scene& scene, const down::Job& job) : session_(session), scene_(scene), job_(job) {}

  ExitCode play() {
    ConfigError error;
    if (!freeze_config(job_.config, config_, error, {0, std::nullopt})) return fail(FailureCode::ConfigInvalid, error.message);
    if (job_.kind == JobKind::Import) return describe();
    const bool is_asked = job_.kind == JobKind::Generate && !job_.generate.prompts.empty();
    const std::string& prompt = is_asked ? job_.generate.prompts[0] : config_.text("sample_prompt");
    if (prompt.starts_with("fake:")) parse_script(std::string_view(prompt).substr(5), scene_.script);
    if (!scene_.script.error.empty()) return fail(FailureCode::ConfigInvalid, scene_.script.error);
    reach(scene_, "job");
    if (job_.kind == JobKind::Generate) return generate();
    if (job_.kind == JobKind::Evaluate) return evaluate();
    const up::Plan plan = make_plan();
    if (job_.memory_limit_bytes > 0 && plan.peak_bytes > job_.memory_limit_bytes)
      return fail(FailureCode::OutOfMemory, "the run needs " + std::to_string(plan.peak_bytes) + " bytes");
    reach(scene_, "plan");
    session_.send(plan);
    if (job_.kind == JobKind::Measure) session_.send(up::Speed{0.25, 0.125, 3});
    return job_.kind == JobKind::Train ? train() : finish(DoneStatus::Completed, 0);
  }

 private:
  up::Plan make_plan() const {
    up::Plan plan;
    plan.parameters = 1000;
    plan.weight_bytes = 4000;
    plan.data_bytes = job_.data.bytes;
    plan.peak_bytes = static_cast<uint64_t>(scene_.script.setting("peak_bytes", 1 << 20));
    plan.tokens_per_step = config_.tokens_per_step();
    plan.steps = config_.planned_steps(job_.data.bytes);
    plan.planned_tokens = config_.planned_tokens(job_.data.bytes);
    plan.device_memory_bytes = uint64_t{1} << 34;
    plan.device = "no device (fake trainer)";
    plan.precision = "fp32";
    return plan;
  }

  ExitCode fail(FailureCode code, const std::string& message) {
    session_.send(up::Failed{code, message, "", ""});
    return ExitCode::Failed;
  }

  ExitCode finish(DoneStatus status, int64_t steps) {
    up::Done done;
    done.status = status;
    done.loss_before = 5.5;
    done.loss_after = status == DoneStatus::Completed ? 2.5 : not_measured;
    done.steps = steps;
    done.tokens = static_cast<uint64_t>(steps) * config_.tokens_per_step();
    done.peak_bytes = 1 << 20;
    session_.send(done);
    reach(scene_, "done");
    return ExitCode::Done;
  }

  // Whether the folder of the base model is as the job says; what it holds goes into the chain.
  bool read_base(std::string& content) const {
    for (const InputFile& file : job_.base) {
      const std::string bytes = read_whole("base/" + file.name);
      if (bytes.size() != file.bytes || sha256_hex(bytes) != file.sha256) return false;
      content += file.name + bytes;
    }
    return true;
  }

  // Believes every file and does not read large ones; one that holds "fake: ...;" gives the script.
  ExitCode describe() {
    std::string content;
    if (job_.base.empty()) return fail(FailureCode::ModelMissing, "the job names no files of a model");
    for (const InputFile& file : job_.base)
      if (file.bytes < (1 << 20)) content += read_whole("base/" + file.name);
    const size_t begin = content.find("fake:");
    if (begin != std::string::npos) parse_script(std::string_view(content).substr(begin + 5, content.find(';', begin) - begin - 5), scene_.script);
    if (!scene_.script.error.empty()) return fail(FailureCode::ConfigInvalid, scene_.script.error);
    reach(scene_, "job");
    session_.worked();
    session_.send(up::Description{R"({"architecture":{"model_type":"llama","vocab_size":70,"max_position_embeddings":128},"model_type":"llama",)"
                                  R"("parameters":1000,"context_length":128,"vocab_size":70,"stored_types":["F32"],"has_chat_template":false,"warnings":[]})"});
    reach(scene_, "publish");
    return finish(DoneStatus::Completed, 0);
  }

  // Names the file of the model that is missing, if one is.
  std::string missing_file() const {
    for (const InputFile& file : job_.model)
      if (read_whole(file.name).empty()) return file.name;
    const std::string checkpoint = job_.resume.name.empty() ? "" : read_whole(job_.resume.name);
    return job_.resume.name.empty() || sha256_hex(checkpoint) == job_.resume.sha256 ? "" : job_.resume.name;
  }

  ExitCode generate() {
    if (const std::string missing = missing_file(); !missing.empty()) return fail(FailureCode::ModelMissing, "no file " + missing);
    reach(scene_, "data");
    const int64_t pieces = scene_.script.setting("pieces", 1);
    const auto pause = std::chrono::milliseconds(scene_.script.setting("step_ms", 0));
    for (int64_t piece = 1; piece <= pieces; ++piece) {
      std::this_thread::sleep_for(pause);
      session_.worked();
      const bool is_last = piece == pieces;
      for (uint32_t i = 0; i < job_.generate.prompts.size(); ++i)
        session_.send(up::Piece{i, is_last ? last_words(i) : "piece " + std::to_string(piece) + ", ", is_last ? "max_tokens" : "", 1, static_cast<uint32_t>(piece)});
    }
    return finish(DoneStatus::Completed, job_.generate.max_tokens);
  }

  // The loss is the number of bytes that it was given, so that what arrives shows; of a base model by itself twice that.
  ExitCode evaluate() {
    const std::string data = read_whole(job_.data.name);
    if (data.size() != job_.data.bytes) return fail(FailureCode::DataInvalid, "the data has not the bytes that the job says");
    if (const std::string missing = missing_file(); !missing.empty()) return fail(FailureCode::ModelMissing, "no file " + missing);
    reach(scene_, "data");
    const bool is_base = job_.model.empty() && job_.resume.name.empty();
    uint64_t samples = 0;
    for (size_t at = 0; at + 4 <= data.size(); ++samples)
      at += 4 + static_cast<unsigned char>(data[at]) + 256 * static_cast<size_t>(static_cast<unsigned char>(data[at + 1]));
    session_.send(up::Evaluation{EvaluationPhase::After, 0, static_cast<double>(data.size()) * (is_base ? 2 : 1), data.size(), 0.75, samples});
    return finish(DoneStatus::Completed, 0);
  }

  // With echo=1 everything that was asked for, to see that it arrives.
  std::string last_words(uint32_t prompt) const {
    const GenerateOptions& asked = job_.generate;
    if (scene_.script.setting("echo", 0) == 0) return "generated by the fake trainer, seed " + std::to_string(asked.seed) + (job_.model.empty() && job_.resume.name.empty() ? ", before" : "");
    std::ostringstream text;
    text << name_of(asked.kind) << ' ' << asked.prompts[prompt] << " max_tokens " << asked.max_tokens << " temperature " << asked.temperature << " top_k "
         << asked.top_k << " top_p " << asked.top_p << " min_p " << asked.min_p << " repetition_penalty " << asked.repetition_penalty << " seed " << asked.seed;
    for (const std::string& stop : asked.stop) text << " stop <" << stop << '>';
    for (const InputFile& file : job_.model) text << " file " << file.name;
    for (const InputFile& file : job_.base) text << " base " << file.name;
    if (!job_.resume.name.empty()) text << " checkpoint " << job_.resume.name;
    text << " size " << config_.text("size");
    return text.str();
  }

  bool begin(State& state) {
    session_.send(up::Task{"read_data", TaskState::Started});
    reach(scene_, "data");
    const std::string data = read_whole(job_.data.name);
    if (data.size() != job_.data.bytes || (!job_.data.sha256.empty() && sha256_hex(data) != job_.data.sha256)) return false;
    const std::string validation = job_.validation.name.empty() ? "" : read_whole(job_.validation.name);
    if (validation.size() != job_.validation.bytes) return false;
    std::string base;
    if (!read_base(base)) return false;
    state.chain = sha256_hex(config_.text("seed") + sha256_hex(data) + base + validation);
    session_.send(up::Task{"read_data", TaskState::Finished});
    if (job_.resume.name.empty()) return true;
    const std::string checkpoint = read_whole(job_.resume.name);
    if (!job_.resume.sha256.empty() && sha256_hex(checkpoint) != job_.resume.sha256) return false;
    std::istringstream fields(checkpoint);
    return static_cast<bool>(fields >> state.step >> state.chain);
  }

  ExitCode train() {
    State state;
    if (!begin(state)) return fail(FailureCode::DataInvalid, "data or checkpoint is not what the job says");
    // A run that counts in epochs knows its steps when it has read the data.
    const int64_t steps = scene_.script.setting("true_steps", config_.planned_steps(job_.data.bytes)), every = config_.integer("checkpoint_every");
    const auto pause = std::chrono::milliseconds(scene_.script.setting("step_ms", 2));
    session_.send(up::Data{60, 3, 1000, 900, 2, 17, steps, static_cast<uint64_t>(steps) * config_.tokens_per_step()});
    if (state.step == 0) session_.send(up::Evaluation{EvaluationPhase::Before, 0, 5.5, 100, 0.25, 3});
    session_.send(up::Task{"train", TaskState::Started});
    while (state.step < steps) {
      const Stop stop = scene_.script.has("deaf") ? Stop::None : session_.stop_requested();
      if (stop == Stop::Cancel) return finish(DoneStatus::Cancelled, state.step);
      if (stop == Stop::Pause) {
        write_checkpoint(state);
        session_.wait_for_acks(0);
        return finish(DoneStatus::Paused, state.step);
      }
      std::this_thread::sleep_for(pause);
      ++state.step;
      state.chain = sha256_hex(state.chain + std::to_string(state.step));
      report_step(state.step, steps);
      if (every > 0 && state.step % every == 0 && state.step < steps) write_checkpoint(state);
      reach(scene_, "step" + std::to_string(state.step));
    }
    session_.send(up::Task{"train", TaskState::Finished});
    session_.send(up::Evaluation{EvaluationPhase::After, state.step, 2.5, 100, 0.5, 3});
    for (int64_t i = 0; i < config_.integer("samples"); ++i) session_.send(up::Sample{state.step, "", "sample " + std::to_string(i)});
    publish(state);
    reach(scene_, "publish");
    if (!session_.wait_for_acks(0) && session_.stop_requested() == Stop::Cancel) return finish(DoneStatus::Cancelled, state.step);
    return finish(DoneStatus::Completed, state.step);
  }

  void report_step(int64_t step, int64_t steps) {
    session_.worked();
    up::Progress progress;
    progress.step = step;
    progress.steps = steps;
    progress.loss = 2.5 + 3.0 / static_cast<double>(step);
    progress.learning_rate = config_.real("learning_rate");
    progress.gradient_norm = 1;
    progress.tokens = static_cast<uint64_t>(step) * config_.tokens_per_step();
    progress.tokens_per_second = 1000;
    progress.peak_bytes = 1 << 20;
    session_.send(progress);
    session_.send(up::Metric{step, "fake_metric", 1.0 / static_cast<double>(step)});
  }

  void write_checkpoint(const State& state) {
    session_.wait_for_acks(0);
    write_file(FileKind::Checkpoint, "checkpoint-" + std::to_string(state.step) + ".safetensors", state, "checkpoint");
  }

  void publish(const State& state) {
    static const char* const names[] = {"model.safetensors", "config.json", "tokenizer.json"};
    const int64_t files = std::min<int64_t>(scene_.script.setting("files", 3), 3);
    for (int64_t i = 0; i < files; ++i) write_file(FileKind::Artifact, names[i], state, "");
  }

  // Writes the state, padded to the size the script asks for, and announces it. `middle` is reached half-way.
  void write_file(FileKind kind, const std::string& name, const State& state, const std::string& middle) {
    std::string content = std::to_string(state.step) + "\n" + state.chain + "\n" + (kind == FileKind::Artifact ? name + "\n" : "");
    const auto size = static_cast<size_t>(scene_.script.setting("artifact_bytes", 0));
    while (content.size() < size) content += sha256_hex(content.substr(content.size() > 64 ? content.size() - 64 : 0)) + "\n";
    const std::string partial = name + ".partial";
    {
      std::ofstream file(partial, std::ios::binary);
      file << content.substr(0, content.size() / 2) << std::flush;
      if (!middle.empty()) reach(scene_, middle);
      file << content.substr(content.size() / 2);
    }
    if (std::rename(partial.c_str(), name.c_str()) != 0) _exit(97);
    session_.announce(up::File{kind, name, state.step, content.size(), sha256_hex(content)});
  }

  Session& session_;
  Scene& scene_;
  const down::Job& job_;
  RunConfig config_;
};

int serve(const char* program) {
  trainer::prepare_signals();
  char folder[4096] = "";
  Scene scene;
  uint64_t run_id = 0;
  if (getcwd(folder, sizeof folder) != nullptr) run_of_folder(std::strrchr(folder, '/') + 1, run_id, scene.attempt);
  parse_script_file(std::string(program) + ".script", run_id, scene.attempt, scene.script);
  reach(scene, "start");
  Session session(0, 1);
  scene.session = &session;
  up::Hello hello{protocol_version, "fake trainer", "no device"};
  if (scene.script.has("version")) hello.version = 99;
  down::Job job;
  session.send(hello);
  reach(scene, "hello");
  const bool is_open = session.receive(job);
  if (!is_open) return static_cast<int>(session.exit_code());
  scene.attempt = job.attempt;
  session.on_ack([](const std::string& name) {
    if (name.starts_with("checkpoint")) unlink(name.c_str());
  });
  session.start_heartbeat(std::chrono::milliseconds(job.heartbeat_ms));
  return static_cast<int>(Run(session, scene, job).play());
}

}  // namespace
}  // namespace pgtrain::fake_trainer

int main(int count, char** arguments) {
  if (count == 3 && std::strcmp(arguments[1], "probe-sandbox") == 0) return pgtrain::fake_trainer::probe_sandbox(arguments[2]);
  if (count == 2 && std::strcmp(arguments[1], "--version") == 0) {
    std::puts("pgtrain-fake-trainer");
    return 0;
  }
  if (count == 2 && std::strcmp(arguments[1], "devices") == 0) {
    std::puts(
        "{\"kind\":\"cpu\",\"selector\":\"cpu\",\"instance_id\":\"cpu\",\"name\":\"no device (fake trainer)\",\"memory_bytes\":17179869184,"
        "\"isa\":\"none\",\"units\":1,\"note\":\"a fake trainer has no CUDA device\"}");
    return 0;
  }
  return pgtrain::fake_trainer::serve(arguments[0]);
}
