// Measures a model, see evaluation.hpp.
#include "engine/train/evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "engine/core/error.hpp"
#include "engine/data/load.hpp"
#include "engine/io/file.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/objective_kinds.hpp"

namespace pgtrain::engine::train {
namespace {

data::RecordReader reader_of(const OpenModel& model, const TrainingOptions& options) {
  FoundTemplate found = find_chat_template(model.chat_template, "");
  return data::RecordReader(model.tokenizer, std::move(found.parsed), {data::parse_loss_on(options.loss_on), options.template_time, found.problem});
}

// Of each sequence of the store; not a number for pairs that are left out.
std::vector<double> all_log_probabilities(const OpenModel& model, const data::TokenStore& store, const data::PairOptions& options, const std::function<void()>& poll) {
  std::vector<double> out(store.size(), std::numeric_limits<double>::quiet_NaN());
  graph::Executor executor(model.graph, *model.store, graph::Mode::Evaluate);
  data::PairStream stream(store, options);
  data::PairBatch batch;
  std::vector<float> losses;
  while (stream.next(batch)) {
    poll();
    set_inputs(executor, batch);
    executor.forward();
    const std::vector<double> found = log_probabilities(executor, batch, losses);
    for (std::size_t k = 0; k < found.size(); ++k) out[2 * batch.pairs[k / 2] + k % 2] = found[k];
  }
  return out;
}

void require_number(double loss) {
  if (std::isfinite(loss)) return;
  throw core::Error("model_invalid", "the model's loss on these samples is not a number", "", "Its weights are damaged or have diverged in training; use another model.");
}

}  // namespace

Evaluation evaluate(const ModelFiles& files, const TrainingOptions& options, bool are_records, const std::string& documents_path, const std::string& work_folder,
                    backend::Backend& backend, const std::function<void()>& poll) {
  const io::MappedFile file(documents_path);
  const data::Documents documents(file.bytes(), poll);
  const OpenModel model = open_model(files, options.chat_template, options.precision, options.batch_size, options.context, backend, poll);
  const data::LoadOptions load{0, options.seed, work_folder, poll};
  const data::SplitTokens tokens = are_records ? data::tokenize_records(documents, model.tokenizer, reader_of(model, options), false, load) : data::tokenize_texts(documents, model.tokenizer, load);
  graph::Executor executor(model.graph, *model.store, graph::Mode::Evaluate);
  data::EvaluationStream stream(tokens.training, options.batch_size, static_cast<int>(model.length), data::parse_long_samples(options.long_samples));
  Evaluation found = measure(executor, stream, UINT64_MAX, poll);
  if (found.tokens == 0) throw core::Error("data_invalid", "the samples hold nothing that is learned", "", "Give samples with answers, or evaluate a run with loss_on => all.");
  require_number(found.loss);
  found.samples = documents.size();
  return found;
}

PreferenceEvaluation evaluate_preferences(const ModelFiles& files, const TrainingOptions& options, const std::string& documents_path, const std::string& work_folder,
                                          backend::Backend& backend, const std::function<void()>& poll) {
  if (files.base_folder.empty())
    throw core::Error("config_invalid", "preferences are measured against a base model, and there is none", "", "Evaluate a model that was tuned from one, or give another kind of samples.");
  const io::MappedFile file(documents_path);
  const data::Documents documents(file.bytes(), poll);
  // A pair of which each side fills a row needs two.
  const int rows = std::max(2, options.batch_size);
  const auto open = [&](const ModelFiles& which) { return open_model(which, options.chat_template, options.precision, rows, options.context, backend, poll); };
  std::optional<data::SplitTokens> tokens;
  data::PairOptions pairs;
  std::vector<double> reference;
  {
    const OpenModel base = open({"", files.base_folder});
    tokens.emplace(data::tokenize_records(documents, base.tokenizer, reader_of(base, options), true, {0, options.seed, work_folder, poll}));
    pairs = {rows, static_cast<int>(base.length), options.seed, options.long_samples == "error" ? data::LongSamples::Error : data::LongSamples::Truncate, 1, true};
    (void)data::fit_pairs(tokens->training, pairs);
    reference = all_log_probabilities(base, tokens->training, pairs, poll);
  }
  // The base is let go before the other is read.
  const bool is_base = files.folder.empty() && files.checkpoint.empty();
  const std::vector<double> own = is_base ? reference : all_log_probabilities(open(files), tokens->training, pairs, poll);
  PreferenceEvaluation found;
  for (std::size_t chosen = 0; chosen + 1 < own.size(); chosen += 2) {
    if (std::isnan(reference[chosen])) continue;  // no place in the context
    const double margin = options.dpo_beta * ((own[chosen] - reference[chosen]) - (own[chosen + 1] - reference[chosen + 1]));
    add_margin(margin, found.loss, found.accuracy);
    found.margin += margin;
    found.chosen_likelier += own[chosen] > own[chosen + 1] ? 1 : 0;
    ++found.tokens;
  }
  const auto count = static_cast<double>(found.tokens);
  require_number(found.loss / count);
  found.loss /= count, found.accuracy /= count, found.margin /= count, found.chosen_likelier /= count;
  found.samples = found.tokens;
  return found;
}

}  // namespace pgtrain::engine::train
