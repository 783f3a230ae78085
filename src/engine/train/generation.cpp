// Opens the model and writes, see generation.hpp.
#include "engine/train/generation.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
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

}  // namespace

std::vector<GenerateResult> generate(const ModelFiles& files, const std::vector<std::string>& prompts, const GenerateOptions& options, backend::Backend& backend,
                                     const std::function<bool()>& stop, const PieceObserver& observer) {
  check_generate_options(options);
  const auto source = open_base(files.folder.empty() ? files.base_folder : files.folder);
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
  const graph::Graph graph = models::build_model(config, tuning, choose_type(options, config, backend), 1, 1);
  graph::ParameterStore store(graph, backend, graph::Mode::Evaluate);
  models::load_weights(*source, tuning, 0, store, [&] {
    if (stop) (void)stop();
  });
  const auto sequences = static_cast<std::int64_t>(std::min(prompts.size(), kMostAtOnce));
  models::Decoder decoder(config, tuning, store, {.sequences = sequences, .positions = static_cast<std::int64_t>(longest) + options.max_tokens, .rows = kRowsAtOnce});
  return write_texts(decoder, sequences, config, tokenizer, std::move(encoded), options, stop, observer);
}

}  // namespace pgtrain::engine::train
