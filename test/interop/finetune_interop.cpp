// What check_finetune.py holds against transformers, PEFT and llama.cpp: finetune_interop FOLDER
//
// FOLDER/task.json says the base model, how it is tuned, and with what; FOLDER/batches.i32 has tokens, positions, segments and targets
// of every step, FOLDER/probes.i32 of every probe, each as int32 [batch, length]. Made are:
//   initial/       the adapter before the first step, or the whole model
//   steps.json     loss, gradient norm and rate of every step
//   probes.f32     after the last step, losses of every row of every probe; hits.f32 whether its target was the likeliest
//   export/        what the task's "exports" names, checked
//   ids.json       our tokens of the task's "texts", without special ones
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/file.hpp"
#include "engine/models/model.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/model_tokenizer.hpp"
#include "engine/train/optimizer.hpp"
#include "engine/train/schedule.hpp"

namespace {

using namespace pgtrain::engine;
using core::JsonValue;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::vector<std::string> texts_of(const JsonValue& list) {
  std::vector<std::string> out;
  for (const JsonValue& value : list.elements()) out.push_back(value.as_string());
  return out;
}

class Task {
 public:
  explicit Task(std::string folder)
      : folder_(std::move(folder)),
        json_(JsonValue::parse(io::read_small_file(path("task.json"), 1 << 26), "task.json")),
        base_(models::CheckpointSource::open(json_.at("base").as_string())),
        tokenizer_(train::open_tokenizer(*base_)),
        device_(backend::open("cpu", {.threads = 1})),
        batch_(json_.at("batch").as_integer()),
        length_(json_.at("length").as_integer()) {}

  void run() {
    write_tokens();
    read_tuning();
    const core::DType compute = json_.at("precision").as_string() == "bf16" ? core::DType::Bf16 : core::DType::F32;
    const graph::Graph graph = models::build_model(base_->config(), tuning_, compute, batch_, length_);
    graph::ParameterStore store(graph, *device_, graph::Mode::Train);
    graph::Executor executor(graph, store, graph::Mode::Train);
    models::load_weights(*base_, tuning_, static_cast<std::uint64_t>(json_.at("seed").as_integer()), store);
    if (adapter_) adapter_->load(store);
    write_files("initial", store, {tuning_.adapters ? train::ExportKind::Peft : train::ExportKind::Merged});
    take_steps(store, executor);
    probe(executor);
    write_files("export", store, train::parse_exports(json_.at("exports").as_string()));
  }

 private:
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  double real(const char* key) const { return json_.at(key).as_number(); }

  void write_tokens() {
    std::string out;
    for (const std::string& text : texts_of(json_.at("texts"))) {
      std::vector<tokenizers::Tokenizer::Id> ids;
      tokenizer_.encode(text, ids);
      std::string list;
      for (const auto id : ids) list += (list.empty() ? "" : ",") + std::to_string(id);
      out += (out.empty() ? "[[" : "],\n[") + list;
    }
    io::write_file(path("ids.json"), out.empty() ? "[]" : out + "]]\n");
  }

  void read_tuning() {
    if (json_.find("adapter") != nullptr) {
      adapter_.emplace(json_.at("adapter").as_string(), base_->config());
      tuning_.adapters = adapter_->options();
    } else if (const JsonValue* lora = json_.find("lora")) {
      models::AdapterOptions options;
      options.rank = static_cast<int>(lora->at("rank").as_integer()), options.alpha = lora->at("alpha").as_number();
      options.is_rank_stabilised = lora->at("use_rslora").as_boolean(), options.is_weight_decomposed = lora->at("use_dora").as_boolean();
      options.targets = texts_of(lora->at("targets")), options.modules_to_save = texts_of(lora->at("modules_to_save"));
      tuning_.adapters = options;
    }
    tuning_.is_quantized = json_.at("quantized").as_boolean();
  }

  void write_files(const char* name, const graph::ParameterStore& store, const std::vector<train::ExportKind>& kinds) {
    std::filesystem::create_directory(path(name));
    const train::ExportRequest request{.folder = path(name),
                                       .config = base_->config(),
                                       .tuning = tuning_,
                                       .base = base_.get(),
                                       .store = store,
                                       .tokenizer = tokenizer_,
                                       .chat_template = base_->chat_template(),
                                       .base_name = json_.at("base").as_string(),
                                       .stored_precision = "fp32",
                                       .adapter_precision = json_.find("adapter_precision") != nullptr ? json_.at("adapter_precision").as_string() : "fp32",
                                       .kinds = kinds};
    train::write_exports(request);
    train::check_exports(request);
  }

