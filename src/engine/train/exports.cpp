// Chooses formats, writes and checks them.
#include "engine/train/exports.hpp"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/export_parts.hpp"

namespace pgtrain::engine::train {
namespace {

struct KindRow {
  ExportKind kind;
  const char *name, *gguf_file;
};
constexpr KindRow kKinds[] = {{ExportKind::Peft, "peft", nullptr},
                              {ExportKind::Merged, "merged", nullptr},
                              {ExportKind::GgufF16, "gguf_f16", "model-f16.gguf"},
                              {ExportKind::GgufQ8_0, "gguf_q8_0", "model-q8_0.gguf"},
                              {ExportKind::GgufQ4_K, "gguf_q4_k", "model-q4_k.gguf"}};

bool has(const ExportRequest& request, ExportKind kind) {
  return std::find(request.kinds.begin(), request.kinds.end(), kind) != request.kinds.end();
}

io::StoredType adapter_type(const ExportRequest& request) {
  const std::string& precision = request.adapter_precision;
  return precision == "bf16" ? io::StoredType::BF16 : precision == "fp16" ? io::StoredType::F16 : io::StoredType::F32;
}

}  // namespace

std::vector<ExportKind> parse_exports(std::string_view list) {
  std::string names;
  for (const KindRow& row : kKinds) names += (names.empty() ? "" : ", ") + std::string(row.name);
  std::vector<bool> is_wanted(std::size(kKinds), false);
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    std::string_view name = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
    while (!name.empty() && name.back() == ' ') name.remove_suffix(1);
    const auto found = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const KindRow& row) { return name == row.name; });
    if (found == std::end(kKinds))
      throw core::Error("config_invalid", "exports: \"" + core::printable(name) + "\" is not known", "",
                        "Choose of " + names + ", with commas between.");
    is_wanted[static_cast<std::size_t>(found - std::begin(kKinds))] = true;
  }
  std::vector<ExportKind> out;
  for (const KindRow& row : kKinds)
    if (is_wanted[static_cast<std::size_t>(&row - kKinds)]) out.push_back(row.kind);
  return out;
}

const char* gguf_file_name(ExportKind kind) { return kKinds[static_cast<int>(kind)].gguf_file; }

void fail_export_check(const std::string& path, const std::string& reason) {
  throw core::Error("io_error", "the written file \"" + path + "\" does not read back as what was trained: " + reason, "",
                    "Check the device that holds this folder, then retry the run.");
}

std::vector<Artifact> write_exports(const ExportRequest& request) {
  std::vector<Artifact> out;
  if (has(request, ExportKind::Peft)) {
    if (!request.tuning.adapters)
      throw core::Error("config_invalid", "exports: peft needs an adapter, and the whole model was trained", "",
                        "Choose merged or a gguf format, or train with method => lora.");
    out = write_adapter(request.folder, request.config, *request.tuning.adapters, request.base_name, request.store, adapter_type(request));
  }
  const MergedWeights weights(request.config, request.tuning, request.base, request.store);
  if (has(request, ExportKind::Merged)) write_merged(request, weights, out);
  for (const ExportKind kind : request.kinds)
    if (gguf_file_name(kind) != nullptr) write_gguf(request, weights, kind, out);
  if (has(request, ExportKind::Peft) || has(request, ExportKind::Merged)) write_tokenizer(request, out);
  return out;
}

void check_exports(const ExportRequest& request) {
  if (has(request, ExportKind::Peft)) check_adapter(request);
  const MergedWeights weights(request.config, request.tuning, request.base, request.store);
  if (has(request, ExportKind::Merged)) check_merged(request, weights);
  for (const ExportKind kind : request.kinds)
    if (gguf_file_name(kind) != nullptr) check_gguf(request, weights, kind);
  if (has(request, ExportKind::Peft) || has(request, ExportKind::Merged)) check_tokenizer(request);
}

// The reader knows every name of the file and misses none; then all that trained is in it, bit for bit as the file's type rounds it.
void check_adapter(const ExportRequest& request) {
  const std::string path = request.folder + "/" + kAdapterFile;
  const models::AdapterOptions& wanted = *request.tuning.adapters;
  const AdapterFolder folder(request.folder, request.config);
  const models::AdapterOptions& found = folder.options();
  const auto specs = models::adapter_specs(request.config, wanted), read = models::adapter_specs(request.config, found);
  const bool are_same = std::equal(specs.begin(), specs.end(), read.begin(), read.end(), [](const models::AdapterSpec& a, const models::AdapterSpec& b) {
    return a.module == b.module && a.rank == b.rank && a.scale == b.scale;
  });
  if (!are_same || found.dropout != wanted.dropout ||
      found.is_rank_stabilised != wanted.is_rank_stabilised || found.is_weight_decomposed != wanted.is_weight_decomposed ||
      found.modules_to_save != wanted.modules_to_save || folder.base_name() != request.base_name)
    fail_export_check(request.folder + "/" + kAdapterConfigFile, "a field differs");
  std::size_t expected = 0;
  const io::StoredType type = adapter_type(request);
  std::vector<float> trained;
  folder.visit([&](const std::string& name, const std::vector<float>& values) {
    poll_export(request);
    const auto& parameters = request.store.parameters();
    const auto parameter =
        std::find_if(parameters.begin(), parameters.end(), [&](const graph::Parameter& one) { return one.name == name; });
    if (parameter == parameters.end() || parameter->count != static_cast<std::int64_t>(values.size()))
      fail_export_check(path, name + " did not train");
    trained.resize(values.size());
    request.store.download_weight(*parameter, 0, parameter->count, trained.data());
    std::string bytes(values.size() * io::stored_type_bytes(type), '\0'), found_bytes(bytes);
    store_values(type, trained.data(), trained.size(), name, "adapter_precision", bytes.data());
    store_values(type, values.data(), values.size(), name, "adapter_precision", found_bytes.data());
    if (bytes != found_bytes) fail_export_check(path, name + " differs");
    ++expected;
  });
  if (expected != request.store.parameters().size()) fail_export_check(path, "something that trained is missing");
}

}  // namespace pgtrain::engine::train
