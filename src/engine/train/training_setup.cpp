// What comes before the first step of a run: its base model, its data in tokens, its model on the device.
#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/tokenizers/bpe_trainer.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/model_tokenizer.hpp"
#include "engine/train/options.hpp"
#include "engine/train/training_run.hpp"

namespace pgtrain::engine::train {

void TrainingRun::open_base_model() {
  if (options_.base_folder.empty()) return;
  observer_.task("open_base_model", "started");
  base_ = open_base(options_.base_folder);
  config_ = base_->config();
  tokenizer_ = open_tokenizer(*base_);
  chat_template_ = options_.chat_template.empty() ? base_->chat_template() : options_.chat_template;
  observer_.task("open_base_model", "done");
}

std::string TrainingRun::hash_samples(const io::MappedFile& file) {
  core::Sha256 hash;
  constexpr std::size_t kHashedAtOnce = std::size_t{16} << 20;
  for (std::size_t at = 0; at < file.bytes().size(); at += kHashedAtOnce) {
    hash.update(file.bytes().data() + at, std::min(kHashedAtOnce, file.bytes().size() - at));
    file.forget(at, at + kHashedAtOnce);
    poll();
  }
  return hash.hex();
}

data::Documents TrainingRun::read_samples(const io::MappedFile& file) {
  return data::Documents(file.bytes(), [this] { poll(); }, [&file](std::size_t begin, std::size_t end) { file.forget(begin, end); });
}

void TrainingRun::prepare_data() {
  observer_.task("read_data", "started");
  const io::MappedFile file(documents_path_);
  const data::Documents documents = read_samples(file);
  data_sha256_ = hash_samples(file);
  std::optional<io::MappedFile> validation_file;
  std::optional<data::Documents> validation;
  if (!options_.validation_path.empty()) {
    validation_file.emplace(options_.validation_path);
    validation = data::about_validation([&] { return read_samples(*validation_file); });
    data_sha256_ += "+" + hash_samples(*validation_file);
  }
  result_.documents = documents.size();
  observer_.task("read_data", "done");

  if (!checkpoint_path_.empty()) resumed_ = std::make_unique<CheckpointReader>(checkpoint_path_);
  const bool follows_checkpoint = resumed_ != nullptr && options_.precision == "auto";
  compute_ = follows_checkpoint ? (resumed_->precision() == "bf16" ? core::DType::Bf16 : core::DType::F32) : choose_precision(options_, backend_);
  if (resumed_ != nullptr) resumed_->check(identity());

  prepare_tokenizer(documents);
  observer_.task("tokenize", "started");
  tokenize(documents, validation ? &*validation : nullptr);
  result_.held_out_documents = tokens_->held_out_samples;
  objective_ = make_objective(options_, *tokens_);
  DataFacts facts = objective_->facts();
  facts.samples = documents.size();
  steps_ = facts.steps;
  result_.truncated_documents = facts.truncated_samples;
  result_.truncated_tokens = facts.truncated_tokens;
  const int warmup = options_.warmup_steps >= 0 ? options_.warmup_steps : default_warmup(steps_);
  schedule_ = {options_.schedule, options_.learning_rate, options_.min_learning_rate_ratio, warmup, steps_};
  observer_.data(facts);
  observer_.task("tokenize", "done");
}

void TrainingRun::tokenize(const data::Documents& documents, const data::Documents* validation) {
  const data::LoadOptions load{options_.held_out_fraction, options_.seed, work_folder_, [this] { poll(); }, validation};
  if (base_ == nullptr) {
    tokens_.emplace(data::tokenize_texts(documents, *tokenizer_, load));
    return;
  }
  FoundTemplate found = find_chat_template(base_->chat_template(), options_.chat_template);
  const data::RecordReader reader(*tokenizer_, std::move(found.parsed), {data::parse_loss_on(options_.loss_on), options_.template_time, found.problem});
  tokens_.emplace(data::tokenize_records(documents, *tokenizer_, reader, options_.objective == "dpo", load));
}

void TrainingRun::prepare_tokenizer(const data::Documents& documents) {
  if (base_ != nullptr) return;
  if (resumed_ != nullptr) {
    tokenizer_ = tokenizers::Tokenizer::from_json(resumed_->state().tokenizer, "tokenizer in " + checkpoint_path_);
  } else if (options_.tokenizer == "byte") {
    tokenizer_ = tokenizers::Tokenizer::bytes();
  } else {
    learn_tokenizer(documents);
  }
  config_ = model_config(options_, tokenizer_->vocab_size(), tokenizer_->end_of_text());
  if (tokenizer_->vocab_size() > options_.vocab_size)
    throw core::Error("model_invalid", checkpoint_path_ + ": its tokenizer has more tokens than vocab_size", "", "Resume from a checkpoint that this run wrote.");
}

void TrainingRun::learn_tokenizer(const data::Documents& documents) {
  observer_.task("train_tokenizer", "started");
  // The held-out documents are not looked at, or the evaluation would know its own words.
  const std::vector<bool> is_held_out = data::choose_held_out(documents.size(), options_.held_out_fraction, options_.seed);
  std::vector<std::string_view> texts;
  documents.for_each([&](std::size_t index, std::string_view text) {
    if (!is_held_out[index]) texts.push_back(text);
  });
  if (documents.size() == 1) texts[0] = texts[0].substr(0, static_cast<std::size_t>((1.0 - options_.held_out_fraction) * static_cast<double>(texts[0].size())));
  tokenizers::BpeTrainingOptions bpe;
  bpe.vocab_size = options_.vocab_size;
  bpe.keep_alive = [this] { poll(); };
  tokenizer_ = tokenizers::train_bpe(texts, bpe);
  observer_.task("train_tokenizer", "done");
}

void TrainingRun::prepare_model() {
  observer_.task("build_model", "started");
  tuning_ = tuning_of(options_);
  const MemoryPlan plan = plan_model(options_, config_, compute_, backend_);
  observer_.plan(plan);
  check_fits(options_, plan, backend_);
  result_.parameters = plan.parameters;
  const graph::Graph graph = models::build_model(config_, tuning_, compute_, options_.batch_size, options_.context);
  store_ = std::make_unique<graph::ParameterStore>(graph, backend_, graph::Mode::Train, gradients_of(options_));
  executor_ = std::make_unique<graph::Executor>(graph, *store_, graph::Mode::Train, recompute_of(plan), gradients_of(options_));
  optimizer_ = std::make_unique<Optimizer>(*store_, optimizer_of(options_));
  if (base_ != nullptr) models::load_weights(*base_, tuning_, options_.seed, *store_, [this] { poll(); });
  else if (resumed_ == nullptr) models::draw_weights(config_, options_.seed, *store_, [this] { poll(); });
  if (resumed_ != nullptr) resume();
  else begin_anew();
  is_ready_ = true;
  observer_.task("build_model", "done");
}

void TrainingRun::begin_anew() {
  objective_->begin(*executor_, [this] { poll(); });
  state_.cursor = objective_->cursor();
  state_.notes = objective_->notes();
  // A base model brings its own, each time.
  if (base_ == nullptr) state_.tokenizer = tokenizer_->to_json();
}

void TrainingRun::resume() {
  resumed_->load(*store_, *optimizer_);
  state_ = resumed_->state();
  const std::uint64_t most = static_cast<std::uint64_t>(state_.step) * tokens_of_a_step();
  if (state_.step > steps_ || state_.tokens > most || (base_ == nullptr && options_.steps > 0 && state_.tokens != most))
    throw core::Error("model_invalid", checkpoint_path_ + ": says " + std::to_string(state_.step) + " steps and " + std::to_string(state_.tokens) + " tokens of a run of " +
                      std::to_string(steps_) + " steps of " + std::to_string(tokens_of_a_step()), "", "Resume from a checkpoint that this run wrote.");
  objective_->restore(state_.cursor);
  objective_->restore_notes(state_.notes);
  // It may have left after the evaluation that ended its training.
  result_.stopped_early = has_stopped_gaining();
  resumed_.reset();
}

}  // namespace pgtrain::engine::train
