// Opens the model and writes, see generation.hpp.
#include "engine/train/generation.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/io/file.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/base_model.hpp"
#include "engine/train/model_tokenizer.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::size_t kMostAtOnce = 8;  // sequences; more would need their caches' memory and gain little on a CPU
constexpr std::int64_t kRowsAtOnce = 128;

// fp32 for weights that are stored so; what is stored in less is computed in bf16 where the device has products of it.
core::DType choose_type(const GenerateOptions& options, const models::ModelConfig& config, const backend::Backend& backend) {
  if (options.precision == "fp32") return core::DType::F32;
  if (options.precision == "bf16") return core::DType::Bf16;
  if (options.precision != "auto") throw core::Error("config_invalid", "precision: only auto, fp32 and bf16 are known");
  return config.stored_type == "float32" ? core::DType::F32 : backend.info().best_dtype;
}

// The folder of the weights that everything else lies on.
const std::string& model_folder(const ModelFiles& files, bool is_adapter) {
  if (!is_adapter) return files.folder.empty() ? files.base_folder : files.folder;
  if (files.base_folder.empty())
    throw core::Error("model_invalid", files.folder + ": holds an adapter, and no base model is given", "", "Give the model that the adapter was trained on.");
  return files.base_folder;
}

}  // namespace

std::vector<GenerateResult> generate(const ModelFiles& files, const std::vector<std::string>& prompts, const GenerateOptions& options, backend::Backend& backend,
                                     const std::function<bool()>& stop, const PieceObserver& observer) {
  check_generate_options(options);
  const bool is_adapter = !files.folder.empty() && io::file_exists(files.folder + "/" + kAdapterConfigFile);
  const auto source = open_base(model_folder(files, is_adapter));
  const models::ModelConfig& config = source->config();
  const tokenizers::Tokenizer tokenizer = open_tokenizer(*source);
  const auto chat_template = options.is_chat ? open_chat_template(*source, options.chat_template) : std::nullopt;
  std::vector<std::vector<std::int32_t>> encoded;
  std::size_t longest = 0;
  for (const std::string& prompt : prompts) {
    encoded.push_back(encode_prompt(prompt, options, config, tokenizer, chat_template));
    longest = std::max(longest, encoded.back().size());
  }
  if (prompts.empty()) return {};

  models::Tuning tuning;
  tuning.is_frozen = true;
  std::optional<AdapterFolder> adapter;
  if (is_adapter) tuning.adapters = adapter.emplace(files.folder, config).options();
  const graph::Graph graph = models::build_model(config, tuning, choose_type(options, config, backend), 1, 1);
  graph::ParameterStore store(graph, backend, graph::Mode::Evaluate);
  bool is_stopped = false;
  models::load_weights(*source, tuning, 0, store, [&] { is_stopped = is_stopped || (stop && stop()); });
  if (adapter) adapter->load(store);
  const auto sequences = static_cast<std::int64_t>(std::min(prompts.size(), kMostAtOnce));
  models::Decoder decoder(config, tuning, store, {.sequences = sequences, .positions = static_cast<std::int64_t>(longest) + options.max_tokens, .rows = kRowsAtOnce});
  const auto stop_since_then = [&] { return is_stopped || (stop && stop()); };
  return write_texts(decoder, sequences, config, tokenizer, std::move(encoded), options, stop_since_then, observer);
}

}  // namespace pgtrain::engine::train
