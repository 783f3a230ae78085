// Opens, writes, checks; see export_model.hpp.
#include "engine/train/export_model.hpp"

#include <algorithm>

#include "engine/train/model_tokenizer.hpp"

namespace pgtrain::engine::train {
namespace {

// Room for what has trained: the exports read the rest from the base model's files.
graph::Graph graph_of_trained(const models::ModelConfig& config, const models::Tuning& tuning) {
  graph::Graph graph = models::build_model(config, tuning, core::DType::F32, 1, 1);
  std::erase_if(graph.parameters, [](const graph::Parameter& parameter) { return !parameter.trains; });
  return graph;
}

std::vector<Artifact> write_and_check(ExportRequest request, const std::vector<ExportKind>& kinds, const std::string& stored_precision, const std::string& adapter_precision,
                                      const std::function<void()>& poll) {
  request.stored_precision = stored_precision, request.adapter_precision = adapter_precision;
  request.kinds = kinds;
  request.poll = poll;
  std::vector<Artifact> written = write_exports(request);
  check_exports(request);
  return written;
}

std::vector<Artifact> export_checkpoint(const ModelFiles& files, const std::vector<ExportKind>& kinds, const std::string& stored_precision, const std::string& adapter_precision, const std::string& folder,
                                        backend::Backend& backend, const std::function<void()>& poll) {
  const FoundCheckpoint found = find_checkpoint(files, files.trained_with.chat_template);
  models::Tuning tuning;
  tuning.is_frozen = found.adapters.has_value();
  tuning.adapters = found.adapters;
  graph::ParameterStore store(graph_of_trained(found.config, tuning), backend, graph::Mode::Evaluate);
  found.reader->load_weights(store, false, poll);
  ExportRequest request{.folder = folder, .config = found.config, .tuning = tuning, .base = found.base.get(), .store = store, .tokenizer = found.tokenizer};
  request.chat_template = found.chat_template;
  request.base_name = files.trained_with.base_name;
  return write_and_check(std::move(request), kinds, stored_precision, adapter_precision, poll);
}

}  // namespace

std::vector<Artifact> export_model(const ModelFiles& files, const std::vector<ExportKind>& kinds, const std::string& stored_precision, const std::string& adapter_precision, const std::string& folder,
                                   backend::Backend& backend, const std::function<void()>& poll) {
  if (!files.checkpoint.empty()) return export_checkpoint(files, kinds, stored_precision, adapter_precision, folder, backend, poll);
  const FoundModel found = find_model(files, "");
  graph::ParameterStore store(graph_of_trained(found.source->config(), found.tuning), backend, graph::Mode::Evaluate);
  if (found.adapter) found.adapter->load(store);
  const tokenizers::Tokenizer tokenizer = open_tokenizer(*found.source);
  ExportRequest request{.folder = folder, .config = found.source->config(), .tuning = found.tuning, .base = found.source.get(), .store = store, .tokenizer = tokenizer};
  request.chat_template = found.chat_template;
  if (found.adapter) request.base_name = found.adapter->base_name();
  return write_and_check(std::move(request), kinds, stored_precision, adapter_precision, poll);
}

}  // namespace pgtrain::engine::train
