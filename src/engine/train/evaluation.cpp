// Measures a model, see evaluation.hpp.
#include "engine/train/evaluation.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/data/load.hpp"
#include "engine/io/file.hpp"
#include "engine/train/objective_kinds.hpp"

namespace pgtrain::engine::train {

Evaluation evaluate(const ModelFiles& files, const TrainingOptions& options, bool are_records, const std::string& documents_path, const std::string& work_folder,
                    backend::Backend& backend, const std::function<void()>& poll) {
  const io::MappedFile file(documents_path);
  const data::Documents documents(file.bytes(), poll);
  const OpenModel model = open_model(files, options.chat_template, options.precision, options.batch_size, options.context, backend, poll);
  const data::LoadOptions load{0, options.seed, work_folder, poll};
  std::optional<templates::ChatTemplate> chat_template;
  if (are_records && !model.chat_template.empty()) chat_template = templates::ChatTemplate::parse(model.chat_template, "the model's chat template");
  const data::SplitTokens tokens =
      are_records ? data::tokenize_records(documents, model.tokenizer, data::RecordReader(model.tokenizer, std::move(chat_template), {data::parse_loss_on(options.loss_on), options.template_time}), false, load)
                  : data::tokenize_texts(documents, model.tokenizer, load);
  graph::Executor executor(model.graph, *model.store, graph::Mode::Evaluate);
  data::EvaluationStream stream(tokens.training, options.batch_size, static_cast<int>(model.length), data::parse_long_samples(options.long_samples));
  Evaluation found = measure(executor, stream, UINT64_MAX, poll);
  if (found.tokens == 0) throw core::Error("data_invalid", "the samples hold nothing that is learned", "", "Give samples with answers, or evaluate a run with loss_on => all.");
  found.samples = documents.size();
  return found;
}

}  // namespace pgtrain::engine::train
