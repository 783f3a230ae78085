// What check_preferences.py holds against TRL: preferences_interop FOLDER
//
// A whole run with objective dpo, as FOLDER/task.json says it: the base model's folder, the options, and the records. Made are:
//   initial/       the adapter before the first step, unless the whole model trains
//   training.i32   tokens, positions, segments, targets and sequences of every micro-batch that the steps see, int32 [batch, length] each
//   held_out.i32   the same of the held-out pairs
//   said.json      loss, accuracy and rate of every step, what was measured before and after, and what evaluate says of the model
//   run/           what the run left
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/data/load.hpp"
#include "engine/data/pairs.hpp"
#include "engine/io/file.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/evaluation.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/model_tokenizer.hpp"
#include "engine/train/options.hpp"

namespace {

using namespace pgtrain::engine;
using core::JsonValue;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

void append(std::string& list, double value) { list += (list.empty() ? "" : ",") + number(value); }

struct Listener : train::Observer {
  std::string losses, accuracies, rates, evaluations;

  void progress(const train::Progress& now) override { append(losses, now.loss), append(accuracies, now.accuracy), append(rates, now.learning_rate); }
  void evaluation(train::EvaluationPhase, const train::Evaluation& found, std::int64_t) override {
    evaluations += (evaluations.empty() ? "" : ",") + ("[" + number(found.loss) + "," + number(found.accuracy) + "," + std::to_string(found.samples) + "]");
  }
};

class Task {
 public:
  explicit Task(std::string folder) : folder_(std::move(folder)), json_(JsonValue::parse(io::read_small_file(path("task.json"), 1 << 26), "task.json")) {
    for (const JsonValue& record : json_.at("records").elements()) records_.push_back(record.as_string());
    train::TrainingOptions asked;
    asked.objective = "dpo", asked.base_folder = json_.at("base").as_string(), asked.base_name = "base", asked.method = json_.at("method").as_string();
    asked.exports = {asked.method == "full" ? "merged" : "peft"};
    asked.dpo_beta = json_.at("beta").as_number(), asked.lora_rank = static_cast<int>(json_.at("rank").as_integer()), asked.lora_alpha = json_.at("alpha").as_number();
    asked.context = static_cast<int>(json_.at("length").as_integer()), asked.batch_size = static_cast<int>(json_.at("batch").as_integer());
    asked.gradient_accumulation = static_cast<int>(json_.at("accumulation").as_integer()), asked.steps = json_.at("steps").as_integer();
    asked.learning_rate = json_.at("learning_rate").as_number(), asked.weight_decay = json_.at("weight_decay").as_number(), asked.warmup_steps = 5;
    asked.beta1 = json_.at("beta1").as_number(), asked.beta2 = json_.at("beta2").as_number(), asked.gradient_clip = json_.at("gradient_clip").as_number();
    asked.seed = static_cast<std::uint64_t>(json_.at("seed").as_integer()), asked.held_out_fraction = 0.25, asked.evaluation_batches = 1000;
    asked.precision = "fp32", asked.long_samples = "error", asked.progress_interval_seconds = 0;
    options_ = train::resolve(asked);
  }

  void run() {
    write_initial();
    write_pairs();
    std::filesystem::create_directory(path("run"));
    io::write_file(path("data"), data::encode_documents(records_));
    Listener listener;
    train::train(options_, path("data"), "", path("run"), *device_, listener);
    io::write_file(path("said.json"), "{\"losses\": [" + listener.losses + "],\n\"accuracies\": [" + listener.accuracies + "],\n\"rates\": [" + listener.rates +
                                          "],\n\"evaluations\": [" + listener.evaluations + "],\n\"evaluated\": " + evaluated() + "}\n");
  }

 private:
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  void write_initial() const {
    const models::Tuning tuning = train::tuning_of(options_);
    if (!tuning.adapters) return;
    const graph::Graph graph = models::build_model(base_->config(), tuning, core::DType::F32, 1, 8);
    graph::ParameterStore store(graph, *device_, graph::Mode::Evaluate);
    models::load_weights(*base_, tuning, options_.seed, store);
    std::filesystem::create_directory(path("initial"));
    train::write_exports({.folder = path("initial"), .config = base_->config(), .tuning = tuning, .base = base_.get(), .store = store, .tokenizer = tokenizer_,
                          .base_name = "base", .kinds = {train::ExportKind::Peft}});
  }

  void write_pairs() const {
    const std::string file = data::encode_documents(records_);
    const data::RecordReader reader(tokenizer_, {}, {});
    const data::SplitTokens tokens = data::tokenize_records(data::Documents(file), tokenizer_, reader, true, {options_.held_out_fraction, options_.seed, "", {}});
    data::PairOptions options{options_.batch_size, options_.context, options_.seed, data::LongSamples::Error, 0, false};
    write_batches("training.i32", tokens.training, options, static_cast<std::uint64_t>(options_.steps * options_.gradient_accumulation));
    options.epochs = 1, options.keeps_order = true;
    write_batches("held_out.i32", tokens.held_out, options, data::count_batches(tokens.held_out, options));
  }

  void write_batches(const std::string& name, const data::TokenStore& store, const data::PairOptions& options, std::uint64_t count) const {
    data::PairStream stream(store, options);
    data::PairBatch batch;
    std::string out;
    for (std::uint64_t i = 0; i < count && stream.next(batch); ++i)
      for (const auto* values : {&batch.inputs, &batch.positions, &batch.segments, &batch.targets, &batch.sequences})
        out.append(reinterpret_cast<const char*>(values->data()), 4 * values->size());
    io::write_file(path(name), out);
  }

  // What evaluate says of the held-out records, as a user would ask for it.
  std::string evaluated() const {
    const std::vector<bool> is_held_out = data::choose_held_out(records_.size(), options_.held_out_fraction, options_.seed);
    std::vector<std::string> held_out;
    for (std::size_t i = 0; i < records_.size(); ++i)
      if (is_held_out[i]) held_out.push_back(records_[i]);
    io::write_file(path("held_out"), data::encode_documents(held_out));
    const train::PreferenceEvaluation found = train::evaluate_preferences({path("run"), options_.base_folder}, options_, path("held_out"), path("run"), *device_, [] {});
    return "[" + number(found.loss) + "," + number(found.accuracy) + "," + std::to_string(found.samples) + "," + number(found.margin) + "]";
  }

  const std::string folder_;
  const JsonValue json_;
  std::vector<std::string> records_;
  train::TrainingOptions options_;
  const std::unique_ptr<backend::Backend> device_ = backend::open("cpu", {.threads = 1});
  const std::unique_ptr<models::CheckpointSource> base_ = train::open_base(json_.at("base").as_string());
  const tokenizers::Tokenizer tokenizer_ = train::open_tokenizer(*base_);
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return std::fprintf(stderr, "usage: preferences_interop FOLDER\n"), 2;
  try {
    Task(arguments[1]).run();
  } catch (const core::Error& error) {
    return std::fprintf(stderr, "%s: %s\n%s\n", error.code.c_str(), error.message.c_str(), error.detail.c_str()), 1;
  }
  return 0;
}