  std::size_t cells() const { return static_cast<std::size_t>(batch_ * length_); }
  void set_inputs(graph::Executor& executor, const io::MappedFile& file, std::size_t index) const {
    std::vector<std::int32_t> values(cells());
    const char* names[] = {"tokens", "positions", "segments", "targets"};
    for (std::size_t i = 0; i < 4; ++i) {
      if (file.bytes().size() < 4 * cells() * (4 * index + i + 1)) throw std::invalid_argument("batches are missing");
      std::memcpy(values.data(), file.bytes().data() + 4 * cells() * (4 * index + i), 4 * cells());
      executor.set_input(names[i], values.data());
    }
  }

  void take_steps(graph::ParameterStore& store, graph::Executor& executor) {
    const std::int64_t steps = json_.at("steps").as_integer();
    const train::Schedule schedule{json_.at("schedule").as_string(), real("learning_rate"), real("min_learning_rate_ratio"),
                                   json_.at("warmup_steps").as_integer(), steps};
    train::OptimizerOptions options;
    options.weight_decay = real("weight_decay"), options.beta1 = real("beta1"), options.beta2 = real("beta2"),
    options.epsilon = real("epsilon"), options.gradient_clip = real("gradient_clip");
    train::Optimizer optimizer(store, options);
    std::string losses, norms, rates;
    const std::optional<io::MappedFile> file = steps > 0 ? std::optional<io::MappedFile>(std::in_place, path("batches.i32")) : std::nullopt;
    for (std::int64_t step = 0; step < steps; ++step) {
      set_inputs(executor, *file, static_cast<std::size_t>(step));
      std::size_t learned = 0;
      const char* targets = file->bytes().data() + 4 * cells() * (4 * static_cast<std::size_t>(step) + 3);
      for (std::size_t i = 0; i < cells(); ++i) {
        std::int32_t target;
        std::memcpy(&target, targets + 4 * i, 4);
        learned += target >= 0;
      }
      store.zero_gradients();
      executor.forward_backward(static_cast<float>(1.0 / static_cast<double>(learned)));
      const char* comma = step > 0 ? "," : "";
      losses += comma + number(executor.loss_sum() / static_cast<double>(learned));
      norms += comma + number(optimizer.gradient_norm());
      rates += comma + number(schedule.rate(step));
      optimizer.update(step, schedule.rate(step));
    }
    io::write_file(path("steps.json"), "{\"losses\": [" + losses + "],\n\"norms\": [" + norms + "],\n\"rates\": [" + rates + "]}\n");
  }

  void probe(graph::Executor& executor) {
    std::string losses, hits;
    const auto count = static_cast<std::size_t>(json_.at("probes").as_integer());
    const std::optional<io::MappedFile> file = count > 0 ? std::optional<io::MappedFile>(std::in_place, path("probes.i32")) : std::nullopt;
    std::vector<float> values;
    for (std::size_t i = 0; i < count; ++i) {
      set_inputs(executor, *file, i);
      executor.forward();
      executor.download_losses(values);
      losses.append(reinterpret_cast<const char*>(values.data()), 4 * values.size());
      executor.download_hits(values);
      hits.append(reinterpret_cast<const char*>(values.data()), 4 * values.size());
    }
    io::write_file(path("probes.f32"), losses);
    io::write_file(path("hits.f32"), hits);
  }

  const std::string folder_;
  const JsonValue json_;
  const std::unique_ptr<models::CheckpointSource> base_;
  const tokenizers::Tokenizer tokenizer_;
  const std::unique_ptr<backend::Backend> device_;
  const std::int64_t batch_, length_;
  models::Tuning tuning_;
  std::optional<train::AdapterFolder> adapter_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return std::fprintf(stderr, "usage: finetune_interop FOLDER\n"), 2;
  try {
    Task(arguments[1]).run();
  } catch (const core::Error& error) {
    return std::fprintf(stderr, "%s: %s\n%s\n", error.code.c_str(), error.message.c_str(), error.detail.c_str()), 1;
  }
  return 0;
}
